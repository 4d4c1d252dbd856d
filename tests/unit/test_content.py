"""The digest of an artifact's rows: it depends on what the rows are, not on their order, their shards or their making."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from ray_distil.store import content
from ray_distil.store.artifact import Artifact
from ray_distil.store.manifest import MANIFEST
from ray_distil.store.schemas import INSTRUCTIONS, PACKED, RESPONSES, stable_id
from ray_distil.store.shards import reject, table_of
from ray_distil.store.storage import Folder


def row(name: str, **changes: Any) -> dict[str, Any]:
    known = {"instruction": f"do {name}", "reference_answer": None, "source": "s", "split": "train"}
    return {"instruction_id": stable_id(name)} | known | changes


def made(folder: Path, *shards: list[dict[str, Any]], merged: bool = False, fingerprint: str = "f") -> str:
    """The content of an artifact that is written in these shards."""
    artifact = Artifact(Folder.at(folder), "instructions", INSTRUCTIONS, fingerprint)
    artifact.start()
    for rows in shards:
        artifact.write_table(table_of(rows, INSTRUCTIONS), "instructions")
    artifact.finish("instructions", "rows", sum(map(len, shards)), 1.0, max_shard_bytes=2**25 if merged else None)
    return artifact.content()


A, B, C = row("a"), row("b", reference_answer="7"), row("c")


def test_order_shards_merging_rejects_and_settings_do_not_count(tmp_path: Path) -> None:
    expected = made(tmp_path / "1", [A, B, C])
    assert len(expected) == 32
    assert made(tmp_path / "2", [C, A], [B]) == expected
    assert made(tmp_path / "3", [B], [A], [C], merged=True) == expected
    assert made(tmp_path / "4", [A, reject(row("d"), "timeout")], [B, C]) == expected
    assert made(tmp_path / "5", [A, B, C], fingerprint="g") == expected


@pytest.mark.parametrize(
    "rows",
    [
        [A, B],
        [A, B, row("c", instruction="do C")],
        [A, B, row("c", split="eval")],
        [row("a", reference_answer="7"), row("b"), C],  # the same values, in other rows
        [A, row("b", reference_answer=""), C],
        [row("a", reference_answer=""), B, C],  # empty is not absent
    ],
)
def test_another_row_is_another_content(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    assert made(tmp_path / "1", rows) != made(tmp_path / "2", [A, B, C])


def test_a_row_that_two_shards_have_counts_once(tmp_path: Path) -> None:
    artifact = Artifact(Folder.at(tmp_path / "1"), "instructions", INSTRUCTIONS, "f")
    artifact.start()
    for rows in ([A, B], [B, C]):
        artifact.write_table(table_of(rows, INSTRUCTIONS), "instructions")
    artifact.finish("instructions", "rows", 3, 1.0)
    assert artifact.content() == made(tmp_path / "2", [A, B, C])


def test_shards_of_an_earlier_version_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = made(tmp_path / "1", [A, B, C])
    monkeypatch.setattr(content, "KEY", b"unknown")
    old = Artifact(Folder.at(tmp_path / "2"), "instructions", INSTRUCTIONS, "f")
    old.start()
    old.write_table(table_of([A, B], INSTRUCTIONS), "instructions")
    old.write_table(table_of([C], INSTRUCTIONS), "instructions")
    monkeypatch.undo()
    old.finish("instructions", "rows", 3, 1.0)
    assert old.content() == expected


def test_a_manifest_of_an_earlier_version_keeps_its_mark(tmp_path: Path) -> None:
    made(tmp_path, [A, B, C])
    file = tmp_path / "instructions" / MANIFEST
    manifest = json.loads(file.read_text())
    del manifest["content"]
    file.write_text(json.dumps(manifest))
    assert Artifact(Folder.at(tmp_path), "instructions", INSTRUCTIONS, "f").content() == "f 3"


def test_how_a_text_was_made_does_not_count() -> None:
    known = {field.name: "x" if field.type == pa.string() else 1 for field in RESPONSES}

    def digest(**changes: Any) -> int:
        return content.digest(pa.Table.from_pylist([known | changes], schema=RESPONSES))

    assert digest(model="other", sampling_params="{}", num_prompt_tokens=None) == digest()
    for name in set(RESPONSES.names) - content.HOW - {"verdict", content.JUDGED_BY}:  # these follow from the others
        assert digest(**{name: "y" if known[name] == "x" else 2}) != digest(), name


def test_lists_of_numbers_are_compared_by_value_and_by_their_borders() -> None:
    def digest(ids: list[int], labels: list[int]) -> int:
        known = {"sequence_id": "0", "position_ids": [0], "lengths": [1], "example_ids": ["a"]}
        return content.digest(pa.Table.from_pylist([known | {"input_ids": ids, "labels": labels}], schema=PACKED))

    assert len({digest([1, 2], [3]), digest([1], [2, 3]), digest([1, 2, 3], []), digest([2, 1], [3])}) == 4
    two = [{"sequence_id": str(k), "input_ids": [k], "labels": [], "position_ids": [], "lengths": [], "example_ids": []}
           for k in range(2)]  # fmt: skip
    table = pa.Table.from_pylist(two, schema=PACKED)
    assert content.total(content.digest(table.slice(k, 1)) for k in range(2)) == content.digest(table)
