"""How fast a training is, what it takes and how long it will go on: the figures of a logged step."""

import time
from typing import Any

from ray_distil.train.deepspeed_config import BatchArithmetic
from ray_distil.train.student_engine import Step
from ray_distil.train.throughput import peak_flops, work_of


class Meter:
    """The figures of one worker's training; every rank adds each step, and asks for figures at the same ones."""

    def __init__(self, model: Any, batch: BatchArithmetic, bf16: bool, device: Any) -> None:
        import torch

        self.batch, self.device = batch, device
        self.of_token, self.of_square = work_of(model)
        is_known = device.type == "cuda" and bf16  # the peaks are those of bf16
        self.peak = peak_flops(torch.cuda.get_device_name(device)) if is_known else None
        self.steps: list[Step] = []  # since the last figures
        self.seconds = 0.0
        self.first: tuple[float, int] | None = (
            None  # when a first step was done, which is slower than others; and which
        )

    def add(self, number: int, step: Step, seconds: float) -> None:
        """A step, counted from 1, that took so long."""
        self.steps.append(step)
        self.seconds += seconds
        self.first = self.first or (time.monotonic(), number)

    def figures(self, number: int) -> dict[str, float | None]:
        """Of the steps since the last figures, after this one; null where it is not known.

        tokens_per_s, learnt_tokens_per_s   over all workers, without the time of a held-out loss or of a state
        learnt_share                        of the tokens
        mfu                                 see `throughput.py`; on a known card and in bf16 only
        memory_gib                          of the worker with the most: a GPU's allocated memory, or on a CPU the
                                            process's, each at its highest so far
        seconds_left                        by the time of all steps but the first
        """
        tokens, learnt, squares = (
            sum(getattr(step, name) for step in self.steps) for name in ("num_tokens", "num_learnt", "num_squares")
        )
        flops = self.of_token * tokens + self.of_square * squares
        peak = self.peak and self.peak * self.batch.num_workers
        made: dict[str, float | None] = {
            "tokens_per_s": tokens / self.seconds,
            "learnt_tokens_per_s": learnt / self.seconds,
            "learnt_share": learnt / tokens,
            "mfu": flops / (self.seconds * peak) if peak else None,
            "memory_gib": most_memory(self.device) / 2**30,
            "seconds_left": self._seconds_left(number),
        }
        self.steps, self.seconds = [], 0.0
        return made

    def _seconds_left(self, number: int) -> float | None:
        if number == self.batch.num_steps:
            return 0.0
        if self.first is None or number == self.first[1]:
            return None
        started, first = self.first
        return (time.monotonic() - started) / (number - first) * (self.batch.num_steps - number)


def most_memory(device: Any) -> float:
    """Bytes at the highest so far, of the rank that has most; all ranks call it."""
    import resource

    import torch
    import torch.distributed as dist

    if device.type == "cuda":
        own = torch.cuda.max_memory_allocated(device)
    else:
        own = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    most = torch.tensor(float(own), dtype=torch.float64, device=device)
    dist.all_reduce(most, dist.ReduceOp.MAX)
    return float(most)
