"""Attention by segments is attention under a block mask, in logits and gradients, and refuses what it cannot do."""

from itertools import pairwise
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

from ray_distil.stages.packed import pack_group
from ray_distil.train import attention
from ray_distil.train.attention import varlen_attention
from ray_distil.train.batches import tensors_of
from ray_distil.train.loss import packed_logits

SIZES: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
}
LENGTHS = [5, 1, 9, 3, 12]


def model(kind: str, attn_implementation: str) -> Any:
    attention.register()
    torch.manual_seed(0)
    if kind == "window":
        config: Any = MistralConfig(**SIZES, sliding_window=4, attn_implementation=attn_implementation)
        return MistralForCausalLM(config)
    return LlamaForCausalLM(LlamaConfig(**SIZES, attn_implementation=attn_implementation))


def sequences(lengths: list[int]) -> dict[str, list[torch.Tensor]]:
    draw = torch.Generator().manual_seed(1)
    examples = [(str(n), torch.randint(64, (n,), generator=draw).tolist(), [1] * n) for n in lengths]
    packed = pack_group(examples, sum(lengths), 0)
    return {name: [torch.tensor(packed[name])] for name in ("input_ids", "labels", "position_ids")}


@pytest.mark.parametrize("kind", ["full", "window"])
def test_logits_and_gradients_are_those_of_a_block_mask(kind: str) -> None:
    rows = sequences([n for n in LENGTHS if n > 1])  # an example of one token learns nothing
    made = {}
    for name in ("varlen", "sdpa"):
        built = model(kind, name)
        logits = packed_logits(built, tensors_of(rows, [0], flat=name == "varlen"))
        logits.square().sum().backward()
        made[name] = (logits.detach(), torch.cat([p.grad.flatten() for p in built.parameters()]))
    torch.testing.assert_close(made["varlen"][0], made["sdpa"][0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(made["varlen"][1], made["sdpa"][1], rtol=1e-4, atol=1e-5)


def drawn(length: int) -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(2)
    return [torch.randn(1, heads, length, 16, generator=draw) for heads in (6, 2, 2)]


@pytest.mark.parametrize("window", [None, 3])
def test_a_segment_sees_itself_alone(window: int | None) -> None:
    borders = torch.tensor([0, *torch.tensor(LENGTHS).cumsum(0).tolist()], dtype=torch.int32)
    query, key, value = drawn(sum(LENGTHS))
    before, _ = varlen_attention(
        None, query, key, value, sliding_window=window, cu_seq_lens_q=borders, max_length_q=max(LENGTHS)
    )
    assert before.shape == (1, sum(LENGTHS), 6, 16)
    for start, end in pairwise(borders.tolist()):
        changed = [tensor.clone() for tensor in (query, key, value)]
        for tensor in changed:
            tensor[:, :, start:end] += 1
        after, _ = varlen_attention(
            None, *changed, sliding_window=window, cu_seq_lens_q=borders, max_length_q=max(LENGTHS)
        )
        inside = torch.zeros(sum(LENGTHS), dtype=torch.bool)
        inside[start:end] = True
        assert torch.equal(before[:, ~inside], after[:, ~inside])
        assert not torch.equal(before[:, inside], after[:, inside])


def test_what_it_cannot_do_is_an_error() -> None:
    borders = torch.tensor([0, 4], dtype=torch.int32)
    given: dict[str, Any] = {"cu_seq_lens_q": borders, "max_length_q": 4}
    for more, says in (
        ({"cu_seq_lens_q": None}, "no borders"),
        ({"softcap": 50.0}, "softcap"),
        ({"dropout": 0.1}, "dropout"),
        ({"s_aux": torch.zeros(6)}, "sinks"),
        ({"attention_mask": torch.ones(4, 4)}, "a mask"),
    ):
        with pytest.raises(ValueError, match=says):
            varlen_attention(None, *drawn(4), **(given | more))
