"""Small models with the architecture of another model and random weights, to try what holds for all its sizes."""

import copy
from contextlib import suppress
from typing import Any

VOCABULARY = 128
# Sizes of the small copy; a key is used where the configuration has it. All are powers of 2.
SMALL = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
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
    "conv_dim": 64,
    "block_dim": 64,
    "block_ff_dim": 128,
    "sliding_window": 4,  # shorter than the texts that are tried
    "pad_token_id": None,
    "bos_token_id": None,
    "eos_token_id": None,
}
MOST_LAYERS = 8


def small_copy(config: Any, attn_implementation: str) -> Any:
    """A small model of the configuration's architecture with random weights and few layers.

    It has the first layers, up to the one with which each kind in `layer_types` has come at least once; without kinds,
    two. The same arguments give the same weights. Raises ValueError where this needs more than MOST_LAYERS, and
    whatever transformers raises where it cannot build the copy.
    """
    import torch
    from transformers import AutoModelForCausalLM

    config = copy.deepcopy(config).get_text_config()
    for name, size in SMALL.items():
        # Latent attention: head_dim is the size of a part of a head, and keys have as many heads as queries: they stay.
        is_part = hasattr(config, "qk_rope_head_dim") and name in (
            "head_dim",
            "num_attention_heads",
            "num_key_value_heads",
        )
        if getattr(config, name, None) is not None and not is_part:
            setattr(config, name, size)
    kinds = list(getattr(config, "layer_types", None) or [])
    layers = max((kinds.index(kind) + 1 for kind in set(kinds)), default=2)
    if layers > MOST_LAYERS:
        raise ValueError(f"its kinds of layers come together in {layers} layers only")
    if kinds:
        with suppress(AttributeError):  # some configurations compute layer_types from the number of layers
            config.layer_types = kinds[:layers]
    config.num_hidden_layers = layers
    with torch.random.fork_rng(devices=[]):  # a training's own draws stay as they are
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation=attn_implementation)
    return model.eval()
