"""Whether a training fits into the memory of its GPUs, and which setting makes it fit: told before anything is paid for."""

from collections.abc import Iterator
from math import inf
from typing import Any

from pydantic import ValidationError

from ray_distil.chat.model_files import read_config
from ray_distil.config import StagesConfig, TrainingConfig
from ray_distil.config.findings import Finding, remark
from ray_distil.planning.training_memory import Memory, Sizes, of_training

CUDA_GIB = 2.5  # of CUDA and NCCL, beside what torch allocates
MOST_WORKERS = 64


def findings(config: StagesConfig, training: TrainingConfig, student: str) -> Iterator[Finding]:
    """The GiB a GPU, as a remark; an error with the remedy where `plan.gib_per_gpu` is less.

    Nothing is said of a training on CPUs, of adapters, of experts, and of sequences whose length is not set.
    """
    length = config.packing.max_length
    if not training.use_gpu or training.lora is not None or length is None:
        return
    try:
        sizes = Sizes.of(read_config(student))
    except (ValueError, OSError):  # other checks tell of it
        return
    if sizes is None:
        return

    # What it takes, and whether it fits.
    needed, limit = _needed(training, sizes, length), config.plan.gib_per_gpu
    if limit is None or needed.gib + CUDA_GIB <= limit:
        fits = f", of {limit:g}" if limit is not None else ""
        yield remark("", f"training takes about {needed}; CUDA and NCCL 2 to 3 more{fits}")
        return
    remedies = (
        "; ".join(_remedies(training, sizes, length, limit)) or "take GPUs with more memory, or a smaller student"
    )
    yield Finding(
        "training", f"it takes about {needed}, and 2 to 3 for CUDA, but plan.gib_per_gpu is {limit:g}; {remedies}"
    )


def _needed(values: TrainingConfig, sizes: Sizes, length: int) -> Memory:
    tokens = length * values.train_micro_batch_size_per_gpu
    recompute, offload = values.gradient_checkpointing, values.offload_optimizer
    return of_training(sizes, tokens, values.num_workers, values.stage, recompute, values.bf16, offload)


def _remedies(training: TrainingConfig, sizes: Sizes, length: int, limit: float) -> Iterator[str]:
    """The settings by which the training fits: each alone where one is enough, else all that are needed together."""
    settings: list[dict[str, Any]] = [{"gradient_checkpointing": True}] if not training.gradient_checkpointing else []
    if training.train_micro_batch_size_per_gpu > 1:
        settings.append({"train_micro_batch_size_per_gpu": 1})
    stage_3: dict[str, Any] = {"zero_stage": 3} if training.stage < 3 else {}
    stage_3 |= {"torch_compile": False} if stage_3 and training.torch_compile else {}
    if stage_3 and training.num_workers > 1:
        settings.append(stage_3)
    if not training.offload_optimizer:
        settings.append({"offload_optimizer": True})
    workers = [2**k for k in range(MOST_WORKERS.bit_length()) if training.num_workers < 2**k <= MOST_WORKERS]
    settings += [{"num_workers": number} | (stage_3 if training.num_workers == 1 else {}) for number in workers]

    def gib(change: dict[str, Any]) -> float:
        """What the training takes with other settings; infinite for settings that it refuses."""
        try:
            changed = TrainingConfig.model_validate(training.model_dump() | change)
        except ValidationError:
            return inf
        return _needed(changed, sizes, length).gib

    alone: list[tuple[dict[str, Any], float]] = []
    for change in settings:
        is_more_workers = "num_workers" in change and any("num_workers" in fitting for fitting, _ in alone)
        needed = gib(change)
        if needed + CUDA_GIB <= limit and not is_more_workers:
            alone.append((change, needed))
    if alone:
        yield from (f"{_written(change)} needs {needed:.0f}" for change, needed in alone)
        return

    # Together, in the same order.
    together: dict[str, Any] = {}
    for change in settings:
        together |= change if gib(together | change) < inf else {}
        needed = gib(together)
        if needed + CUDA_GIB <= limit:
            yield f"{_written(together)} need {needed:.0f}"
            return


def _written(change: dict[str, Any]) -> str:
    return " and ".join(f"training.{key}={str(value).lower()}" for key, value in change.items())
