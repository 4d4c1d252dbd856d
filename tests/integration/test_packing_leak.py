"""Packed examples do not see each other, and packing does not change the loss, on each attention that can be chosen."""

import copy
from itertools import pairwise
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from ray_distil.chat.tokenization import encode_example, padding_token
from ray_distil.config.models import resolve_model
from ray_distil.stages.packed import pack_group
from ray_distil.train import attention
from ray_distil.train.attention import FLAT
from ray_distil.train.batches import tensors_of
from ray_distil.train.loss import packed_logits, prepare
from tests.reference import token_loss

STUDENT = resolve_model("tiny:student-base", "k")
EXAMPLES = [
    ("Ann has 3 pens. She buys 4 more pens. How many pens does Ann have now?", "Step 1: Then she has 3 + 4 = 7 pens."),
    ("Ben has 9 eggs.", "Step 1: 9 - 2 = 7.\n\nThe final answer is \\boxed{7}."),
    ("Cara has 12 books.", "Twelve."),
]


def sequences(groups: list[list[tuple[str, list[int], list[int]]]]) -> dict[str, list[torch.Tensor]]:
    """A packed sequence a group, with padding behind it."""
    packed = [pack_group(group, sum(len(ids) for _, ids, _ in group) + 9, padding_token(STUDENT)) for group in groups]
    return {name: [torch.tensor(row[name]) for row in packed] for name in ("input_ids", "labels", "position_ids")}


@pytest.fixture(scope="module", params=["varlen", "sdpa", "eager"])
def model(request: pytest.FixtureRequest) -> Any:
    attention.register()
    return AutoModelForCausalLM.from_pretrained(STUDENT, dtype=torch.float32, attn_implementation=request.param)


@pytest.fixture(scope="module")
def encoded() -> list[tuple[str, list[int], list[int]]]:
    return [(str(k), *encode_example(*example, STUDENT)) for k, example in enumerate(EXAMPLES)]


def is_flat(model: Any) -> bool:
    return model.config._attn_implementation in FLAT


def test_changing_a_token_of_one_changes_no_logit_of_its_neighbours(model: Any, encoded: Any) -> None:
    """Neighbours in its sequence, and in the other sequence of the micro-batch."""
    batch = tensors_of(sequences([encoded, encoded[:2]]), [0, 1], is_flat(model))
    shape = batch["input_ids"].shape
    assert (shape[0] == 1) == is_flat(model)
    starts = (batch["position_ids"].flatten() == 0).nonzero().flatten().tolist()
    with torch.no_grad():
        before = packed_logits(model, batch).flatten(0, 1)
        for start, end in pairwise([*starts, shape.numel()]):
            changed = batch["input_ids"].flatten().clone()
            changed[start:end] = 7
            after = packed_logits(model, batch | {"input_ids": changed.view(shape)}).flatten(0, 1)
            same = torch.ones(shape.numel(), dtype=torch.bool)
            same[start:end] = False
            assert torch.equal(before[same], after[same])
            assert not torch.equal(before[~same], after[~same])


def test_packed_loss_and_gradient_are_those_of_the_examples_alone(model: Any, encoded: Any) -> None:
    model.zero_grad()
    trained = copy.deepcopy(model)
    prepare(trained)
    packed_loss = trained(**tensors_of(sequences([encoded[:2], encoded[2:]]), [0, 1], is_flat(model)))
    packed_loss.backward()
    alone_loss = torch.zeros(())
    for _, ids, labels in encoded:
        row = {name: [torch.tensor(values)] for name, values in (("input_ids", ids), ("labels", labels))}
        row["position_ids"] = [torch.arange(len(ids))]
        logits = packed_logits(model, tensors_of(row, [0], is_flat(model)))
        alone_loss = alone_loss + token_loss(logits, torch.tensor([labels]))
    alone_loss.backward()
    assert packed_loss.item() == pytest.approx(alone_loss.item(), rel=1e-6)
    for made, wanted in zip(trained.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(made.grad, wanted.grad, rtol=1e-3, atol=1e-4)


def test_loss_depends_on_the_completion_only(encoded: Any) -> None:
    _, ids, labels = encoded[0]
    logits = torch.randn(1, len(ids), 832, generator=torch.Generator().manual_seed(0))
    learnt = tensors_of(sequences([encoded[:1]]), [0], True)["learnt"]
    noisy = logits.clone()
    noisy[0, [i for i in range(len(ids)) if i not in set(learnt.tolist())]] += 1
    assert token_loss(noisy, torch.tensor([labels])) == token_loss(logits, torch.tensor([labels]))
    assert [ids[i + 1] for i in learnt.tolist()] == [label for label in labels if label != -100]
