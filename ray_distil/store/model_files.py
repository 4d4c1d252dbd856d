"""The files of a model on this machine: copied from an object store, or at a commit of the hub."""

import fcntl
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ray_distil.store import hub
from ray_distil.store.schemas import stable_id
from ray_distil.store.storage import Folder

UNUSED_S = 86_400.0
_copying = threading.Lock()


def local_copy(model: str, weights: bool = False, cache: str | None = None, every_format: bool = False) -> str:
    """The folder of a model's files on this machine. A model in an object store is copied, once for all processes.

    Without `weights` the copy has no weights: it serves for the tokenizer and the configuration. ORG/NAME@COMMIT is taken
    from the hub, by way of its cache in the folder `cache`, or its own; with `every_format` also weights of other formats
    than safetensors. The path of a folder, or a hub name without a commit, is returned unchanged.
    """
    if "://" not in model:
        return hub.snapshot(model, weights, cache, every_format) if hub.is_at_commit(model) else model
    source = Folder(model)
    key = stable_id(model, str(weights), *(str(part) for part in source.state()))
    target = Path(tempfile.gettempdir()) / "ray-distil" / "models" / key
    if not target.is_dir():
        with _alone(target):
            if not target.is_dir():
                with tempfile.TemporaryDirectory(dir=target.parent) as staging:
                    made = Path(staging) / "model"
                    source.download(made, lambda name: weights or not name.endswith((".safetensors", ".bin", ".pt")))
                    made.rename(target)
                _remove_unused(target.parent)
    os.utime(target)
    return str(target)


@contextmanager
def _alone(target: Path) -> Iterator[None]:
    """One process of this machine at a time, one thread of it; the kernel lets the next one in when a process dies."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with _copying, open(f"{target}.lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _remove_unused(copies: Path) -> None:
    """Remove copies that no process has asked for in a day (UNUSED_S): each new student makes one more copy."""
    for copy in (path for path in copies.iterdir() if path.is_dir()):
        with suppress(OSError):  # another process was faster
            if time.time() - copy.stat().st_mtime > UNUSED_S:
                shutil.rmtree(copy)
