"""The work of a training step in FLOPs, and its share of what a card can do (MFU).

Which work is counted (Chowdhery et al., 2204.02311, appendix B):

- 6 FLOPs for each parameter and token, 2 forward and 4 backward; not for the input embedding, which multiplies nothing;
- causal attention between the tokens of one example: 6 x layers x width x length^2.

Activations that are computed again are not counted.
"""

from collections.abc import Iterable
from typing import Any

# Dense bf16 FLOPs a second, from the vendors' data sheets. The first key that is a part of a card's name counts.
PEAK_FLOPS = {
    "B200": 2250e12,
    "GH200": 989e12,
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "H20": 148e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
    "A10": 125e12,
    "MI300X": 1307e12,
}


def peak_flops(card: str) -> float | None:
    """A card's peak in dense bf16 FLOPs a second, by its name in torch; None for a card that is not in PEAK_FLOPS."""
    return next((rate for part, rate in PEAK_FLOPS.items() if part in card), None)


def step_flops(num_parameters: int, num_layers: int, hidden_size: int, lengths: Iterable[int]) -> float:
    """FLOPs of a step on examples of these lengths, in tokens. `num_parameters`: the result of `matrix_parameters`."""
    tokens = squares = 0
    for length in lengths:
        tokens += length
        squares += length * length
    return 6.0 * num_parameters * tokens + 6.0 * num_layers * hidden_size * squares


def work_of(model: Any) -> tuple[float, float]:
    """FLOPs of a step for each token, and for each square of an example's length.

    A frozen matrix (LoRA) has no gradient of its own: it counts 4 FLOPs in place of 6. Layers of linear attention add
    nothing to the work for each square.
    """
    config = model.config.get_text_config()
    kinds = getattr(config, "layer_types", None) or ["full_attention"] * config.num_hidden_layers
    heads = config.num_attention_heads
    width = heads * (getattr(config, "head_dim", None) or config.hidden_size // heads)
    frozen = sum(_size(p) for p in model.parameters() if not p.requires_grad)
    total = matrix_parameters(model)
    of_token = 6.0 * total - 2.0 * min(frozen, total)
    return of_token, 6.0 * width * sum("attention" in kind and "linear" not in kind for kind in kinds)


def matrix_parameters(model: Any) -> int:
    """Parameters that a token is multiplied with: all except an input embedding that is not the output layer as well.

    A parameter that ZeRO-3 has shared out over the workers counts in its whole size.
    """
    total = sum(_size(parameter) for parameter in model.parameters())
    embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings()
    return total if head is not None and head.weight is embedding else total - _size(embedding)


def _size(parameter: Any) -> int:
    return int(getattr(parameter, "ds_numel", parameter.numel()))
