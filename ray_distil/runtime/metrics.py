"""The metrics of a run for Prometheus, under fixed names. Ray's metrics endpoint on each node shows them as ray_NAME.

    distil_rows_written       rows in finished shards                      run, stage
    distil_rows_rejected      rows in finished reject shards               run, stage, reason
                              (a row that is rejected as same_text counts in both: it was written before)
    distil_prompt_tokens      tokens read by models                        run, stage
    distil_generated_tokens   tokens written by models                     run, stage
    distil_rows_expected      rows that a generating stage makes in all    run, stage
    distil_rows_missing       those that are not finished yet              run, stage
    distil_seconds_left       until a generating or training stage is done run, stage
    distil_gpu_hours          of engines and workers, since the driver's start  run
    distil_gpu_usd            their price, where the plan has one          run
    distil_train_step         optimiser steps done                         run
    distil_train_steps        optimiser steps in all                       run
    distil_train_loss         mean loss of the last step                   run
    distil_train_eval_loss    mean loss of the held-out sequences          run
    distil_train_grad_norm    norm of the gradient before clipping         run
    distil_train_learning_rate                                             run
    distil_train_tokens       learnt tokens                                run
    distil_train_tokens_per_s                  all tokens of the examples  run
    distil_train_learnt_tokens_per_s           learnt tokens only          run
    distil_train_mfu          share of the cards' peak, where it is known  run
    distil_train_memory_gib   highest so far, worker with the most memory  run

vLLM's engines show their own metrics beside these, as ray_vllm_NAME. The run's driver counts rows when their shard is
written: then they cannot be lost, and the counts survive the node that made the rows. The driver shows the metrics of
training too. Prometheus adds `_total` to the names of counters.
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from ray_distil.runtime.session import ray_is_there

COUNTERS = {
    "distil_rows_written": ("rows in finished shards", ("run", "stage")),
    "distil_rows_rejected": ("rows in finished reject shards", ("run", "stage", "reason")),
    "distil_prompt_tokens": ("tokens read by models", ("run", "stage")),
    "distil_generated_tokens": ("tokens written by models", ("run", "stage")),
    "distil_train_tokens": ("learnt tokens", ("run",)),
    "distil_gpu_hours": ("GPU-hours that engines and workers have held", ("run",)),
    "distil_gpu_usd": ("dollars of these GPU-hours, where plan.usd_per_gpu_hour is set", ("run",)),
}
GAUGES = {
    "distil_rows_expected": ("rows that a generating stage makes in all", ("run", "stage")),
    "distil_rows_missing": ("rows of a generating stage that are not finished yet", ("run", "stage")),
    "distil_seconds_left": ("seconds until a stage is done, at the present rate", ("run", "stage")),
    "distil_train_step": ("optimiser steps done", ("run",)),
    "distil_train_steps": ("optimiser steps in all", ("run",)),
    "distil_train_loss": ("mean loss of the last step", ("run",)),
    "distil_train_eval_loss": ("mean loss of the held-out sequences", ("run",)),
    "distil_train_grad_norm": ("norm of the gradient before clipping", ("run",)),
    "distil_train_learning_rate": ("of the last logged step", ("run",)),
    "distil_train_tokens_per_s": ("tokens of the examples a second, over all workers", ("run",)),
    "distil_train_learnt_tokens_per_s": ("learnt tokens a second, over all workers", ("run",)),
    "distil_train_mfu": ("share of the cards' peak, where it is known", ("run",)),
    "distil_train_memory_gib": ("at most so far, of the worker with the most", ("run",)),
}


def count(name: str, number: float, **tags: str) -> None:
    """Add to a counter. In a process without a running Ray, nothing is counted."""
    if number and ray_is_there():
        _metric(name).inc(number, tags)


def show(values: Mapping[str, float], **tags: str) -> None:
    """Set gauges. In a process without a running Ray, nothing is set."""
    if ray_is_there():
        for name, value in values.items():
            _metric(name).set(value, tags)


@lru_cache
def _metric(name: str) -> Any:
    from ray.util.metrics import Counter, Gauge

    kind, names = (Counter, COUNTERS) if name in COUNTERS else (Gauge, GAUGES)
    description, tags = names[name]
    return kind(name, description, tags)
