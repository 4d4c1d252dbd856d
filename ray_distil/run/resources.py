"""Resources that the Ray of this machine can never give to an engine or a training worker. Such a Ray does not grow."""

import os
from collections.abc import Iterator
from functools import lru_cache
from math import prod

from ray_distil.config import StagesConfig


def what_cannot_come(config: StagesConfig) -> Iterator[str]:
    """A line for each setting that asks for more resources than the Ray of this machine will ever have."""
    cpus = config.ray.num_cpus or os.cpu_count() or 1
    for key, asked in config.engines.items():
        workers = prod(int(asked.engine_kwargs.get(f"{kind}_parallel_size", 1)) for kind in ("tensor", "pipeline"))
        needed = asked.num_gpus * workers, asked.num_cpus * workers
        yield from _missing(key, *needed, asked.resources, cpus, "an engine")
        if asked.accelerator_type is not None and not _num_gpus():
            yield f"{key}.accelerator_type: {asked.accelerator_type!r} is on no node; this machine has no GPU"
    trained = config.training
    if trained is not None:
        many = trained.num_workers
        if many * trained.cpus_per_worker > cpus:
            yield (
                f"training.num_workers: {many} workers of {trained.cpus_per_worker:g} CPU, and this Ray has {cpus}"
                f"; lower it, or raise ray.num_cpus"
            )
        needed = many if trained.use_gpu else 0
        yield from _missing("training", needed, 0, trained.resources_per_worker, cpus, f"{many} workers")


def _missing(key: str, gpus: float, cpus: float, resources: dict[str, float], has: int, who: str) -> Iterator[str]:
    if has - 1 < cpus <= has and who == "an engine":
        yield (
            f"{key}.num_cpus: {who} reserves {cpus:g} of {has} CPUs of this Ray, and the tasks of its rows need a whole one; "
            "raise ray.num_cpus"
        )
    if cpus > has:
        yield f"{key}.num_cpus: {who} reserves {cpus:g} CPUs, and this Ray has {has}; lower it, or raise ray.num_cpus"
    if gpus > 0 and gpus > _num_gpus():
        name = "use_gpu" if key == "training" else "num_gpus"
        yield f"{key}.{name}: {who} would need {gpus:g} GPUs, and this machine has {_num_gpus() or 'none'}"
    for name in resources:
        yield f"{key}.resources: {name!r} is on no node; the Ray that a run starts has CPUs and GPUs only"


@lru_cache(maxsize=1)
def _num_gpus() -> int:
    import torch

    return int(torch.cuda.device_count())
