"""ray_distil: distil slow-thinking teachers into fast-thinking students on Ray."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ray_distil.errors import DistilError, StageError, UserError
from ray_distil.version import __version__ as __version__

if TYPE_CHECKING:
    from ray_distil.api import DistillConfig, Plan, Report, load_config, make_plan, read_report, read_rows, run_pipeline

__all__ = [
    "DistilError", "DistillConfig", "Plan", "Report", "StageError", "UserError", "load_config", "make_plan",
    "read_report", "read_rows", "run_pipeline",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """The names of `api.py`, which is loaded when the first of them is used: workers need none."""
    if name in __all__:
        return getattr(import_module("ray_distil.api"), name)
    raise AttributeError(f"module 'ray_distil' has no attribute {name!r}")


def __dir__() -> list[str]:
    """For tab completion: also the names that are not loaded yet."""
    hidden = {"Any", "TYPE_CHECKING", "import_module"}
    return sorted({*globals(), *__all__} - hidden)
