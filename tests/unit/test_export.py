"""Export: an artifact's accepted rows as records, in a file that is whole or not there."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from ray_distil.commands.export import export, write_records
from ray_distil.errors import UserError
from ray_distil.store.artifact import Artifact
from ray_distil.store.schemas import ARTIFACTS, stable_id
from ray_distil.store.shards import reject, table_of
from ray_distil.store.storage import Folder

SCHEMAS = {name: kind.schema for name, kind in ARTIFACTS.items() if kind.schema is not None}


def make(run: Folder, name: str, rows: list[dict[str, Any]], whole: bool = True) -> None:
    """An artifact of these rows, a shard each, and of one that is rejected."""
    blank = {
        f.name: 1 if pa.types.is_integer(f.type) else 1.0 if f.type == pa.float64() else "x" for f in SCHEMAS[name]
    }
    artifact = Artifact(run, name, SCHEMAS[name], "f")
    artifact.start()
    key = SCHEMAS[name].names[0]
    for number, row in enumerate([*rows, reject({}, "no_use")]):
        artifact.write_table(table_of([blank | {key: stable_id(number)} | row], SCHEMAS[name]), "stage")
    if whole:
        artifact.finish("stage", "rows", len(rows) + 1, 0.0)


@pytest.fixture(params=["disk", "store"])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    folder = Folder.at(tmp_path / "run" if request.param == "disk" else f"mock://{tmp_path.name}/run")
    make(folder, "sft_examples", [{"prompt": f"{k} + 1?", "completion": f"ä\n{k + 1}"} for k in range(3)])
    make(folder, "responses", [{"instruction": "q", "response": "r", "teacher": "slow", "finish_reason": "length"}])
    make(folder, "rewrites", [], whole=False)
    return folder


def test_records_of_a_list_and_of_lines_are_the_same(run: Folder, tmp_path: Path) -> None:
    assert export(run, "sft_examples", tmp_path / "new" / "a.json") == 3
    records = json.loads((tmp_path / "new" / "a.json").read_text())
    assert sorted((r["instruction"], r["output"]) for r in records) == [(f"{k} + 1?", f"ä\n{k + 1}") for k in range(3)]
    export(run, "sft_examples", tmp_path / "a.jsonl")
    assert [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()] == records


def test_responses_say_who_answered_and_how_it_ended(run: Folder, tmp_path: Path) -> None:
    export(run, "responses", tmp_path / "a.json")
    assert json.loads((tmp_path / "a.json").read_text()) == [
        {"instruction": "q", "output": "r", "teacher": "slow", "finish_reason": "length"}
    ]


@pytest.mark.parametrize("artifact", ["rewrites", "checkpoint", "sft_example"])
def test_what_is_not_complete_is_refused(run: Folder, tmp_path: Path, artifact: str) -> None:
    with pytest.raises(UserError, match=f"--artifact: '{artifact}' of .* complete are sft_examples, responses"):
        export(run, artifact, tmp_path / "a.json")
    assert not (tmp_path / "a.json").exists()


def test_no_run_and_no_artifact_are_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no run folder"):
        export(Folder.at(tmp_path / "absent"), "responses", tmp_path / "a.json")
    with pytest.raises(UserError, match="none of sft_examples, responses, rewrites is complete"):
        export(Folder.at(tmp_path), "responses", tmp_path / "a.json")


def test_a_shard_that_is_gone_makes_an_artifact_incomplete(tmp_path: Path) -> None:
    make(Folder.at(tmp_path), "responses", [{}])
    next((tmp_path / "responses").glob("part-*")).unlink()
    with pytest.raises(UserError, match="'responses' of .* is not complete"):
        export(Folder.at(tmp_path), "responses", tmp_path / "a.json")


def test_a_write_that_breaks_leaves_what_was_there(tmp_path: Path) -> None:
    def records() -> Iterator[dict[str, Any]]:
        yield {"a": 1}
        raise RuntimeError("not now")

    (tmp_path / "a.json").write_text("before")
    with pytest.raises(RuntimeError, match="not now"):
        write_records(tmp_path / "a.json", records())
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]
    assert (tmp_path / "a.json").read_text() == "before"


@pytest.mark.parametrize(("name", "text"), [("a.json", "[]\n"), ("a.jsonl", "")])
def test_nothing_to_write_is_an_empty_file(tmp_path: Path, name: str, text: str) -> None:
    assert write_records(tmp_path / name, []) == 0
    assert (tmp_path / name).read_text() == text


def test_a_place_that_takes_no_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file" / "a.json", tmp_path):
        with pytest.raises(UserError, match="cannot write"):
            write_records(path, [{"a": 1}])
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


def test_an_empty_artifact_is_told_and_not_written(tmp_path: Path) -> None:
    run = Folder.at(tmp_path / "run")
    make(run, "sft_examples", [])
    with pytest.raises(UserError, match=r"sft_examples of .*run has no rows \(no_use 1\); nothing is written"):
        export(run, "sft_examples", tmp_path / "a.json")
    assert not (tmp_path / "a.json").exists()
