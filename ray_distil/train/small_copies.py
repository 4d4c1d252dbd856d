"""The class of Transformers by which a student is trained, and small models of it with random weights.

What holds for all sizes of an architecture is tried on a small one: a training step, its packing, its export.
"""

import copy
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from ray_distil.errors import UserError

VOCABULARY = 128
# Sizes of the small copy; a key is used where the configuration has it. All are powers of 2.
SMALL = {
    "vocab_size": VOCABULARY,
    "vocab_size_per_layer_input": VOCABULARY,
    "hidden_size": 64,
    "hidden_size_per_layer_input": 16,
    "intermediate_size": 128,
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 32,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "mamba_n_heads": 8,
    "mamba_d_head": 16,
    "mamba_d_ssm": 128,
    "num_heads": 8,
    "q_lora_rank": 32,
    "kv_lora_rank": 32,
    "n_group": 1,  # of experts
    "topk_group": 1,
    "first_k_dense_replace": 1,  # so that the second layer has experts
    "conv_dim": 64,
    "block_dim": 64,
    "block_ff_dim": 128,
    "sliding_window": 4,  # shorter than the texts that are tried
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": None,
}
MROPE = [2, 3, 3]  # Qwen-VL's parts of a head's frequencies: time, height, width
# Sizes of the parts that read pictures or sounds. They are built, and a text does not reach them.
SMALL_OTHERS = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "depth": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "num_heads": 2,
    "head_dim": 16,
    "intermediate_size": 32,
    "out_hidden_size": SMALL["hidden_size"],
    "image_size": 28,
    "patch_size": 14,
}
MOST_LAYERS = 8
KINDS = ("layer_types", "mlp_layer_types")  # lists that name the kind of each layer


def auto_class(config: Any) -> Any:
    """The class of Transformers that makes a student of a configuration: a text's, else one that takes pictures too.

    Raises UserError where there is none.
    """
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    for auto in (AutoModelForCausalLM, AutoModelForImageTextToText):
        if type(config) in auto._model_mapping:
            return auto
    raise UserError(
        f"its architecture ({config.model_type}) has no class of Transformers that generates text; train another student"
    )


def without_weights(config: Any) -> Any:
    """The model of a configuration in its full size, on torch's meta device: names and shapes only."""
    import torch

    with torch.device("meta"):
        return auto_class(config).from_config(config)


def small_copy(config: Any, attn_implementation: str) -> Any:
    """A small model of the configuration's class with random weights and few layers.

    It has the first layers, up to the one with which each kind in `layer_types` has come at least once; without kinds,
    two. The same arguments give the same weights. Raises ValueError where this needs more than MOST_LAYERS, UserError
    without a class, and whatever Transformers raises where it cannot build the copy.
    """
    import torch

    small = small_config(config)
    with torch.random.fork_rng(devices=[]):  # a training's own draws stay as they are
        torch.manual_seed(0)
        auto = auto_class(small)
        model = auto.from_config(small, dtype=torch.float32, attn_implementation=attn_implementation)
    return model.eval()


def small_config(config: Any) -> Any:
    """The configuration of a small copy. Raises ValueError where it would have more than MOST_LAYERS layers."""
    config = copy.deepcopy(config)
    text = config.get_text_config()

    # The sizes of the text's part. In latent attention, head_dim is a part of a head, and keys have as many heads as
    # queries: these three stay.
    latent = ("head_dim", "num_attention_heads", "num_key_value_heads") if hasattr(text, "qk_rope_head_dim") else ()
    _shrink(text, {name: size for name, size in SMALL.items() if name not in latent})
    if "mrope_section" in (getattr(text, "rope_parameters", None) or {}):
        text.rope_parameters["mrope_section"] = MROPE

    # The sizes of the other parts.
    for name in config.sub_configs:
        part = getattr(config, name, None)
        if part is not None and part is not text:
            _shrink(part, SMALL_OTHERS)

    # Its layers, as many as show each kind; and of the lists that name each layer, only these.
    values, num_layers = text.to_dict(), text.num_hidden_layers
    kinds = [values[name] for name in KINDS if values.get(name)]
    layers = max((of_kind.index(kind) + 1 for of_kind in kinds for kind in set(of_kind)), default=2)
    if layers > MOST_LAYERS:
        raise ValueError(f"its kinds of layers come together in {layers} layers only")
    layers = min(max(layers, 2), num_layers)
    for name, value in values.items():
        if isinstance(value, list) and len(value) == num_layers > layers:
            with suppress(AttributeError):  # some configurations compute such a list from the number of layers
                setattr(text, name, value[:layers])
    text.num_hidden_layers = layers
    return _of_layers(config, text, layers)


def _of_layers(config: Any, text: Any, layers: int) -> Any:
    """The configuration without what it says of single layers behind the last one (Gemma 4)."""
    values = text.to_dict()
    if not (single := values.get("per_layer_config")):
        return config
    values["per_layer_config"] = {number: value for number, value in single.items() if int(number) < layers}
    rebuilt = type(text)(**values)
    if text is config:
        return rebuilt
    for name in config.sub_configs:
        if getattr(config, name, None) is text:
            setattr(config, name, rebuilt)
    return config


def _shrink(config: Any, sizes: dict[str, Any]) -> None:
    """Set the sizes that a configuration has; one that differs from layer to layer stays (Gemma 4: its head_dim)."""
    for name, size in sizes.items():
        with suppress(AttributeError, RuntimeError):  # Transformers raises the second for such a one
            value = getattr(config, name)
            if value is not None:
                setattr(config, name, [size] * len(value) if size and isinstance(value, list | tuple) else size)


def unreached(config: Any) -> list[str]:
    """Names of the modules that a text does not reach, as those that read pictures, tried on a small copy.

    Experts that no token has chosen are none: their names have a number.
    """
    import torch

    model = small_copy(config, "eager")
    called = set[str]()
    hooks = [
        module.register_forward_pre_hook(lambda *_, name=name: called.add(name))
        for name, module in model.named_modules()
    ]
    with torch.no_grad():
        model(input_ids=torch.arange(8)[None], use_cache=False)
    for hook in hooks:
        hook.remove()
    return list(_topmost(model, called))


def _topmost(model: Any, called: set[str]) -> Iterator[str]:
    """The modules with parameters that were not called, without those inside such a module."""
    topmost: list[str] = []
    reached = {".".join(name.split(".")[:depth]) for name in called for depth in range(1, name.count(".") + 2)}
    for name, module in model.named_modules():
        inside = any(name.startswith(f"{outer}.") for outer in topmost)
        has_number = any(part.isdigit() for part in name.split("."))
        if name and name not in reached and not inside and not has_number and any(True for _ in module.parameters()):
            topmost.append(name)
            yield name
