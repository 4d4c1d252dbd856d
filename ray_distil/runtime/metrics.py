"""What a run counts for Prometheus, under fixed names; Ray's metrics endpoint of each node shows them as ray_NAME.

    distil_rows_written       rows in finished shards                      run, stage
    distil_rows_rejected      rows in finished reject shards               run, stage, reason
    distil_prompt_tokens      tokens read by models                        run, stage
    distil_generated_tokens   tokens written by models                     run, stage
    distil_rows_expected      rows that a generating stage makes in all    run, stage
    distil_seconds_left       until they are there, at its present rate    run, stage
    distil_train_step         optimiser steps done                         run
    distil_train_steps        optimiser steps in all                       run
    distil_train_loss         mean loss of the last step                   run
    distil_train_eval_loss    mean loss of the held-out sequences          run
    distil_train_grad_norm    norm of the gradient before clipping         run
    distil_train_tokens       learnt tokens                                run

vLLM's engines show their own beside them, as ray_vllm_NAME. Rows are counted by the run's driver once their shard is
written: a row counts when it cannot be lost, and the counts outlive the node that made it. Prometheus adds `_total` to
the names of counters.
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
}
GAUGES = {
    "distil_rows_expected": ("rows that a generating stage makes in all", ("run", "stage")),
    "distil_seconds_left": ("seconds until they are there, at the present rate", ("run", "stage")),
    "distil_train_step": ("optimiser steps done", ("run",)),
    "distil_train_steps": ("optimiser steps in all", ("run",)),
    "distil_train_loss": ("mean loss of the last step", ("run",)),
    "distil_train_eval_loss": ("mean loss of the held-out sequences", ("run",)),
    "distil_train_grad_norm": ("norm of the gradient before clipping", ("run",)),
}


def count(name: str, number: float, **tags: str) -> None:
    """Add to a counter, in a process of a running Ray; elsewhere nothing is counted."""
    if number and ray_is_there():
        _metric(name).inc(number, tags)


def show(values: Mapping[str, float], **tags: str) -> None:
    """Set gauges."""
    if ray_is_there():
        for name, value in values.items():
            _metric(name).set(value, tags)


@lru_cache
def _metric(name: str) -> Any:
    from ray.util.metrics import Counter, Gauge

    kind, known = (Counter, COUNTERS) if name in COUNTERS else (Gauge, GAUGES)
    description, tags = known[name]
    return kind(name, description, tags)
