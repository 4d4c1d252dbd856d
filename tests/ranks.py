"""Ranks of a training without Ray: processes of one thread each, on this machine, that find each other by gloo."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing

from tests.integration.cluster import free_port


def join(rank: int, num_ranks: int, port: int) -> None:
    """Be this rank, of so many that meet at a port."""
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), LOCAL_RANK=str(rank))
    os.environ.update(WORLD_SIZE=str(num_ranks), LOCAL_WORLD_SIZE=str(num_ranks))
    torch.set_num_threads(1)


def two_ranks(train: Callable[[int, int, Path], None], folder: Path) -> list[dict[str, Any]]:
    """What two ranks of `train(rank, port, folder)` have written, RANK.json each."""
    torch.multiprocessing.start_processes(train, (free_port(), folder), nprocs=2, start_method="spawn")
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1)]
