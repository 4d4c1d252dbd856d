"""The order of training: every sequence once an epoch, whatever the number of workers."""

import pytest

from ray_distil.deepspeed_config import BatchArithmetic, deepspeed_config
from ray_distil.sft import epoch_order, micro_batches


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
    config = deepspeed_config(batch, 2, False, 1.0)
    assert config["train_batch_size"] == 24
    assert config["zero_optimization"]["stage"] == 2
