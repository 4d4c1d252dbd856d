"""FLOPs of a step against numbers worked out apart, and torch's own count."""

import pytest

from ray_distil.train import meter
from ray_distil.train.small_copies import small_copy


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H200", 989e12),
        ("NVIDIA H20", 148e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA A10G", 125e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA L40S", 362e12),
        ("Tesla T4", None),
    ],
)
def test_a_card_is_known_by_its_name(name: str, peak: float | None) -> None:
    assert meter.peak_flops(name) == peak


def test_flops_of_qwen2_5_0_5b() -> None:
    """494 M parameters, tied: 2.96 GFLOP a token (research: 6 N), and attention within each example alone."""
    plain = meter.step_flops(494_000_000, 24, 896, [1])
    assert plain == pytest.approx(2.964e9, rel=1e-3)
    one, several = ([8192], [512] * 16)
    apart = meter.step_flops(494_000_000, 24, 896, one) - meter.step_flops(494_000_000, 24, 896, several)
    assert apart == 6 * 24 * 896 * (8192**2 - 16 * 512**2)


@pytest.mark.parametrize("tied", [True, False])
def test_the_count_is_torchs_own(tied: bool) -> None:
    """Of forward and backward of one example; torch counts attention in full, and twice the causal half of it."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import Qwen2Config

    config = Qwen2Config(tie_word_embeddings=tied, num_hidden_layers=2, layer_types=None)
    model = small_copy(config, "eager").train()
    length = 48
    ids = torch.arange(length)[None] % config.get_text_config().vocab_size % 128
    with FlopCounterMode(display=False) as counted:
        model(input_ids=ids, labels=ids).loss.backward()
    sizes = model.config
    own = meter.step_flops(meter.matrix_parameters(model), sizes.num_hidden_layers, sizes.hidden_size, [length])
    full = own + 6 * sizes.num_hidden_layers * sizes.hidden_size * length**2
    vectors = 6 * length * sum(p.numel() for p in model.parameters() if p.ndim == 1)  # norms and biases: no product
    assert full - vectors == pytest.approx(counted.get_total_flops(), rel=0.005)
