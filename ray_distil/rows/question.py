"""What a model is asked of each problem: one value, from the configuration to the rows."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Question:
    """`sampling_params` as of a request, e.g. {"temperature": 0.6, "max_tokens": 4096}, without a seed.

    num_samples: responses to a problem, each with a seed of its own, which follows from `seed` and the problem's id.
    fraction: the share of the problems that are asked, chosen by hash. suffix: text behind each problem.
    system_prompt: None: the chat template's own; "": none, where the template can.
    """

    sampling_params: dict[str, Any]
    num_samples: int = 1
    seed: int = 0
    fraction: float = 1.0
    suffix: str = ""
    system_prompt: str | None = None
