"""Ranks of a training without Ray: processes of one thread each, on this machine, that find each other by gloo."""

import json
import multiprocessing
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


def start(train: Callable[..., None], num_ranks: int, *arguments: Any) -> torch.multiprocessing.ProcessContext:
    """Start the ranks of `train(rank, *arguments)`.

    They are forked from a process that has imported the libraries: ten seconds, once for all ranks of all test files.
    """
    multiprocessing.set_forkserver_preload(["deepspeed", "transformers.trainer", "ray_distil.train.student_engine"])
    return torch.multiprocessing.start_processes(
        train, arguments, nprocs=num_ranks, join=False, start_method="forkserver"
    )


def two_ranks(train: Callable[[int, int, Path], None], folder: Path) -> list[dict[str, Any]]:
    """What two ranks of `train(rank, port, folder)` have written, RANK.json each."""
    ranks = start(train, 2, free_port(), folder)
    while not ranks.join():
        pass
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1)]
