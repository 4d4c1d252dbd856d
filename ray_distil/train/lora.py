"""LoRA: small matrices beside the student's own, which stay as they are; merged into them when the student is exported.

    W x  ->  W x + scaling * B (A x)        of each chosen layer; scaling is alpha / rank, B begins at 0

Layers are put into the model itself, so that its class, its forward and the loss head stay.
"""

from collections.abc import Iterable
from typing import Any

from ray_distil import UserError

ADAPTER = "default"
BASE, PARTS = ".base_layer.", (".lora_A.", ".lora_B.")  # what the names of parameters hold
ALL = "all-linear"


def add(model: Any, settings: dict[str, Any]) -> None:
    """Give a model its adapters and freeze all else. `settings`: those of `training.lora`.

    Raises UserError for layers that cannot have them; where a small copy can be made, it was told before Ray started.
    """
    from peft import LoraConfig, inject_adapter_in_model

    targets = settings["target_modules"]
    if told := wrong_targets(model, targets):
        raise UserError(f"training.lora.target_modules: {told}")
    config = LoraConfig(
        r=settings["rank"],
        lora_alpha=settings["alpha"],
        lora_dropout=settings["dropout"],
        target_modules=targets if isinstance(targets, str) else list(targets),
    )
    inject_adapter_in_model(config, model, ADAPTER)


def wrong_targets(model: Any, targets: str | Iterable[str]) -> str:
    """What cannot be right about the names of layers in a model, and what to do; "" if nothing."""
    import torch

    if targets == ALL:
        return ""
    layers = {name: module for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    head, embedding = (getattr(model, f"get_{kind}_embeddings", lambda: None)() for kind in ("output", "input"))
    there = sorted({name.rpartition(".")[2] for name, module in layers.items() if module is not head})
    for target in [targets] if isinstance(targets, str) else targets:
        found = [module for name, module in model.named_modules() if name == target or name.endswith(f".{target}")]
        if any(module is head or module is embedding for module in found):
            return (
                f"{target!r} is the embedding or the output layer, which the loss is made by; leave it out, or train "
                "without LoRA"
            )
        if not found or not all(isinstance(module, torch.nn.Linear) for module in found):
            return f"{target!r} is no linear layer of it; it has {', '.join(there)}; or give {ALL}"
    return ""


def is_added(module: Any) -> bool:
    """Whether a module is a layer with an adapter."""
    return hasattr(module, "lora_A") and hasattr(module, "base_layer")


def parts(layer: Any) -> list[Any]:
    """The parameters of a layer's adapter."""
    return [layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight]


def merged(layer: Any, weight: Any) -> Any:
    """A weight of a layer's own with its adapter added, in float32 before it is rounded; all parameters are whole."""
    import torch

    with torch.no_grad():
        first, second = (part.detach().to("cpu", torch.float32) for part in parts(layer))
        change = layer.scaling[ADAPTER] * (second @ first)
        return (weight.float() + (change.T if layer.fan_in_fan_out else change)).to(weight.dtype)
