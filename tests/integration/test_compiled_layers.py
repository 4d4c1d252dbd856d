"""`training.torch_compile` changes no loss and no gradient, with rows of several lengths and with recompute."""

from typing import Any

import pytest
import torch

from ray_distil.train import attention
from ray_distil.train.batches import tensors_of
from ray_distil.train.loss import prepare
from ray_distil.train.sft import compile_layers
from tests.unit.test_loss import built, sequences

pytestmark = pytest.mark.long


def steps(compiled: bool, recompute: bool) -> list[tuple[float, torch.Tensor]]:
    attention.register()
    model: Any = built("tied", "varlen")
    prepare(model)
    if recompute:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    if compiled:
        compile_layers(model)
    made = []
    for indices in ([0, 1, 2], [1], [2, 0], []):
        model.zero_grad()
        total = model(**tensors_of(sequences(), indices, flat=True, multiple=16))
        total.backward()
        made.append((total.item(), torch.cat([p.grad.flatten() for p in model.parameters()])))
    return made


@pytest.mark.parametrize("recompute", [False, True])
def test_compiled_layers_learn_the_same(recompute: bool) -> None:
    for (loss, gradient), (wanted, expected) in zip(steps(True, recompute), steps(False, recompute), strict=True):
        assert loss == pytest.approx(wanted, rel=1e-6)
        torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-5)
