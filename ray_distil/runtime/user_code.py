"""Functions of a user's own, named in the configuration by their import path: `package.module:function`.

They are imported where they are called, also in Ray's workers. A module may be installed, or be a file in the folder in
which the command is started: Ray's workers on this machine see that folder, and `ray job submit --working-dir .` takes it
to a cluster.
"""

import hashlib
import importlib
import inspect
import os
import re
import sys
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

from ray_distil.errors import UserError

PATTERN = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


@lru_cache
def load(path: str, key: str = "") -> Callable[..., Any]:
    """The function that `path` names. Raises UserError, which names the `key` of the configuration, where it is none."""
    at = f"{key}: " if key else ""
    if not PATTERN.fullmatch(path):
        raise UserError(f"{at}{path!r} is no import path; give package.module:function")
    module_name, _, name = path.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        raise UserError(
            f"{at}{module_name!r} cannot be imported ({type(error).__name__}: {error}); it must be installed, or lie in "
            "the folder in which the command is started, which goes to a cluster by `ray job submit --working-dir .`"
        ) from error
    function = getattr(module, name, None)
    if not callable(function):
        raise UserError(f"{at}{module_name!r} has no function {name!r}")
    return function  # type: ignore[no-any-return]


def with_digest(path: str, key: str = "") -> str:
    """`package.module:function@DIGEST` of the module's source, for fingerprints: with another source it is another part.

    What the module imports is not in the digest.
    """
    file = inspect.getsourcefile(inspect.unwrap(load(path, key)))
    if file is None:
        raise UserError(f"{key}: {path!r} has no source file, by which a change of it would be known")
    return f"{path}@{hashlib.sha256(Path(file).read_bytes()).hexdigest()[:16]}"
