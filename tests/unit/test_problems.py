"""All problems of a run: in bounded memory, and row for row what lists of all of them would give."""

import random
import tempfile
import tracemalloc
from collections.abc import Iterator
from typing import Any

import pytest

from ray_distil import UserError
from ray_distil.rows import problems
from ray_distil.rows.instructions import instruction_row
from ray_distil.rows.problems import EVAL, TRAIN, Limit, Problems
from ray_distil.store.schemas import normalised, stable_id
from ray_distil.store.shards import reject

Row = dict[str, Any]


def of_all(rows: list[Row], num_eval: int, limits: dict[str, int | None]) -> list[Row]:
    """The reference: each step over a list of all rows."""
    seen: dict[str, str] = {}
    marked = []
    for position, row in enumerate(rows, 1):
        text = normalised(row.get("instruction", ""))
        if text and text in seen:
            row_id = stable_id(row["instruction_id"], position)
            row = reject(row, "duplicate", f"same text as {seen[text]}") | {"instruction_id": row_id}
        elif text:
            seen[text] = row["instruction_id"]
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


def drawn(dice: random.Random, number: int, source: str, split: str) -> list[Row]:
    """Rows of records of which some are bad, some are there twice, and some have an answer."""
    answers = dice.choice([0.0, 0.1, 0.9])
    records: list[Any] = []
    for _ in range(number):
        text = dice.choice(["What is", "What  is", "Was ist"]) + f" {dice.randint(0, 2 * number)}?"
        answer = dice.randint(0, 9) if dice.random() < answers else None
        records.append(dice.choice([{"instruction": text, "answer": answer}] * 9 + [3, {"instruction": " "}]))
    return [instruction_row(record, source, split, k) for k, record in enumerate(records, 1)]


@pytest.mark.parametrize("seed", range(40))
def test_rows_are_those_that_lists_of_all_rows_would_give(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    dice = random.Random(seed)
    monkeypatch.setattr(problems, "ROWS_PER_SHARD", dice.choice([1, 7, 100, 10_000]))
    labels = dice.choice([["a", "b"], ["a", "a"]])
    held_out = drawn(dice, dice.choice([0, 0, 30]), labels[0], EVAL)
    rows = held_out + drawn(dice, dice.choice([0, 1, 12, 400]), labels[1], TRAIN)
    num_eval, limits = dice.choice([1, 5, 300]), {TRAIN: dice.choice([None, 20, 200]), EVAL: dice.choice([3, 300])}
    expected = of_all([dict(row) for row in rows], num_eval, limits)
    made = Problems(
        iter(rows), labels, num_eval, {split: Limit(most, f"num_{split}") for split, most in limits.items()}
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
    made = Problems(rows(), ["a"], 300, {TRAIN: Limit(None, "num_train")})
    assert sum(table.num_rows for table in made.tables()) == 8_000
    assert made.facts.usable == {TRAIN: 7_700, EVAL: 300}
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2 * 2**20  # all texts are 4 MB, and as rows of Python more


def test_a_full_disk_is_told_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    full = open("/dev/full", "r+b", buffering=0)  # noqa: SIM115
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **_: full)
    with full, pytest.raises(UserError, match="No space left on device.*set TMPDIR"):
        Problems([instruction_row({"instruction": "1?"}, "a", TRAIN, 1)], ["a"], 1, {})
