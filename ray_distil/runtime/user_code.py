"""Functions of a user's own, named in the configuration by their import path: `package.module:function`.

They are imported where they are called, also in Ray's workers. A module may be installed, or be a file in the folder in
which the command is started: Ray's workers on this machine see that folder, and `ray job submit --working-dir .` takes it
to a cluster. A file in that folder comes before an installed module of its name, here as in the workers.
"""

import hashlib
import importlib
import inspect
import os
import re
import sys
import traceback
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from ray_distil.errors import UserError

PATTERN = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


class Imported(NamedTuple):
    """A function, the file of the module that its path names, and a digest of that file when it was imported."""

    function: Callable[..., Any]
    file: Path
    digest: str


def load(path: str, key: str = "") -> Callable[..., Any]:
    """The function that `path` names. Raises UserError, which names the `key` of the configuration, where it is none."""
    try:
        return imported(path).function
    except UserError as error:
        raise UserError(f"{key}: {error}" if key else str(error)) from error


def call(path: str, key: str, *arguments: Any) -> Any:
    """The result of the function. An exception of it is a UserError that names the path."""
    function = load(path, key)
    try:
        return function(*arguments)
    except Exception as error:
        raise UserError(f"{key}: {path} raised {type(error).__name__}: {error}{_line_of(error, path)}") from error


def _line_of(error: Exception, path: str) -> str:
    """Where in the user's own module the error was raised, e.g. " (my_gates.py:12)"; "" where it was elsewhere."""
    file = imported(path).file
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if Path(frame.filename).resolve() == file.resolve()]
    return f" ({file.name}:{lines[-1]})" if lines else ""


def wrong_call(path: str, **arguments: str) -> str:
    """Why the function cannot be called with the arguments, a name -> a value for each in their order; "" where it can."""
    try:
        inspect.signature(load(path)).bind(*arguments.values())
    except (TypeError, ValueError) as error:
        return f"{path} is called with {' and '.join(arguments)}: {error}"
    return ""


def mark(path: str) -> str:
    """`package.module:function@DIGEST`, by the source of the module when this process imported it.

    What the module imports itself is not in the digest.
    """
    return f"{path}@{imported(path).digest}"


def current_mark(path: str, key: str) -> str:
    """`mark`, for fingerprints. Raises UserError where the module has changed since this process imported it."""
    load(path, key)
    if _digest(imported(path).file) != imported(path).digest:
        raise UserError(f"{key}: {imported(path).file} has changed since it was imported; start this program again")
    return mark(path)


@lru_cache
def imported(path: str) -> Imported:
    if not PATTERN.fullmatch(path):
        raise UserError(f"{path!r} is no import path; give package.module:function")
    module_name, _, name = path.partition(":")
    if os.getcwd() not in sys.path[:1]:
        sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        raise UserError(
            f"{module_name!r} cannot be imported ({type(error).__name__}: {error}); it must be installed, or lie in the "
            "folder in which the command is started, which goes to a cluster by `ray job submit --working-dir .`"
        ) from error
    file = getattr(module, "__file__", None)
    if file is None:
        raise UserError(f"{module_name!r} has no source file, by which a change of it would be known")
    if not callable(function := getattr(module, name, None)):
        raise UserError(f"{module_name!r} has no function {name!r} ({file})")
    return Imported(function, Path(file), _digest(Path(file)))


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()[:16]
