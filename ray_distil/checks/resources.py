"""Resources that the Ray of this machine can never give to an engine or a training worker. Such a Ray does not grow."""

import os
from collections.abc import Iterator
from functools import lru_cache
from math import ceil

from ray_distil.config import StagesConfig
from ray_distil.config.findings import Finding, remark
from ray_distil.runtime.session import counted
from ray_distil.store.storage import Folder


def what_cannot_come(config: StagesConfig) -> Iterator[Finding]:
    """A finding for each setting that asks for more resources than the Ray of this machine will ever have."""
    num_cpus = config.ray.num_cpus or os.cpu_count() or 1
    for key, engine in config.engines.items():
        yield from _engine_cpus(key, engine.num_cpus * engine.num_workers, num_cpus)
        yield from _gpus(f"{key}.num_gpus", engine.num_gpus * engine.num_workers, "an engine")
        yield from _custom(key, engine.resources)
        if engine.accelerator_type is not None and not _num_gpus():
            text = f"{engine.accelerator_type!r} is on no node; this machine has no GPU"
            yield Finding(f"{key}.accelerator_type", text)

    training = config.training
    if training is None:
        return
    workers = training.num_workers
    if workers * training.cpus_per_worker > num_cpus:
        text = (
            f"{counted(workers, 'worker')} of {training.cpus_per_worker:g} CPU, and this Ray has {num_cpus}; lower it, or raise "
            "ray.num_cpus"
        )
        yield Finding("training.num_workers", text)
    yield from _gpus("training.use_gpu", workers if training.use_gpu else 0, counted(workers, "worker"))
    yield from _custom("training", training.resources_per_worker)


def for_cluster(config: StagesConfig) -> str:
    """What a configuration with resources of its own, which mark the nodes of a cluster, needs of each; "" without any."""
    needed: dict[str, int] = {}
    for engine in config.engines.values():
        gpus = ceil(engine.num_gpus * engine.num_workers) * engine.concurrency[0]
        needed |= {role: max(needed.get(role, 0), gpus) for role in engine.resources}
    training = config.training
    if training is not None:
        gpus = training.num_workers if training.use_gpu else 0
        needed |= {role: max(needed.get(role, 0), gpus) for role in training.resources_per_worker}
    if not needed:
        return ""
    roles = " and ".join(f"{counted(gpus, 'GPU')} of role {role}" for role, gpus in needed.items())
    return f"meant for a cluster with at least {roles}; this machine has {_num_gpus() or 'none'} (cluster/README.md)"


def unwritable(folder: Folder) -> Iterator[Finding]:
    """A remark for a plan, which writes nothing, where this machine could not write a run's folder on a disk."""
    place = folder.local
    while place is not None and not place.exists() and place != place.parent:
        place = place.parent
    if place is not None and not (place.is_dir() and os.access(place, os.W_OK | os.X_OK)):
        yield remark("run.storage_path", f"{folder} cannot be written on this machine; {place} is no folder that can")


def _engine_cpus(key: str, reserved: float, num_cpus: int) -> Iterator[Finding]:
    if num_cpus - 1 < reserved <= num_cpus:
        text = f"an engine reserves {reserved:g} of {num_cpus} CPUs of this Ray, and the tasks of its rows need a whole one"
        yield Finding(f"{key}.num_cpus", f"{text}; raise ray.num_cpus")
    if reserved > num_cpus:
        text = f"an engine reserves {reserved:g} CPUs, and this Ray has {num_cpus}; lower it, or raise ray.num_cpus"
        yield Finding(f"{key}.num_cpus", text)


def _gpus(key: str, needed: float, holder: str) -> Iterator[Finding]:
    if needed > 0 and needed > _num_gpus():
        text = f"{holder} would need {needed:g} GPU{'' if needed == 1 else 's'}, and this machine has {_num_gpus() or 'none'}"
        yield Finding(key, text + _of_the_build())


def _of_the_build() -> str:
    """That the installed torch sees no GPU whatever there is."""
    import torch

    if torch.version.cuda is not None or torch.version.hip is not None:
        return ""
    return f" that torch sees: torch {torch.__version__} is a build for CPUs; see Install in README.md for GPUs"


def _custom(key: str, resources: dict[str, float]) -> Iterator[Finding]:
    for name in resources:
        yield Finding(f"{key}.resources", f"{name!r} is on no node; the Ray that a run starts has CPUs and GPUs only")


@lru_cache(maxsize=1)
def _num_gpus() -> int:
    import torch

    return int(torch.cuda.device_count())
