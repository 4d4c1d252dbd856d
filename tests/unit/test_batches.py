"""Micro-batches: every sequence once an epoch, whatever the number of workers; and what a micro-batch is made of."""

import pytest
import torch

from ray_distil.stages.packed import pack_group
from ray_distil.train.batches import epoch_order, micro_batches, sizes_of, tensors_of
from ray_distil.train.deepspeed_config import BatchArithmetic, deepspeed_config


@pytest.mark.parametrize(("workers", "micro", "accumulation"), [(1, 1, 1), (2, 3, 2), (4, 2, 1), (3, 1, 5)])
def test_each_epoch_holds_every_sequence_once(workers: int, micro: int, accumulation: int) -> None:
    batch = BatchArithmetic(41, workers, micro, accumulation, 2)
    order = epoch_order(41, seed=3, epoch=1)
    seen = []
    for step in range(batch.steps_per_epoch):
        for rank in range(workers):
            parts = micro_batches(order, step, rank, batch)
            assert len(parts) == accumulation, "each rank makes the same number of micro-steps"
            assert all(len(part) <= micro for part in parts)
            seen += [k for part in parts for k in part]
    assert sorted(seen) == list(range(41))


def test_a_step_holds_the_same_sequences_at_any_world_size() -> None:
    order = epoch_order(64, seed=0, epoch=0)

    def step_of(workers: int, micro: int, accumulation: int) -> set[int]:
        batch = BatchArithmetic(64, workers, micro, accumulation, 1)
        return {k for rank in range(workers) for part in micro_batches(order, 2, rank, batch) for k in part}

    assert step_of(1, 4, 4) == step_of(2, 4, 2) == step_of(4, 1, 4)


def test_order_depends_on_seed_and_epoch() -> None:
    orders = {tuple(epoch_order(20, seed, epoch)) for seed in (0, 1) for epoch in (0, 1)}
    assert len(orders) == 4


def test_arithmetic_and_configuration() -> None:
    batch = BatchArithmetic(100, 2, 4, 3, 5)
    assert (batch.train_batch_size, batch.steps_per_epoch, batch.num_steps) == (24, 5, 25)
    assert BatchArithmetic(100, 2, 4, 3, 5, max_steps=7).num_steps == 7
    assert BatchArithmetic(100, 2, 4, 3, 1, max_steps=7).num_steps == 7
    config = deepspeed_config(batch, 2, False, 1.0)
    assert config["train_batch_size"] == 24
    assert config["zero_optimization"]["stage"] == 2


def sequences() -> dict[str, list[torch.Tensor]]:
    """One of two examples and padding, and one of an example in which nothing is learnt and another."""
    none = -100
    first = [("a", [11, 12, 13, 14], [none, none, 13, 14]), ("b", [21, 22, 23], [none, 22, 23])]
    second = [("c", [31, 32], [none, none]), ("d", [41, 42, 43, 44, 45], [none, none, none, none, 45])]
    packed = [pack_group(group, 10, 0) for group in (first, second)]
    return {name: [torch.tensor(row[name]) for row in packed] for name in ("input_ids", "labels", "position_ids")}


def listed(tensors: dict[str, object]) -> dict[str, object]:
    return {name: t.tolist() if isinstance(t, torch.Tensor) else t for name, t in tensors.items()}


def test_a_flat_row_drawn() -> None:
    """Padding and what teaches nothing are gone; the last token of an example learns nothing of the next one."""
    made = tensors_of(sequences(), [1, 0], flat=True)
    assert made["cu_seq_lens_q"].dtype == torch.int32
    assert listed(made) == {
        "input_ids": [[41, 42, 43, 44, 45, 11, 12, 13, 14, 21, 22, 23]],
        "position_ids": [[0, 1, 2, 3, 4, 0, 1, 2, 3, 0, 1, 2]],
        "learnt": [3, 6, 7, 9, 10],
        "targets": [45, 13, 14, 22, 23],
        "cu_seq_lens_q": [0, 5, 9, 12],
        "cu_seq_lens_k": [0, 5, 9, 12],
        "max_length_q": 5,
        "max_length_k": 5,
    }


def test_a_row_of_a_multiple_ends_with_an_example_of_padding() -> None:
    made = tensors_of(sequences(), [1, 0], flat=True, multiple=8)
    assert made["input_ids"].shape == (1, 16)
    assert made["cu_seq_lens_q"].tolist() == [0, 5, 9, 12, 16]
    assert made["position_ids"][0, 12:].tolist() == [0, 1, 2, 3]
    assert torch.equal(made["learnt"], tensors_of(sequences(), [1, 0], flat=True)["learnt"])
    assert tensors_of(sequences(), [1, 0], flat=True, multiple=4)["input_ids"].shape == (1, 12)


def test_rows_of_their_own_drawn() -> None:
    assert listed(tensors_of(sequences(), [1, 0], flat=False)) == {
        "input_ids": [[41, 42, 43, 44, 45, 0, 0], [11, 12, 13, 14, 21, 22, 23]],
        "position_ids": [[0, 1, 2, 3, 4, 0, 0], [0, 1, 2, 3, 0, 1, 2]],
        "learnt": [3, 8, 9, 11, 12],
        "targets": [45, 13, 14, 22, 23],
    }


@pytest.mark.parametrize("flat", [True, False])
def test_an_empty_micro_batch_is_one_token_of_which_nothing_is_learnt(flat: bool) -> None:
    made = tensors_of(sequences(), [], flat)
    assert made["input_ids"].shape == (1, 1)
    assert len(made["learnt"]) == len(made["targets"]) == 0


def test_gradients_are_summed_in_float32() -> None:
    config = deepspeed_config(BatchArithmetic(100, 2, 4, 3, 5), 2, True, 1.0)
    assert config["data_types"] == {"grad_accum_dtype": "fp32"}
    assert config["communication_data_type"] == "fp32"


@pytest.mark.parametrize("flat", [True, False])
@pytest.mark.parametrize(("indices", "tokens", "squares"), [([0], 7, 25), ([1], 5, 25), ([1, 0], 12, 50), ([], 0, 0)])
def test_sizes_are_those_of_the_examples_without_padding(
    flat: bool, indices: list[int], tokens: int, squares: int
) -> None:
    assert sizes_of(tensors_of(sequences(), indices, flat)) == (tokens, squares)
    if flat:
        assert sizes_of(tensors_of(sequences(), indices, flat, multiple=16)) == (tokens, squares)
