"""All problems of a run: in bounded memory, and row for row what lists of all of them would give."""

import io
import json
import random
import tempfile
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from ray_distil import stages
from ray_distil.config import load
from ray_distil.errors import UserError
from ray_distil.problems.collecting import instruction_row
from ray_distil.records import problems
from ray_distil.records.limits import Limit
from ray_distil.records.problem_facts import EVAL, NUM_SAMPLES, TRAIN, StoredProblems
from ray_distil.records.problems import Problems
from ray_distil.runner.runs import Run
from ray_distil.runtime.progress import Display
from ray_distil.store.schemas import normalised, stable_id
from ray_distil.store.shards import reject

Row = dict[str, Any]


def of_all(rows: list[Row], num_eval: int, limits: dict[str, int | None]) -> list[Row]:
    """The reference: each step over a list of all rows."""
    seen: dict[str, tuple[int, Row]] = {}
    marked = []
    for position, row in enumerate(rows, 1):
        text = normalised(row.get("instruction", ""))
        if text and text in seen:
            row_id = stable_id(row["instruction_id"], position)
            number, first = seen[text]
            is_of_part = (number - 1) // problems.ROWS_PER_SHARD == (position - 1) // problems.ROWS_PER_SHARD
            is_beside = (first["source"], first["split"]) == (row["source"], row["split"])
            place = f"record {first['position']}" + ("" if is_beside else f" of {first['source']}")
            same = place if is_of_part else first["instruction_id"]
            detail, answers = (
                f"record {row['position']}: same text as {same}",
                (first["reference_answer"], row["reference_answer"]),
            )
            is_other = is_of_part and None not in answers and answers[0] != answers[1]
            detail += f", with another answer ({answers[1]}, there {answers[0]})" if is_other else ""
            row = reject(row, "other_answer" if is_other else "duplicate", detail) | {"instruction_id": row_id}
        elif text:
            seen[text] = position, row
        marked.append(row)
    if not any(row["split"] == EVAL for row in rows):
        usable = [row for row in marked if "reject_reason" not in row]
        answered = [row for row in usable if row["reference_answer"] is not None]
        number = min(num_eval, max(1, len(usable) // 10), len(usable) - 1, max(1, len(answered) // 2 or len(usable)))
        chosen = sorted(row["instruction_id"] for row in answered or usable)[: max(0, number)]
        marked = [row | {"split": EVAL} if row["instruction_id"] in chosen else row for row in marked]
    for split, most in limits.items():
        kept = 0
        for k, row in enumerate(marked):
            if row["split"] == split and "reject_reason" not in row:
                kept += 1
                if most is not None and kept > most:
                    marked[k] = reject(row, "over_limit", f"num_{split} is {most}")
    return marked


def drawn(dice: random.Random, number: int, source: str, split: str, ids_by_source: bool) -> list[Row]:
    """Rows of records of which some are bad, some are there twice, and some have an answer."""
    answers = dice.choice([0.0, 0.1, 0.9])
    records: list[Any] = []
    for _ in range(number):
        text = dice.choice(["What is", "What  is", "Was ist"]) + f" {dice.randint(0, 2 * number)}?"
        answer = dice.randint(0, 9) if dice.random() < answers else None
        records.append(dice.choice([{"instruction": text, "answer": answer}] * 9 + [3, {"instruction": " "}]))
    return [instruction_row(record, source, split, k, ids_by_source) for k, record in enumerate(records, 1)]


@pytest.mark.parametrize("seed", range(40))
def test_rows_are_those_that_lists_of_all_rows_would_give(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    dice = random.Random(seed)
    monkeypatch.setattr(problems, "ROWS_PER_SHARD", dice.choice([1, 7, 100, 10_000]))
    labels = dice.choice([["a", "b"], ["a", "a"]])
    by_source = seed % 2 == 0
    held_out = drawn(dice, dice.choice([0, 0, 30]), labels[0], EVAL, by_source)
    rows = held_out + drawn(dice, dice.choice([0, 1, 12, 400]), labels[1], TRAIN, by_source)
    num_eval, limits = dice.choice([1, 5, 300]), {TRAIN: dice.choice([None, 20, 200]), EVAL: dice.choice([3, 300])}
    expected = of_all([dict(row) for row in rows], num_eval, limits)
    made = Problems(
        iter(rows),
        labels if by_source else [""],
        num_eval,
        {split: Limit(most, f"num_{split}") for split, most in limits.items()},
    )

    found = made.to_pylist()
    assert found == [{name: row.get(name) for name in found[0]} for row in expected]
    usable = [row for row in expected if "reject_reason" not in row]
    facts = made.facts
    assert (facts.num_rows, facts.num_usable) == (len(expected), len(usable))
    assert facts.num_answered == sum(row["reference_answer"] is not None for row in usable)
    assert facts.rejects.total() == len(expected) - len(usable)
    for reason in facts.rejects:
        assert facts.details[reason] == next(r["reject_detail"] for r in expected if r.get("reject_reason") == reason)
    for split in (TRAIN, EVAL):
        of_split = [row for row in usable if row["split"] == split]
        assert [i for ids in made.ids(split) for i in ids] == [row["instruction_id"] for row in of_split]
        assert made.samples[split] == [r["instruction"] for r in of_split[:: max(1, len(of_split) // 200)]]


def test_a_part_of_the_rows_is_in_memory_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(problems, "ROWS_PER_SHARD", 500)

    def rows() -> Iterator[Row]:
        for k in range(8_000):
            yield instruction_row({"instruction": f"{k:05d} " + "pens " * 100, "answer": k}, "a", TRAIN, k)

    tracemalloc.start()
    made = Problems(rows(), [""], 300, {TRAIN: Limit(None, "num_train")})
    assert sum(table.num_rows for table in made.tables()) == 8_000
    assert made.facts.usable == {TRAIN: 7_700, EVAL: 300}
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2 * 2**20  # all texts are 4 MB, and as rows of Python more


def test_a_full_disk_is_told_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    full = open("/dev/full", "r+b", buffering=0)  # noqa: SIM115
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **_: full)
    with full, pytest.raises(UserError, match="No space left on device.*set TMPDIR"):
        Problems([instruction_row({"instruction": "1?"}, "a", TRAIN, 1)], [""], 1, {})


def test_problems_that_a_run_has_written_are_not_read_from_their_source_again(tmp_path: Path) -> None:
    """Where the source has changed, they are."""
    source = tmp_path / "problems.jsonl"
    records = [{"instruction": f"{k} + 3?", "answer": k + 3 if k % 3 else None} for k in range(500)]
    source.write_text("".join(json.dumps(record) + "\n" for record in [*records, records[7], {"answer": 1}]))
    config = load(None, [f"instructions.path={source}", f"run.storage_path={tmp_path}", "instructions.num_eval=20"])
    run = Run(config, {}, Display(Console(file=io.StringIO())))
    collected = stages.read_problems(config)
    assert isinstance(collected, Problems)
    stages.make_instructions(run, collected)

    stored = stages.read_problems(config)
    assert isinstance(stored, StoredProblems)
    assert replace(stored.facts, details={}) == replace(collected.facts, details={})
    texts = {record["instruction"] for record in records}
    assert {split: len(some) for split, some in stored.samples.items()} == {TRAIN: NUM_SAMPLES, EVAL: 20}
    assert texts.issuperset(stored.samples[TRAIN] + stored.samples[EVAL])
    assert set(stored.samples[EVAL]) == set(collected.samples[EVAL])
    assert stages.make_instructions(run, stored).is_complete()

    source.write_text(json.dumps(records[0]) + "\n" + json.dumps(records[1]) + "\n")
    assert isinstance(stages.read_problems(config), Problems)


def test_written_problems_that_are_gone_meanwhile_are_read_again(tmp_path: Path) -> None:
    config = load(None, [f"run.storage_path={tmp_path}", "instructions.num_train=5", "instructions.num_eval=2"])
    run = Run(config, {}, Display(Console(file=io.StringIO())))
    stages.make_instructions(run, stages.read_problems(config))
    stored = stages.read_problems(config)
    (config.run_folder / "instructions").remove_all()
    assert stages.make_instructions(run, stored).count("instruction_id") == 7


def made_of_file(folder: Path, name: str, records: list[dict[str, Any]]) -> tuple[bool, dict[str, str]]:
    """(whether the run's problems were there already, instruction -> "id split") with the records in a file of this name."""
    source = folder / name
    source.write_text("".join(json.dumps(record) + "\n" for record in records))
    config = load(None, [f"instructions.path={source}", f"run.storage_path={folder}", "instructions.num_eval=20"])
    collected = stages.read_problems(config)
    made = stages.make_instructions(Run(config, {}, Display(Console(file=io.StringIO()))), collected)
    rows = made.read_table().to_pylist()
    return isinstance(collected, StoredProblems), {
        row["instruction"]: f"{row['instruction_id']} {row['split']}" for row in rows
    }


RECORDS = [{"instruction": f"{k} + 3?", "answer": k + 3} for k in range(300)]


def test_a_renamed_file_has_the_same_problems_and_holds_the_same_ones_out(tmp_path: Path) -> None:
    _, first = made_of_file(tmp_path, "a.jsonl", RECORDS)
    assert made_of_file(tmp_path, "b.jsonl", RECORDS) == (True, first)
    was_there, more = made_of_file(tmp_path, "c.jsonl", [*RECORDS, {"instruction": "7 - 2?", "answer": 5}])
    assert not was_there
    assert sum(more[text] != first[text] for text in first) <= 1, "at most one problem gives its held-out place away"


def test_a_run_of_an_earlier_version_keeps_the_ids_of_its_problems(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        for module in ("runner.id_rule", "stages.instructions"):
            patched.setattr(f"ray_distil.{module}.ids_by_source", lambda run, artifact: True)
        _, first = made_of_file(tmp_path, "a.jsonl", RECORDS)
    assert first["5 + 3?"].split()[0] == stable_id("5 + 3?", "a.jsonl")
    (tmp_path / "tiny" / "ids_by_source").unlink()  # no file of the earlier version
    assert made_of_file(tmp_path, "a.jsonl", RECORDS) == (True, first)
    was_there, more = made_of_file(tmp_path, "a.jsonl", [*RECORDS, {"instruction": "7 - 2?", "answer": 5}])
    assert not was_there
    assert {text: ids.split()[0] for text, ids in more.items() if text in first} == {
        text: ids.split()[0] for text, ids in first.items()
    }
    assert more["7 - 2?"].split()[0] == stable_id("7 - 2?", "a.jsonl")
    # A kill between the move of the old problems and the first file of the new ones.
    (tmp_path / "tiny" / "instructions").rename(tmp_path / "moved")
    assert made_of_file(tmp_path, "a.jsonl", RECORDS)[1] == first
    (tmp_path / "new").mkdir()
    assert made_of_file(tmp_path / "new", "a.jsonl", RECORDS)[1]["5 + 3?"].split()[0] == stable_id("5 + 3?")


def test_one_question_with_two_answers_is_told_from_a_duplicate() -> None:
    records = [{"instruction": f"{k} + 1?", "answer": str(k + 1)} for k in range(20)]
    records += [
        {"instruction": "3 + 1?", "answer": "56"},
        {"instruction": "4 + 1?", "answer": "5"},
        {"instruction": "5 + 1?"},
    ]
    rows = [instruction_row(record, "p", TRAIN, k) for k, record in enumerate(records, 1)]
    problems = Problems(rows, [""], 2, {})
    assert problems.facts.rejects == {"other_answer": 1, "duplicate": 2}
    assert problems.facts.details == {
        "other_answer": "record 21: same text as record 4, with another answer (56, there 4)",
        "duplicate": "record 22: same text as record 5",
    }
