"""Packed examples do not see each other, and packing does not change the loss, on each attention that can be chosen."""

from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from ray_distil.models import resolve_model
from ray_distil.packing import pack_group
from ray_distil.sft import packed_logits, token_loss
from ray_distil.tokenization import encode_example, padding_token

STUDENT = resolve_model("tiny:student-base", "k")
EXAMPLES = [
    ("Ann has 3 pens. She buys 4 more pens. How many pens does Ann have now?", "Step 1: Then she has 3 + 4 = 7 pens."),
    ("Ben has 9 eggs.", "Step 1: 9 - 2 = 7.\n\nThe final answer is \\boxed{7}."),
    ("Cara has 12 books.", "Twelve."),
]


def sequence(examples: list[tuple[str, list[int], list[int]]], length: int) -> dict[str, torch.Tensor]:
    packed = pack_group(examples, length, padding_token(STUDENT))
    return {name: torch.tensor([packed[name]]) for name in ("input_ids", "labels", "position_ids")}


@pytest.fixture(scope="module", params=["sdpa", "eager"])
def model(request: pytest.FixtureRequest) -> Any:
    return AutoModelForCausalLM.from_pretrained(STUDENT, dtype=torch.float32, attn_implementation=request.param)


@pytest.fixture(scope="module")
def encoded() -> list[tuple[str, list[int], list[int]]]:
    return [(str(k), *encode_example(*example, STUDENT)) for k, example in enumerate(EXAMPLES)]


def test_changing_a_token_of_one_changes_no_logit_of_its_neighbours(model: Any, encoded: Any) -> None:
    lengths = [len(ids) for _, ids, _ in encoded]
    batch = sequence(encoded, sum(lengths) + 9)
    with torch.no_grad():
        before = packed_logits(model, batch)
        for k, length in enumerate(lengths):
            start = sum(lengths[:k])
            changed = {name: tensor.clone() for name, tensor in batch.items()}
            changed["input_ids"][0, start : start + length] = 7
            after = packed_logits(model, changed)
            same = torch.ones(batch["input_ids"].shape[1], dtype=torch.bool)
            same[start : start + length] = False
            assert torch.equal(before[0, same], after[0, same])
            assert not torch.equal(before[0, ~same], after[0, ~same])


def test_packed_loss_and_gradient_are_those_of_the_examples_alone(model: Any, encoded: Any) -> None:
    def gradient(batches: list[dict[str, torch.Tensor]]) -> tuple[float, torch.Tensor]:
        model.zero_grad()
        loss = sum((token_loss(packed_logits(model, b), b["labels"]) for b in batches), torch.zeros(()))
        loss.backward()
        return loss.item(), torch.cat([p.grad.flatten() for p in model.parameters()])

    packed_loss, packed = gradient([sequence(encoded, 256)])
    alone_loss, alone = gradient([sequence([example], len(example[1])) for example in encoded])
    assert packed_loss == pytest.approx(alone_loss, rel=1e-5)
    assert torch.allclose(packed, alone, rtol=1e-3, atol=1e-4)


def test_loss_depends_on_the_completion_only(model: Any, encoded: Any) -> None:
    batch = sequence(encoded[:1], 128)
    logits = packed_logits(model, batch).detach()
    learnt = (batch["labels"][0, 1:] != -100).nonzero().flatten()
    noisy = logits.clone()
    noisy[0, [i for i in range(127) if i not in set(learnt.tolist())]] += torch.randn(832)
    assert token_loss(noisy, batch["labels"]) == token_loss(logits, batch["labels"])
