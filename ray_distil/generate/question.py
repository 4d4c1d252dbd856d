"""How a model is asked about each problem: one value that the row functions of the stages take."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Question:
    """sampling_params: those of a request, without a seed, e.g. {"temperature": 0.6, "max_tokens": 4096}.

    num_samples: number of responses to a problem. Each has its own seed, computed from `seed` and the problem's id.
    fraction: the share of the problems that are asked, chosen by hash. suffix: text that is added to each problem.
    system_prompt: None: the chat template's own; "": no system prompt, if the template allows this.
    """

    sampling_params: dict[str, Any]
    num_samples: int = 1
    seed: int = 0
    fraction: float = 1.0
    suffix: str = ""
    system_prompt: str | None = None
