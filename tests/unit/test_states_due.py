"""When a training state is saved: by steps, and by rank 0's clock."""

import pytest
import torch
import torch.distributed as dist

from ray_distil.train.sft import agree_to_save
from tests.reference import training_settings

CPU = torch.device("cpu")


def due(steps: int | None, minutes: float | None, step: int, seconds: float) -> bool:
    return agree_to_save(step, seconds, training_settings({"save_steps": steps, "save_minutes": minutes}), CPU)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Whether rank 0 finds it late, and how often it was asked."""
    told: list[float] = []

    def broadcast(late: torch.Tensor, src: int) -> None:
        assert src == 0
        told.append(float(late))

    monkeypatch.setattr(dist, "broadcast", broadcast)
    return told


def test_by_steps_nobody_is_asked(clock: list[float]) -> None:
    assert [step for step in range(1, 10) if due(4, None, step, 1e9)] == [4, 8]
    assert not any(due(None, None, step, 1e9) for step in range(1, 10))
    assert clock == []


def test_by_minutes(clock: list[float]) -> None:
    assert [due(None, 0.5, 3, seconds) for seconds in (0, 29.9, 30, 1000)] == [False, False, True, True]
    assert clock == [0, 0, 1, 1]


def test_by_both(clock: list[float]) -> None:
    assert due(4, 30, 4, 0)
    assert clock == []
    assert due(4, 30, 5, 1800)
    assert not due(4, 30, 5, 1799)


def test_all_ranks_follow_rank_0(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dist, "broadcast", lambda late, src: late.fill_(1.0))
    assert due(None, 30, 3, 0)
    monkeypatch.setattr(dist, "broadcast", lambda late, src: late.fill_(0.0))
    assert not due(None, 30, 3, 1e9)
