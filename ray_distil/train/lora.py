"""LoRA: small matrices beside the student's own matrices, which are frozen. The export merges the small ones into them.

    W x  ->  W x + scaling * B (A x)        of each chosen layer; scaling is alpha / rank, B begins at 0

The adapters are put into the model itself, so that its class, its forward and its loss head stay the same.
"""

from collections.abc import Iterable
from typing import Any

from ray_distil.config.training_config import LoraConfig
from ray_distil.errors import UserError

ADAPTER = "default"
BASE, PARTS = ".base_layer.", (".lora_A.", ".lora_B.")  # parts of the parameters' names
ALL = "all-linear"


def add(model: Any, settings: LoraConfig) -> None:
    """Give a model its adapters and freeze all other weights. `settings`: the section `training.lora`.

    Raises UserError for layers that cannot have an adapter. Where a small copy of the model can be built, the preflight
    check finds this mistake before Ray starts.
    """
    import peft

    targets = settings.target_modules
    if mistake := wrong_targets(model, targets):
        raise UserError(f"training.lora.target_modules: {mistake}")
    config = peft.LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=targets if isinstance(targets, str) else list(targets),
    )
    peft.inject_adapter_in_model(config, model, ADAPTER)


def wrong_targets(model: Any, targets: str | Iterable[str]) -> str:
    """Why `targets` cannot name layers of this model for LoRA, and what to do; "" if they can."""
    import torch

    if targets == ALL:
        return ""
    layers = {name: module for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    head, embedding = (getattr(model, f"get_{kind}_embeddings", lambda: None)() for kind in ("output", "input"))
    layer_names = sorted({name.rpartition(".")[2] for name, module in layers.items() if module is not head})
    for target in [targets] if isinstance(targets, str) else targets:
        modules = [module for name, module in model.named_modules() if name == target or name.endswith(f".{target}")]
        if any(module is head or module is embedding for module in modules):
            return (
                f"{target!r} is the embedding or the output layer, which the loss is made by; leave it out, or train "
                "without LoRA"
            )
        if not modules or not all(isinstance(module, torch.nn.Linear) for module in modules):
            return f"{target!r} is no linear layer of it; it has {', '.join(layer_names)}; or give {ALL}"
    return ""


def is_added(module: Any) -> bool:
    """Whether a module is a layer with an adapter."""
    return hasattr(module, "lora_A") and hasattr(module, "base_layer")


def parts(layer: Any) -> list[Any]:
    """The parameters of a layer's adapter."""
    return [layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight]


def merged(layer: Any, weight: Any) -> Any:
    """A layer's own `weight` plus its adapter, summed in float32, then rounded to the weight's dtype.

    The adapter's parameters must be gathered.
    """
    import torch

    with torch.no_grad():
        first, second = (part.detach().to("cpu", torch.float32) for part in parts(layer))
        change = layer.scaling[ADAPTER] * (second @ first)
        return (weight.float() + (change.T if layer.fan_in_fan_out else change)).to(weight.dtype)
