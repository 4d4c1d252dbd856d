"""Modules by their names without a room: `from ray_distil import instructions` is `ray_distil.rows.instructions`.

For programs that use parts of this package; within it, imports name the room.
"""

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

MODULES = {
    "generate": ("endpoint", "engine", "rate_limits"),
    "rows": ("curation", "evaluation", "instructions", "long2short", "packing", "teacher"),
    "run": ("plan", "pipeline", "runs", "stages"),
    "runtime": ("session",),
    "store": ("schemas", "storage"),
    "texts": ("agreement", "answers", "gates", "prompts", "reasoning", "sources", "tokenization"),
    "config": ("engine_config", "models"),
}
FULL_NAMES = {f"ray_distil.{name}": f"ray_distil.{room}.{name}" for room, names in MODULES.items() for name in names}


class ShortNames(MetaPathFinder, Loader):
    """Gives the module itself under its short name: one module, not a copy."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return ModuleSpec(fullname, self) if fullname in FULL_NAMES else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = import_module(FULL_NAMES[spec.name])
        self._own = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self._own  # the import system has put the short name's there


def install() -> None:
    if not any(isinstance(finder, ShortNames) for finder in sys.meta_path):
        sys.meta_path.append(ShortNames())
