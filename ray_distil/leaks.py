"""Whether packed examples see each other, tried on the student's own architecture with small random weights.

Attention is kept apart by position_ids that start again. An architecture with a state that runs on, a convolution, a
recurrence, has borders of other kinds, and some take no position_ids at all: none of them says a word.
"""

from contextlib import suppress
from typing import Any

from ray_distil.models import local_copy
from ray_distil.packing import pack_group
from ray_distil.sft import packed_logits

LENGTHS = (7, 5, 9)  # of the examples, in tokens
VOCABULARY = 128
# Sizes of the small copy, of those that a configuration has. All divide one another.
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
    "pad_token_id": None,
    "bos_token_id": None,
    "eos_token_id": None,
}
MOST_LAYERS = 8


def leak(model: str, attn_implementation: str = "sdpa") -> str:
    """What is wrong with packing for this model's architecture; "" if nothing.

    Flash attention needs a GPU; `sdpa` stands for it. Raises whatever transformers raises where the small copy cannot
    be built.
    """
    import torch

    chosen = "eager" if attn_implementation == "eager" else "sdpa"
    try:
        small = small_copy(model, chosen)
    except ValueError as error:
        if "attention implementation" in str(error):
            return f"its architecture has no attn_implementation={chosen}; set training.attn_implementation=eager"
        raise
    draw = torch.Generator().manual_seed(0)
    examples = [
        (str(k), torch.randint(VOCABULARY, (length,), generator=draw).tolist(), [0] * length)
        for k, length in enumerate(LENGTHS)
    ]
    try:
        with torch.no_grad():
            together = packed_logits(small, _sequence(examples))
            alone = [packed_logits(small, _sequence([example])) for example in examples]
    except TypeError as error:  # its forward takes no position_ids
        return f"its architecture cannot be packed ({error})"
    apart = float((together - torch.cat(alone, 1)).abs().max())
    size = float(together.abs().max())
    if apart <= 1e-4 * max(1.0, size):
        return ""
    return f"packed examples see each other in its architecture (logits {apart:.2g} apart)"


def small_copy(model: str, attn_implementation: str) -> Any:
    """A model of the same architecture with few layers, each kind of them once, small and of random weights."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(local_copy(model)).get_text_config()
    for name, size in SMALL.items():
        # Latent attention: head_dim is that of a part, and there are as many heads of keys as of queries.
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
        with suppress(AttributeError):  # some work it out from the number of layers
            config.layer_types = kinds[:layers]
    config.num_hidden_layers = layers
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation=attn_implementation).eval()


def _sequence(examples: list[tuple[str, list[int], list[int]]]) -> dict[str, Any]:
    import torch

    packed = pack_group(examples, sum(len(ids) for _, ids, _ in examples), 0)
    return {name: torch.tensor([packed[name]]) for name in ("input_ids", "labels", "position_ids")}
