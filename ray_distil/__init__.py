"""ray_distil: distil slow-thinking teachers into fast-thinking students on Ray."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ray_distil.short_names import install

__version__ = "0.1.0"
install()

if TYPE_CHECKING:
    from ray_distil.api import (
        DistillConfig,
        Plan,
        Report,
        StageError,
        load_config,
        make_plan,
        read_report,
        run_pipeline,
    )

__all__ = [
    "DistillConfig", "Plan", "Report", "StageError", "UserError", "load_config", "make_plan", "read_report",
    "run_pipeline",
]  # fmt: skip


class UserError(Exception):
    """A mistake in the configuration or the input: the message (one or two lines) says what is wrong and what to do.

    Entry points print the message alone and exit with code 2.
    """


def __getattr__(name: str) -> Any:
    """The names of `api.py`, which is loaded when the first of them is asked for: workers need none."""
    if name in __all__:
        return getattr(import_module("ray_distil.api"), name)
    raise AttributeError(f"module 'ray_distil' has no attribute {name!r}")
