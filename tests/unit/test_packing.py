"""Packing and encoding: nothing cut or lost, loss on the completion and its end of turn only, a good fit."""

import random
from itertools import pairwise

import pyarrow as pa
import pytest

from ray_distil.chat.tokenization import IGNORE_INDEX, encode_example, end_of_turn, load_tokenizer, stop_token_ids
from ray_distil.config.models import resolve_model
from ray_distil.stages import packed
from ray_distil.store.schemas import SFT_EXAMPLES, stable_id
from ray_distil.store.shards import REASON

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
    groups = packed.best_fit(lengths, 100)
    assert sorted(i for group in groups for i in group) == list(range(len(lengths)))
    assert all(sum(lengths[i] for i in group) <= 100 for group in groups)
    assert len(groups) <= 11 / 9 * -(-sum(lengths) // 100) + 1
    assert groups == packed.best_fit(lengths, 100)


def test_a_pack_drawn() -> None:
    sequence = packed.pack_group([("a", [5, 6, 7], [-100, 6, 7]), ("b", [8, 9], [-100, 9])], 8, 0)
    assert sequence["input_ids"] == [5, 6, 7, 8, 9, 0, 0, 0]
    assert sequence["labels"] == [-100, 6, 7, -100, 9, -100, -100, -100]
    assert sequence["position_ids"] == [0, 1, 2, 0, 1, 0, 1, 2]
    assert (sequence["lengths"], sequence["example_ids"]) == ([3, 2], ["a", "b"])


def chunk(texts: list[str]) -> pa.Table:
    rows = [{"example_id": f"e{k}", "prompt": "p", "completion": t, "chunk": 0} for k, t in enumerate(texts)]
    return pa.Table.from_pylist(rows)


def test_long_examples_are_rejected_and_none_is_cut() -> None:
    texts = [f"Step {k}: {k} + 1 = {k + 1}." for k in range(30)] + ["pens " * 90]
    rows = packed.pack_chunk(chunk(texts), STUDENT, 64).to_pylist()
    rejected = [row for row in rows if row[REASON]]
    assert [(row["sequence_id"], row[REASON]) for row in rejected] == [("e30", "too_long")]
    sequence = [row for row in rows if not row[REASON]]
    assert sorted(e for row in sequence for e in row["example_ids"]) == sorted(f"e{k}" for k in range(30))
    assert all(len(row[name]) == 64 for row in sequence for name in ("input_ids", "labels", "position_ids"))
    for row in sequence:
        start = 0
        for example, length in zip(row["example_ids"], row["lengths"], strict=True):
            ids, labels = encode_example("p", texts[int(example[1:])], STUDENT)
            assert row["input_ids"][start : start + length] == ids
            assert row["labels"][start : start + length] == labels
            start += length


def examples(number: int, num_tokens: int | None = 10) -> pa.Table:
    """SFT_EXAMPLES rows with SIZED columns, in the order of their making."""
    ids = [stable_id("example", k) for k in range(number)]
    texts = {"example_id": ids, "prompt": ["p"] * number, "completion": [f"c{k}" for k in range(number)]}
    columns = texts | {"num_tokens": [num_tokens] * number}
    return pa.table(columns, schema=pa.schema([SFT_EXAMPLES.field(name) for name in packed.SIZED]))


def sizes(*tables: pa.Table) -> list[pa.Table]:
    return [packed.example_sizes(table) for table in tables]


@pytest.mark.parametrize("number", [1, 6, 7, 8, 60])
def test_a_chunk_is_what_follows_by_id_wherever_it_lies(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed, "CHUNK_EXAMPLES", 7)
    table = examples(number)
    shards = [table.slice(start, 5) for start in range(0, number, 5)]
    starts = packed.chunk_starts(sizes(*shards))
    ordered = table.sort_by("example_id")
    assert len(starts) == -(-number // 7)
    for first in range(len(starts)):
        parts = [packed.numbered(shard, starts, first, first + 1) for shard in shards]
        found = pa.concat_tables(parts)
        assert set(found["chunk"].to_pylist()) == {first}
        assert found.sort_by("example_id").drop_columns("chunk").equals(ordered.slice(7 * first, 7))
    assert sum(packed.numbered(shard, starts, 0, len(starts)).num_rows for shard in shards) == number


def chunks_of(table: pa.Table) -> list[int]:
    """The number of examples in each chunk."""
    starts = packed.chunk_starts(sizes(table))
    return [packed.numbered(table, starts, k, k + 1).num_rows for k in range(len(starts))]


def test_a_chunk_of_long_examples_holds_few_of_them() -> None:
    assert chunks_of(examples(2001, num_tokens=16_000)) == [625, 625, 625, 126]


def test_an_example_larger_than_a_chunk_is_a_chunk_and_few_short_ones_are_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed, "CHUNK_TOKENS", 100)
    assert chunks_of(examples(3, num_tokens=101)) == [1, 1, 1]
    assert chunks_of(examples(10)) == [10]
    assert chunks_of(examples(11)) == [10, 1]
    assert len(packed.chunk_starts([])) == len(packed.chunk_starts(sizes(examples(0)))) == 0


def test_uneven_examples_fill_chunks_of_uneven_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed, "CHUNK_TOKENS", 100)
    dice = random.Random(0)
    tokens = [dice.randint(1, 60) for _ in range(200)]
    table = examples(200).set_column(3, "num_tokens", pa.array(tokens, pa.int32()))
    starts = packed.chunk_starts(sizes(table))
    shuffled = table.take(dice.sample(range(200), 200))
    assert packed.chunk_starts(sizes(shuffled.slice(0, 77), shuffled.slice(77))).tolist() == starts.tolist()
    spent = [sum(packed.numbered(table, starts, k, k + 1)["num_tokens"].to_pylist()) for k in range(len(starts))]
    assert max(spent) <= 100
    assert all(before + after > 100 for before, after in pairwise(spent)), "none could be larger"


def test_a_text_without_a_count_is_measured_by_its_bytes() -> None:
    """Imported responses have no count; a prompt never has one."""
    rows = [("a", "p" * 30, "c" * 300, 50), ("b", "p" * 30, "c" * 300, None), ("c", "", "思" * 100, None)]
    table = pa.table([pa.array(column) for column in zip(*rows, strict=True)], names=list(packed.SIZED))
    assert packed.example_sizes(table)["tokens"].to_pylist() == [60, 110, 100]
    without = table.set_column(3, "num_tokens", pa.array([None] * 3, pa.int32()))
    assert packed.example_sizes(without)["tokens"].to_pylist() == [110, 110, 100]


def test_the_order_of_a_chunks_rows_changes_nothing() -> None:
    rows = chunk([f"Step {k}: {k} + 1 = {k + 1}." for k in range(30)])
    assert packed.pack_chunk(rows.take(list(range(29, -1, -1))), STUDENT, 64).equals(
        packed.pack_chunk(rows, STUDENT, 64)
    )


def test_an_example_of_exactly_the_length_fits() -> None:
    ids, _ = encode_example("p", "one two", STUDENT)
    assert packed.pack_chunk(chunk(["one two"]), STUDENT, len(ids)).to_pylist()[0]["lengths"] == [len(ids)]
    assert packed.pack_chunk(chunk(["one two"]), STUDENT, len(ids) - 1).to_pylist()[0][REASON] == "too_long"
