"""The held-out loss is shared by the ranks: every token counts once, and every rank makes as many micro-batches."""

from functools import partial
from typing import Any

import pytest
import torch
import torch.distributed as dist

from ray_distil.train.batches import tensors_of
from ray_distil.train.deepspeed_config import BatchArithmetic
from ray_distil.train.student_engine import held_out_loss


class Engine:
    """The loss of a token is its id."""

    def __init__(self) -> None:
        self.num_micro_batches, self.modes = 0, list[str]()

    def eval(self) -> None:
        self.modes.append("eval")

    def train(self) -> None:
        self.modes.append("train")

    def __call__(self, targets: torch.Tensor, **_: Any) -> torch.Tensor:
        assert self.modes == ["eval"]
        assert not torch.is_grad_enabled()
        self.num_micro_batches += 1
        return targets.float().sum()


@pytest.mark.parametrize("num_sequences", [1, 4, 5, 7])
@pytest.mark.parametrize(("num_workers", "size"), [(1, 2), (2, 2), (3, 1), (4, 2)])
def test_every_token_counts_once(
    monkeypatch: pytest.MonkeyPatch, num_sequences: int, num_workers: int, size: int
) -> None:
    rows = [torch.arange(10 * k, 10 * k + 2 + k) for k in range(num_sequences)]
    sequences = {"input_ids": rows, "labels": rows, "position_ids": [torch.arange(len(row)) for row in rows]}
    batch = BatchArithmetic(1, num_workers, size, 1, 1)
    totals: list[torch.Tensor] = []
    monkeypatch.setattr(dist, "all_reduce", lambda tensor: totals.append(tensor.clone()))
    engines = [Engine() for _ in range(num_workers)]
    for rank, engine in enumerate(engines):
        held_out_loss(engine, sequences, batch, rank, torch.device("cpu"), partial(tensors_of, flat=True))
        assert engine.modes == ["eval", "train"]
    assert len({engine.num_micro_batches for engine in engines}) == 1
    learnt = torch.cat([row[1:] for row in rows])
    assert torch.stack(totals).sum(0).tolist() == [learnt.sum(), len(learnt)]
