"""The learning rate of each step: every step learns, and without warm-up the schedule is Transformers' own."""

import pytest
import torch
from transformers import get_scheduler

from ray_distil.train.student_engine import learning_rate_factor

KINDS = ("cosine", "linear", "constant_with_warmup")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("num_steps", [1, 2, 3, 10, 100])
@pytest.mark.parametrize("warmup_ratio", [0.0, 0.1, 0.5])
def test_every_step_learns(kind: str, num_steps: int, warmup_ratio: float) -> None:
    factors = [learning_rate_factor(kind, warmup_ratio, num_steps)(step) for step in range(num_steps)]
    assert all(0 < one <= 1 for one in factors)
    assert max(factors) == 1


def test_warm_up_rises_in_equal_parts() -> None:
    factors = [learning_rate_factor("linear", 0.2, 20)(step) for step in range(6)]
    assert factors == [0.25, 0.5, 0.75, 1, 1, 1 - 1 / 16]


@pytest.mark.parametrize("kind", KINDS)
def test_without_warm_up_it_is_that_of_transformers(kind: str) -> None:
    def rates(of: str) -> list[float]:
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=3.0)
        ours = torch.optim.lr_scheduler.LambdaLR(optimizer, learning_rate_factor(kind, 0.0, 7))
        scheduler = ours if of == "ours" else get_scheduler(kind, optimizer, 0, 7)
        seen = []
        for _ in range(7):
            seen.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step()
        return seen

    assert rates("ours") == pytest.approx(rates("theirs"), rel=1e-12)
