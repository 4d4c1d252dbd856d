"""Responses that are there already: matched by their instruction, no request and no record lost, without Ray."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from ray_distil import stages
from ray_distil.config import load
from ray_distil.config.models import resolve_models
from ray_distil.errors import UserError
from ray_distil.generate.question import Question
from ray_distil.problems import collecting
from ray_distil.runner.runs import Run
from ray_distil.stages import asking, imports, responses
from ray_distil.store.artifact import Artifact
from ray_distil.store.schemas import stable_id

PROBLEMS = [
    {"instruction_id": f"i{k}", "instruction": f"{k}  + 1?", "reference_answer": str(k + 1), "split": "train"}
    for k in range(4)
] + [{"instruction_id": "e", "instruction": "held out?", "reference_answer": "1", "split": "eval"}]


def match(records: list[Any], num_samples: int = 1, fraction: float = 1.0) -> tuple[list[dict[str, Any]], Counter[str]]:
    counts: Counter[str] = Counter()
    asked = [
        row for row in PROBLEMS if row["split"] == "train" and asking.is_asked(row["instruction_id"], "slow", fraction)
    ]
    return list(imports.matched(imports.by_text(asked), records, "slow", num_samples, counts)), counts


def answer(k: int, text: str = "\\boxed{1}", **others: Any) -> dict[str, Any]:
    return {"instruction": f"{k} + 1?", "output": text, **others}


@pytest.mark.parametrize("at_once", [1, 2, 200])
def test_each_request_is_answered_or_rejected_and_each_record_counted(
    at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(imports, "RECORDS_AT_ONCE", at_once)
    monkeypatch.setattr(imports, "ROWS_AT_ONCE", at_once)
    records = [answer(1, "first"), answer(0), answer(1, "second"), answer(1, "third"), answer(9), "text", {}]
    records += [{"instruction": "held out?", "output": "1"}, answer(2, teacher="direct"), answer(3, "a\ud800")]
    rows, counts = match(records, num_samples=2)
    assert [(r["instruction_id"], r["sample_index"], r.get("reject_reason")) for r in rows] == [
        ("i1", 0, None),
        ("i0", 0, None),
        ("i1", 1, None),
        ("i0", 1, "no_response"),
        *((f"i{k}", sample, "no_response") for k in (2, 3) for sample in (0, 1)),
    ]
    assert [r["response"] for r in rows if r["instruction_id"] == "i1"] == ["first", "second"]
    assert rows[3]["reject_detail"] == "1 of 2 responses to this instruction are there"
    assert counts == {"matched": 3, "unused": 4, "bad_record": 2, "not_unicode": 1}
    assert counts.total() == len(records)
    ids = responses.requests(PROBLEMS[1], "slow", Question({}, num_samples=2))
    assert [r["response_id"] for r in rows if r["instruction_id"] == "i1"] == [r["id"] for r in ids]


def test_only_the_share_that_a_teacher_is_asked_is_imported() -> None:
    asked = [p["instruction_id"] for p in PROBLEMS[:4] if asking.is_asked(p["instruction_id"], "slow", 0.5)]
    rows, counts = match([answer(k) for k in range(4)], fraction=0.5)
    assert 0 < len(asked) < 4
    assert [r["instruction_id"] for r in rows] == asked
    assert counts == {"matched": len(asked), "unused": 4 - len(asked)}


@pytest.mark.parametrize(
    ("record", "finish_reason"),
    [
        (answer(0), "stop"),
        (answer(0, "<think>\n1\n</think>\n\n\\boxed{1}"), "stop"),
        (answer(0, "<think>\n1 and"), "length"),
        (answer(0, "", reasoning_content="1 and"), "length"),
        (answer(0, finish_reason="length"), "length"),
    ],
)
def test_how_a_response_ended(record: dict[str, Any], finish_reason: str) -> None:
    rows, _ = match([record])
    assert rows[0]["finish_reason"] == finish_reason


def test_a_row_says_that_it_was_imported() -> None:
    row = match([answer(0, "\\boxed{1}", reasoning_content="0 and 1")])[0][0]
    assert (row["reasoning"], row["answer"], row["reference_answer"]) == ("0 and 1", "1", "1")
    assert (row["model"], row["sampling_params"], row["instruction"]) == ("imported", "{}", "0  + 1?")
    assert row.get("num_generated_tokens") is None


def make(tmp_path: Path, *overrides: str) -> Artifact:
    """The responses of a run whose only teacher is imported; Ray may not start."""
    common = [f"run.storage_path={tmp_path}", f"instructions.path={tmp_path}/problems.csv", "teachers.direct=null"]
    common += [
        f"teachers.slow={{responses: {tmp_path}/r.jsonl, columns: {{output: text}}}}",
        "long2short.enabled=false",
    ]
    config = load(None, [*common, *overrides])
    run = Run(config, resolve_models(config))
    problems = stages.make_instructions(run, collecting.collect(config.instructions, 0))
    return stages.make_responses(run, problems)


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    def refuse(*_: object) -> None:
        raise AssertionError("Ray was started")

    monkeypatch.setattr(Run, "start_ray", refuse)
    (tmp_path / "problems.csv").write_text("instruction,answer\n" + "".join(f"{k} + 1?,{k + 1}\n" for k in range(20)))
    records = [{"instruction": f"{k} + 1?", "text": f"\\boxed{{{k + 1}}}"} for k in range(15)]
    (tmp_path / "r.jsonl").write_text("".join(json.dumps(record) + "\n" for record in [*records, {}]))
    return tmp_path


def test_a_stage_of_imported_responses_is_whole_without_ray(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = make(files)
    manifest = made.manifest()
    assert manifest is not None
    num_unused = 15 - manifest.rows_out
    assert manifest.rows_in == 18
    assert manifest.rejects == {"no_response": 18 - manifest.rows_out}
    assert manifest.summary == {"num_unused_records": num_unused, "bad_records": {"bad_record": 1}}
    said = capsys.readouterr().out
    assert f"teachers.slow.responses: {manifest.rows_out} records used; not used: bad_record 1" in said
    assert make(files).fingerprint == made.fingerprint
    with (files / "r.jsonl").open("a") as file:
        file.write(json.dumps({"instruction": "19 + 1?", "text": "20"}) + "\n")
    assert make(files).fingerprint != made.fingerprint


def test_a_stopped_import_goes_on(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(responses, "IMPORTED_ROWS", 4)
    write_table, written = Artifact.write_table, []

    def stop_at_the_third(self: Artifact, *arguments: Any) -> None:
        if self.name == "responses":
            written.append(arguments[0].num_rows)
            if len(written) == 3:
                raise RuntimeError("killed")
        write_table(self, *arguments)

    monkeypatch.setattr(Artifact, "write_table", stop_at_the_third)
    with pytest.raises(RuntimeError, match="killed"):
        make(files)
    assert written == [4, 4, 4]
    manifest = make(files).manifest()
    assert manifest is not None
    assert manifest.rows_in == 18
    assert written[3:] == [0, 0, 4, 4, 2]  # eight rows are there already


def test_a_file_of_other_problems_and_one_that_is_not_there_are_refused(files: Path) -> None:
    (files / "r.jsonl").write_text('{"instruction": "What?", "text": "1"}')
    with pytest.raises(UserError, match="teachers.slow.responses: .* has no response to any training instruction"):
        make(files)
    with pytest.raises(UserError, match="teachers.slow.columns.output: no record of .* has 'txt'; did you mean 'text'"):
        make(files, "teachers.slow.columns={output: txt}")
    (files / "r.jsonl").unlink()
    with pytest.raises(UserError, match="teachers.slow.responses: there is no file"):
        make(files)


def test_an_imported_row_has_the_id_of_its_text_wherever_its_file_lies() -> None:
    records = [{"instruction": f"{k}?", "output": str(k)} for k in (1, 2, 3, 2)]
    first = imports.imported_ids(records, "a.json", by_source=False)
    assert len({row_id for row_id, _ in first}) == 4
    assert [number for _, number in first] == [0, 0, 0, 1]
    assert imports.imported_ids(records, "b.json", by_source=False) == first
    assert sorted(imports.imported_ids(records[::-1], "b.json", by_source=False)) == sorted(first)
    before = imports.imported_ids(records, "a.json", by_source=True)
    assert before == [(stable_id("imported", "a.json", k), k) for k in (1, 2, 3, 4)]
