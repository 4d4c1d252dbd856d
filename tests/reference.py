"""The loss as it is defined, with all logits in float32: what the loss of training is compared with."""

from typing import Any

import torch


def token_loss(logits: Any, labels: Any) -> Any:
    """Cross-entropy summed over the learnt tokens. logits (B, T, V); labels (B, T), shifted here."""
    return torch.nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten(), ignore_index=-100, reduction="sum"
    )
