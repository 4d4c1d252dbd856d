"""A logits processor of vLLM that kills its engine at each prompt that holds the tokens in DEADLY_TOKENS."""

import os
import signal
from typing import Any

import torch
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor

DEADLY_TOKENS = "RAY_DISTIL_DEADLY_TOKEN"  # ids with spaces between; by its name a secret


class Deadly(LogitsProcessor):
    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None:
        self.deadly = f" {os.environ[DEADLY_TOKENS]} "

    def is_argmax_invariant(self) -> bool:
        return True

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        return logits

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        for _, _, prompt, _ in batch_update.added if batch_update is not None else ():
            if self.deadly in f" {' '.join(map(str, prompt or ()))} ":
                os.kill(os.getpid(), signal.SIGKILL)
