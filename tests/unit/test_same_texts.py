"""Equal texts of one problem: which example stays, which are rejected, and that no row is lost by it. Without Ray."""

import itertools
import random
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from ray_distil.errors import StageError
from ray_distil.runner.rejecting import reject_in_shard
from ray_distil.selection import same_texts
from ray_distil.store import schemas
from ray_distil.store.artifact import Artifact
from ray_distil.store.shards import table_of
from ray_distil.store.storage import Folder


def example(number: int, problem: str, text: str, origin: str = "direct") -> dict[str, Any]:
    return {
        "example_id": schemas.stable_id("example", number),
        "instruction_id": schemas.stable_id(problem),
        "prompt": problem,
        "completion": text,
        "origin": origin,
        "origin_id": schemas.stable_id(number),
        "num_tokens": 3,
    }


def expected_of(rows: list[dict[str, Any]]) -> dict[str, str]:
    """Example -> the example whose text it repeats, by plain Python."""
    first: dict[tuple[str, str], str] = {}
    repeated = {}
    for row in sorted(rows, key=lambda row: row["example_id"]):
        kept = first.setdefault((row["instruction_id"], row["completion"]), row["example_id"])
        if kept != row["example_id"]:
            repeated[row["example_id"]] = kept
    return repeated


def drawn(seed: int, number: int) -> list[dict[str, Any]]:
    dice = random.Random(seed)
    return [example(k, f"p{dice.randrange(6)}", f"text {dice.randrange(4)}") for k in range(number)]


def found(rows: list[dict[str, Any]], size: int) -> same_texts.Repeats:
    parts = [rows[k : k + size] for k in range(0, len(rows), size)]
    return same_texts.find(same_texts.text_keys(table_of(part, schemas.SFT_EXAMPLES)) for part in parts)


@pytest.mark.parametrize(("number", "size", "seed"), list(itertools.product((0, 1, 2, 60), (1, 7, 100), range(3))))
def test_the_example_with_the_smallest_id_stays(number: int, size: int, seed: int) -> None:
    rows = drawn(seed, number)
    ids = [row["example_id"] for row in rows]
    expected = expected_of(rows)
    repeats = found(random.Random(seed).sample(rows, number), size)
    assert len(repeats) == len(expected)
    assert dict(zip(ids, repeats.first_of(ids), strict=True)) == {one: expected.get(one) for one in ids}


def test_a_row_that_two_shards_have_does_not_repeat_itself() -> None:
    rows = drawn(3, 40)
    ids = [row["example_id"] for row in rows]
    expected = expected_of(rows)
    repeats = found(rows + rows[:25], 9)
    assert dict(zip(ids, repeats.first_of(ids), strict=True)) == {one: expected.get(one) for one in ids}
    assert len(repeats) == len(expected)


def test_equal_texts_of_two_problems_both_stay() -> None:
    rows = [
        example(0, "p", "13"),
        example(1, "q", "13"),
        example(2, "p", "13 "),
        example(3, "p", "é"),
        example(4, "p", "e"),
    ]
    assert len(found(rows, 2)) == 0
    assert found(rows, 2).first_of([]) == []


def artifact(folder: Path, rows: list[dict[str, Any]], size: int) -> Artifact:
    written = Artifact(Folder.at(folder), "sft_examples", schemas.SFT_EXAMPLES, "settings")
    written.start()
    for start in range(0, len(rows), size):
        written.write_table(table_of(rows[start : start + size], schemas.SFT_EXAMPLES), "sft_examples")
    return written


def reject_all(target: Artifact, repeats: same_texts.Repeats, shards: list[str], attempt: str | None = None) -> None:
    how = {"folder": target.folder, "schema": target.schema, "stage": "sft_examples"}
    mark = partial(same_texts.marked, repeats=repeats)
    for shard in shards:
        reject_in_shard({"item": [shard]}, mark, attempt=attempt or target.attempt, **how)


@pytest.mark.parametrize("size", [1, 9, 60])
def test_in_is_out_and_rejected_and_each_reject_names_the_example_that_stays(size: int, tmp_path: Path) -> None:
    rows = drawn(5, 60)
    target, expected = artifact(tmp_path, rows, size), expected_of(rows)
    shards = target.shards()
    reject_all(target, found(rows, 9), shards)
    reject_all(target, found(rows, 9), shards)  # a second try of each task changes nothing
    manifest = target.finish("sft_examples", "candidates", 60, 1.0)
    assert (manifest.rows_out, manifest.rejects) == (60 - len(expected), {"same_text": len(expected)})
    kept = {row["example_id"]: row for row in target.read_table().to_pylist()}
    assert kept == {row["example_id"]: row for row in rows if row["example_id"] not in expected}
    assert {row["example_id"] for row in target.rejected()} == set(expected)
    details = target.folder.read_table(next(name for name in manifest.files if name.startswith("_rejects")))
    for row in details.to_pylist():
        assert row["detail"] == f"the text of example {expected[row['id']]}"


def test_a_task_of_a_stopped_run_rejects_nothing(tmp_path: Path) -> None:
    rows = drawn(5, 60)
    target = artifact(tmp_path, rows, 9)
    with pytest.raises(StageError, match="another attempt has begun"):
        reject_all(target, found(rows, 9), target.shards(), attempt="an earlier one")
    assert target.finish("sft_examples", "candidates", 60, 1.0).rows_out == 60
