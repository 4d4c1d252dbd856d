"""The figures of a logged step: speed, memory, and the time that is left."""

import time
from typing import Any

from ray_distil.train.deepspeed_config import BatchArithmetic
from ray_distil.train.student_engine import Step
from ray_distil.train.throughput import peak_flops, work_of


class Meter:
    """The figures of one worker's training. Every rank adds each step; all ranks ask for figures at the same steps."""

    def __init__(self, model: Any, batch: BatchArithmetic, bf16: bool, device: Any) -> None:
        import torch

        self.batch, self.device = batch, device
        self.of_token, self.of_square = work_of(model)
        is_known = device.type == "cuda" and bf16  # the peaks are those of bf16
        self.peak = peak_flops(torch.cuda.get_device_name(device)) if is_known else None
        self.steps: list[Step] = []  # since the last figures
        self.seconds = 0.0
        self.first: tuple[float, int] | None = (
            None  # when the first step was done (it is slower than the others), and its number
        )

    def add(self, number: int, step: Step, seconds: float) -> None:
        """Add step `number`, counted from 1, which took `seconds`."""
        self.steps.append(step)
        self.seconds += seconds
        self.first = self.first or (time.monotonic(), number)

    def figures(self, number: int) -> dict[str, float | None]:
        """The figures of all steps since the last call, up to step `number`; None where a figure is not known.

        tokens_per_s, learnt_tokens_per_s   over all workers; the time of held-out losses and states does not count
        learnt_share                        share of the tokens that is learnt
        mfu                                 see `throughput.py`; on a known card and in bf16 only
        memory_gib                          highest so far, of the worker with the most: the GPU's allocated memory,
                                            or on a CPU the memory of the process
        seconds_left                        estimated from the time of all steps except the first
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
    """The highest memory so far, in bytes, of the rank with the most. All ranks must call it."""
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
