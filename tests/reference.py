"""What a training is compared with: the loss as it is defined, and how far two trainings move each weight."""

from typing import Any

import torch

from ray_distil.config import TrainingConfig
from ray_distil.config.training_config import LoraConfig

Weights = dict[str, torch.Tensor]


def token_loss(logits: Any, labels: Any) -> Any:
    """Cross-entropy summed over the learnt tokens. logits (B, T, V); labels (B, T), shifted here."""
    return torch.nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten(), ignore_index=-100, reduction="sum"
    )


def assert_moved_alike(trained: Weights, expected: Weights, origin: Weights, share: float = 1e-3) -> None:
    """Training moved each tensor of `origin` as it moved `expected`: the ends are apart by at most `share` of the way.

    One weight in a thousand, at least one, may be further away, so that all weights are apart by up to ten times
    `share`. No bound on every weight holds on every CPU: Adam divides a gradient by its own size, and where it is next
    to nothing, rounding decides its sign, and the weight makes a full step that way.
    """
    assert trained.keys() == expected.keys()
    for key, weight in expected.items():
        way = (weight - origin[key].float()).norm()
        assert way > 0, f"{key} was not trained"
        apart = (trained[key] - weight).abs().flatten().sort().values
        usual = apart[: len(apart) - max(1, len(apart) // 1000)]
        for name, norm, bound in (("its usual weights", usual.norm(), share), ("all", apart.norm(), 10 * share)):
            assert norm <= bound * way, f"{key}: {name} are {norm:.2g} apart, after a way of {way:.2g}"


def training_settings(values: dict[str, Any]) -> TrainingConfig:
    """The section `training` with these values, unchecked, so that a test can take settings that a recipe may not."""
    lora = LoraConfig(**values["lora"]) if values.get("lora") else None
    return TrainingConfig.model_construct(**(values | {"lora": lora}))
