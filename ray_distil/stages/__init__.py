"""The stages of a run, from instructions to evaluation: what each makes of a row, and how it is built.

    from ray_distil import stages
    responses = stages.make_responses(run, problems)

The functions that make the stages are those of `chain.py`. It is loaded when the first of them is used: a worker that
needs a row function loads no more than its file.
"""

from importlib import import_module
from typing import Any

__all__ = [
    "enabled_gates", "few_kept", "make_examples", "make_instructions", "make_packed", "make_responses", "make_rewrites",
    "read_problems",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module("ray_distil.stages.chain"), name)
    raise AttributeError(f"module 'ray_distil.stages' has no attribute {name!r}")
