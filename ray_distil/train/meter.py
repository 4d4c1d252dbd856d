"""The figures of a logged step: speed, memory, the time that is left, and the share of what a card can do (MFU).

Which work of a step is counted, in FLOPs (Chowdhery et al., 2204.02311, appendix B):

- 6 FLOPs for each parameter and token, 2 forward and 4 backward; not for the input embedding, which multiplies nothing;
- causal attention between the tokens of one example: 6 x layers x width x length^2.

Activations that are computed again are not counted.
"""

import time
from collections.abc import Iterable
from typing import Any

from ray_distil.train.deepspeed_config import BatchArithmetic
from ray_distil.train.student_engine import Step

# Dense bf16 FLOPs a second, from the vendors' data sheets. The first key that is a part of a card's name counts.
PEAK_FLOPS = {
    "B200": 2250e12,
    "GH200": 989e12,
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "H20": 148e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
    "A10": 125e12,
    "MI300X": 1307e12,
}


class Meter:
    """The figures of one worker's training. Every rank adds each step."""

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

    def gather_figures(self, number: int) -> dict[str, float | None]:
        """The figures of all steps since the last call, up to step `number`; None where a figure is not known.

        All ranks must call it at the same steps.

        tokens_per_s, learnt_tokens_per_s   over all workers; the time of held-out losses and states does not count
        learnt_share                        share of the tokens that is learnt
        mfu                                 see above; on a known card and in bf16 only
        memory_gib                          highest so far, of the worker with the most: the GPU's allocated memory,
                                            or on a CPU the memory of the process
        seconds_left                        estimated from the time of all steps except the first
        """
        tokens, learnt, squares = (
            sum(getattr(step, name) for step in self.steps) for name in ("num_tokens", "num_learnt", "num_squares")
        )
        flops = self.of_token * tokens + self.of_square * squares
        peak = self.peak and self.peak * self.batch.num_workers
        figures: dict[str, float | None] = {
            "tokens_per_s": tokens / self.seconds,
            "learnt_tokens_per_s": learnt / self.seconds,
            "learnt_share": learnt / tokens,
            "mfu": flops / (self.seconds * peak) if peak else None,
            "memory_gib": most_memory(self.device) / 2**30,
            "seconds_left": self._seconds_left(number),
        }
        self.steps, self.seconds = [], 0.0
        return figures

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
        of_rank = torch.cuda.max_memory_allocated(device)
    else:
        of_rank = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    highest = torch.tensor(float(of_rank), dtype=torch.float64, device=device)
    dist.all_reduce(highest, dist.ReduceOp.MAX)
    return float(highest)


def peak_flops(card: str) -> float | None:
    """A card's peak in dense bf16 FLOPs a second, by its name in torch; None for a card that is not in PEAK_FLOPS."""
    return next((rate for part, rate in PEAK_FLOPS.items() if part in card), None)


def step_flops(num_parameters: int, num_layers: int, hidden_size: int, lengths: Iterable[int]) -> float:
    """FLOPs of a step on examples of these lengths, in tokens. `num_parameters`: the result of `matrix_parameters`."""
    tokens = squares = 0
    for length in lengths:
        tokens += length
        squares += length * length
    return 6.0 * num_parameters * tokens + 6.0 * num_layers * hidden_size * squares


def work_of(model: Any) -> tuple[float, float]:
    """FLOPs of a step for each token, and for each square of an example's length.

    A frozen matrix (LoRA) has no gradient of its own: it counts 4 FLOPs in place of 6. Layers of linear attention add
    nothing to the work for each square.
    """
    config = model.config.get_text_config()
    kinds = getattr(config, "layer_types", None) or ["full_attention"] * config.num_hidden_layers
    heads = config.num_attention_heads
    width = heads * (getattr(config, "head_dim", None) or config.hidden_size // heads)
    frozen = sum(_size(p) for p in model.parameters() if not p.requires_grad)
    total = matrix_parameters(model)
    of_token = 6.0 * total - 2.0 * min(frozen, total)
    return of_token, 6.0 * width * sum("attention" in kind and "linear" not in kind for kind in kinds)


def matrix_parameters(model: Any) -> int:
    """Parameters that a token is multiplied with: all except an input embedding that is not the output layer as well.

    A parameter that ZeRO-3 has shared out over the workers counts in its whole size.
    """
    total = sum(_size(parameter) for parameter in model.parameters())
    embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings()
    return total if head is not None and head.weight is embedding else total - _size(embedding)


def _size(parameter: Any) -> int:
    return int(getattr(parameter, "ds_numel", parameter.numel()))
