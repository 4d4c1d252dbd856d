"""The work of a training step in FLOPs, and its share of what a card can do (MFU).

Which work is counted: 6 FLOPs a parameter and token, two forward and four backward, without the input embedding, which
multiplies nothing; and attention between the tokens of one example, causal, 6 x layers x width x length^2. Activations
that are computed again are not counted (Chowdhery et al., 2204.02311, appendix B).
"""

from collections.abc import Iterable
from typing import Any

# Dense bf16 FLOPs a second, from the vendors' data sheets; a card is known by a part of its name, the first that fits.
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
    """What a card can do a second, by its name as torch has it; None where it is not known."""
    return next((rate for part, rate in PEAK_FLOPS.items() if part in card), None)


def step_flops(num_parameters: int, num_layers: int, hidden_size: int, lengths: Iterable[int]) -> float:
    """FLOPs of a step on examples of these lengths, in tokens. `num_parameters`: of `matrix_parameters`."""
    tokens = squares = 0
    for length in lengths:
        tokens += length
        squares += length * length
    return 6.0 * num_parameters * tokens + 6.0 * num_layers * hidden_size * squares


def matrix_parameters(model: Any) -> int:
    """Parameters that a token is multiplied with: all but the input embedding, unless the output layer is the same.

    A part of the model that another worker holds (ZeRO-3) counts in its whole size.
    """
    total = sum(_size(parameter) for parameter in model.parameters())
    embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings()
    return total if head is not None and head.weight is embedding else total - _size(embedding)


def _size(parameter: Any) -> int:
    return int(getattr(parameter, "ds_numel", parameter.numel()))
