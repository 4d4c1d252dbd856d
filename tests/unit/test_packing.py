"""Packing and encoding: nothing cut or lost, loss on the completion and its end of turn only, a good fit."""

import random

import pyarrow as pa
import pytest

from ray_distil.config.models import resolve_model
from ray_distil.rows import packing
from ray_distil.store.schemas import stable_id
from ray_distil.store.shards import REASON
from ray_distil.texts.tokenization import IGNORE_INDEX, encode_example, end_of_turn, load_tokenizer, stop_token_ids

STUDENT = resolve_model("tiny:student-base", "k")


def test_loss_falls_on_the_completion_and_its_end_only() -> None:
    ids, labels = encode_example("Ann has 3 pens.", "Step 1: 3 + 4 = 7.", STUDENT)
    tokenizer = load_tokenizer(STUDENT)
    learnt = [label for label in labels if label != IGNORE_INDEX]
    assert tokenizer.decode(learnt) == "Step 1: 3 + 4 = 7.<|im_end|>"
    assert labels == [IGNORE_INDEX] * (len(ids) - len(learnt)) + ids[-len(learnt) :]
    assert (
        tokenizer.decode(ids[: -len(learnt)]) == "<|im_start|>user\nAnn has 3 pens.<|im_end|>\n<|im_start|>assistant\n"
    )


def test_the_student_stops_where_it_learns_to_stop() -> None:
    assert end_of_turn(STUDENT) in stop_token_ids(STUDENT)


@pytest.mark.parametrize("seed", range(5))
def test_best_fit_places_each_once_and_fits(seed: int) -> None:
    dice = random.Random(seed)
    lengths = [dice.randint(1, 100) for _ in range(dice.randint(0, 400))]
    groups = packing.best_fit(lengths, 100)
    assert sorted(i for group in groups for i in group) == list(range(len(lengths)))
    assert all(sum(lengths[i] for i in group) <= 100 for group in groups)
    assert len(groups) <= 11 / 9 * -(-sum(lengths) // 100) + 1
    assert groups == packing.best_fit(lengths, 100)


def test_a_pack_drawn() -> None:
    packed = packing.pack_group([("a", [5, 6, 7], [-100, 6, 7]), ("b", [8, 9], [-100, 9])], 8, 0)
    assert packed["input_ids"] == [5, 6, 7, 8, 9, 0, 0, 0]
    assert packed["labels"] == [-100, 6, 7, -100, 9, -100, -100, -100]
    assert packed["position_ids"] == [0, 1, 2, 0, 1, 0, 1, 2]
    assert (packed["lengths"], packed["example_ids"]) == ([3, 2], ["a", "b"])


def chunk(texts: list[str]) -> pa.Table:
    rows = [{"example_id": f"e{k}", "prompt": "p", "completion": t, "chunk": 0} for k, t in enumerate(texts)]
    return pa.Table.from_pylist(rows)


def test_long_examples_are_rejected_and_none_is_cut() -> None:
    texts = [f"Step {k}: {k} + 1 = {k + 1}." for k in range(30)] + ["pens " * 90]
    rows = packing.pack_chunk(chunk(texts), STUDENT, 64).to_pylist()
    rejected = [row for row in rows if row[REASON]]
    assert [(row["sequence_id"], row[REASON]) for row in rejected] == [("e30", "too_long")]
    packed = [row for row in rows if not row[REASON]]
    assert sorted(e for row in packed for e in row["example_ids"]) == sorted(f"e{k}" for k in range(30))
    assert all(len(row[name]) == 64 for row in packed for name in ("input_ids", "labels", "position_ids"))
    for row in packed:
        start = 0
        for example, length in zip(row["example_ids"], row["lengths"], strict=True):
            ids, labels = encode_example("p", texts[int(example[1:])], STUDENT)
            assert row["input_ids"][start : start + length] == ids
            assert row["labels"][start : start + length] == labels
            start += length


@pytest.mark.parametrize("number", [1, 6, 7, 8, 60])
def test_a_chunk_is_what_follows_by_id_wherever_it_lies(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "CHUNK", 7)
    ids = [stable_id("example", k) for k in range(number)]
    table = pa.table({"example_id": ids, "prompt": ["p"] * number, "completion": [f"c{k}" for k in range(number)]})
    shards = [table.slice(start, 5) for start in range(0, number, 5)]
    starts = packing.chunk_starts(shard["example_id"].to_pylist() for shard in shards)
    ordered = table.sort_by("example_id")
    assert len(starts) == -(-number // 7)
    for first in range(len(starts)):
        parts = [packing.numbered(shard, starts, first, first + 1) for shard in shards]
        found = pa.concat_tables(parts)
        assert set(found["chunk"].to_pylist()) == {first}
        assert found.sort_by("example_id").drop_columns("chunk").equals(ordered.slice(7 * first, 7))
    assert sum(packing.numbered(shard, starts, 0, len(starts)).num_rows for shard in shards) == number


def test_the_order_of_a_chunks_rows_changes_nothing() -> None:
    rows = chunk([f"Step {k}: {k} + 1 = {k + 1}." for k in range(30)])
    assert packing.pack_chunk(rows.take(list(range(29, -1, -1))), STUDENT, 64).equals(
        packing.pack_chunk(rows, STUDENT, 64)
    )


def test_an_example_of_exactly_the_length_fits() -> None:
    ids, _ = encode_example("p", "one two", STUDENT)
    assert packing.pack_chunk(chunk(["one two"]), STUDENT, len(ids)).to_pylist()[0]["lengths"] == [len(ids)]
    assert packing.pack_chunk(chunk(["one two"]), STUDENT, len(ids) - 1).to_pylist()[0][REASON] == "too_long"
