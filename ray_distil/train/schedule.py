"""The learning rate over a training, as a factor of `training.learning_rate` for each optimiser step."""

import math
from collections.abc import Callable
from typing import Any


def factor(kind: str, warmup_ratio: float, num_steps: int) -> Callable[[int], float]:
    """Step, counted from 0 -> factor of its learning rate.

    Warm-up takes ceil(warmup_ratio * num_steps) steps and begins with 1/n, so that each step learns. Then the factor
    falls from 1 to 0 as a cosine or a line, or stays (constant_with_warmup). Without warm-up it is Transformers' own.
    """
    num_warmup = math.ceil(warmup_ratio * num_steps)

    def of_step(step: int) -> float:
        if step < num_warmup:
            return (step + 1) / num_warmup
        progress = min(1.0, (step - num_warmup) / max(1, num_steps - num_warmup))
        if kind == "cosine":
            return 0.5 * (1 + math.cos(math.pi * progress))
        return 1 - progress if kind == "linear" else 1.0

    return of_step


def schedule(optimizer: Any, kind: str, warmup_ratio: float, num_steps: int) -> Any:
    """The schedule for an optimiser: PyTorch's LambdaLR."""
    from torch.optim.lr_scheduler import LambdaLR

    return LambdaLR(optimizer, factor(kind, warmup_ratio, num_steps))
