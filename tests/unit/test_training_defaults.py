"""Defaults of training that depend on each other."""

import pytest

from ray_distil.config import load
from ray_distil.errors import ConfigError


@pytest.mark.parametrize(
    ("overrides", "stage"),
    [
        (["training.num_workers=1"], 1),
        (["training.num_workers=2"], 2),
        (["training.num_workers=1", "training.zero_stage=2"], 2),
        (["training.num_workers=2", "training.zero_stage=3"], 3),
    ],
)
def test_one_worker_divides_nothing(overrides: list[str], stage: int) -> None:
    training = load(None, overrides).training
    assert training is not None
    assert training.stage == stage


def test_what_a_stage_cannot_is_refused_for_the_stage_that_follows_from_the_workers() -> None:
    with pytest.raises(ConfigError, match="training.offload_optimizer: "):
        load(None, ["training.num_workers=1", "training.offload_optimizer=true", "training.bf16=true", "training.gradient_accumulation_steps=4"])  # fmt: skip
