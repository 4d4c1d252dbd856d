"""The loss of training is that of all logits, with its gradients, whatever the chunk; and where logits are made otherwise, too."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from ray_distil.stages.packed import pack_group
from ray_distil.train import attention, loss
from ray_distil.train.batches import tensors_of
from ray_distil.train.loss import LossHead, packed_logits, prepare
from tests.reference import token_loss

SIZES: dict[str, Any] = {
    "vocab_size": 320,
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
CONFIGS = {
    "tied": (Qwen2ForCausalLM, Qwen2Config(**SIZES, num_key_value_heads=2, tie_word_embeddings=True)),
    "untied": (Qwen2ForCausalLM, Qwen2Config(**SIZES, num_key_value_heads=2, tie_word_embeddings=False)),
    "capped": (
        Gemma2ForCausalLM,
        Gemma2Config(**SIZES, num_key_value_heads=2, head_dim=12, final_logit_softcapping=2.0),
    ),
    "scaled": (CohereForCausalLM, CohereConfig(**SIZES, num_key_value_heads=2, logit_scale=0.25, pad_token_id=0)),
    "all logits": (GPTNeoXForCausalLM, GPTNeoXConfig(**SIZES)),
}


def built(name: str, attn_implementation: str = "eager") -> Any:
    kind, config = CONFIGS[name]
    config._attn_implementation = attn_implementation
    torch.manual_seed(0)
    return kind(config).train()


def sequences() -> dict[str, list[torch.Tensor]]:
    draw = torch.Generator().manual_seed(1)
    packed = []
    for lengths in ((30, 14), (21,), (50, 60, 40)):
        examples = []
        for n in lengths:
            ids = torch.randint(1, 320, (n,), generator=draw).tolist()
            examples.append((str(n), ids, [-100] * (n // 3) + ids[n // 3 :]))
        packed.append(pack_group(examples, 160, 0))
    return {name: [torch.tensor(row[name]) for row in packed] for name in ("input_ids", "labels", "position_ids")}


def expected(name: str, rows: dict[str, list[torch.Tensor]]) -> tuple[float, dict[str, torch.Tensor]]:
    model = built(name)
    total = torch.zeros(())
    for ids, labels, positions in zip(rows["input_ids"], rows["labels"], rows["position_ids"], strict=True):
        logits = packed_logits(model, {"input_ids": ids[None], "position_ids": positions[None]})
        total = total + token_loss(logits, labels[None])
    (total / 7).backward()
    return total.item(), {key: p.grad for key, p in model.named_parameters()}


@pytest.mark.parametrize("chunk", [3, 128, 1000])
@pytest.mark.parametrize("name", ["tied", "untied"])
def test_loss_and_gradients_are_those_of_all_logits(name: str, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss, "chunk_size", lambda vocabulary, device: chunk)
    attention.register()
    rows = sequences()
    learnt = sum(int((row[1:] != -100).sum()) for row in rows["labels"])
    assert 128 < learnt < 1000, "else the chunks would be one, or never one"
    model = built(name, "varlen")
    names = [key for key, _ in model.named_parameters()]
    assert prepare(model)
    assert [key for key, _ in model.named_parameters()] == names
    total = model(**tensors_of(rows, [0, 1, 2], flat=True))
    (total / 7).backward()
    wanted, gradients = expected(name, rows)
    assert total.dtype == torch.float32
    assert total.item() == pytest.approx(wanted, rel=1e-6)
    for key, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[key], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["capped", "scaled", "all logits"])
def test_where_logits_are_not_the_output_layers_alone_the_model_makes_them(name: str) -> None:
    rows = sequences()
    for indices in ([0, 1, 2], [2]):
        model = built(name)
        prepare(model)
        assert (type(model.get_output_embeddings()) is LossHead) == (name == "all logits")
        total = model(**tensors_of(rows, indices, flat=False))
        (total / 7).backward()
        wanted, gradients = expected(name, {key: [row[i] for i in indices] for key, row in rows.items()})
        assert total.item() == pytest.approx(wanted, rel=1e-6)
        for key, parameter in model.named_parameters():
            torch.testing.assert_close(parameter.grad, gradients[key], rtol=1e-4, atol=1e-5)


def test_a_chunk_fits_the_device_and_its_matrix_units() -> None:
    for vocabulary in (832, 151_936, 10**9):
        size = loss.chunk_size(vocabulary, "cuda")
        assert size % 128 == 0
        assert 0 < (size - 128) * vocabulary <= 2**29 or size == 128
        assert loss.chunk_size(vocabulary, "cpu") <= size


def test_a_bias_is_no_plain_output_layer() -> None:
    model = built("untied")
    model.lm_head = torch.nn.Linear(48, 320)
    assert not prepare(model)


@pytest.mark.parametrize("name", ["tied", "capped"])
def test_where_nothing_is_learnt_the_loss_is_zero_and_every_weight_has_a_gradient(name: str) -> None:
    model = built(name)
    prepare(model)
    total = model(**tensors_of(sequences(), [], flat=False))
    total.backward()
    assert total.item() == 0
    assert all(p.grad is not None and not p.grad.any() for p in model.parameters())


def test_the_weights_gradient_is_summed_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bf16 sum of many chunks would be off by more than one rounding."""
    monkeypatch.setattr(loss, "chunk_size", lambda vocabulary, device: 4)
    draw = torch.Generator().manual_seed(0)
    hidden = torch.randn(2048, 32, generator=draw).to(torch.bfloat16)
    targets = torch.randint(64, (2048,), generator=draw)
    head = LossHead(32, 64, bias=False).to(torch.bfloat16)
    head(hidden, targets).backward()
    exact = head.weight.detach().double().requires_grad_()
    torch.nn.functional.cross_entropy(hidden.double() @ exact.T, targets, reduction="sum").backward()
    assert exact.grad is not None
    apart = (head.weight.grad.double() - exact.grad).norm() / exact.grad.norm()
    assert apart < 4e-3


def test_a_model_that_was_trained_is_saved_and_loaded_as_any(tmp_path: Path) -> None:
    attention.register()
    model = built("tied", "varlen")
    prepare(model)
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(again) is Qwen2ForCausalLM
    assert type(again.lm_head) is torch.nn.Linear
    assert again.config._attn_implementation == "sdpa"
    for key, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[key], tensor)


@pytest.mark.parametrize("chunk", [128, 10_000])
def test_without_gradients_none_is_made(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loss of held-out sequences: the gradient of an output layer has gigabytes."""
    monkeypatch.setattr(loss, "chunk_size", lambda *_: chunk)
    model = built("untied")
    prepare(model)
    tensors = tensors_of(sequences(), [0, 2], False)
    expected = model(**tensors).detach()
    monkeypatch.setattr(torch.autograd, "grad", lambda *_: pytest.fail("a gradient was made"))
    with torch.no_grad():
        held_out = model(**tensors)
    assert not held_out.requires_grad
    assert held_out.dtype == torch.float32
    assert torch.allclose(held_out, expected, rtol=1e-5)
