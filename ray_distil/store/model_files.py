"""The files of a model in an object store, copied to this machine once for all its processes."""

import os
import shutil
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from ray_distil.store.schemas import stable_id
from ray_distil.store.storage import Folder

UNUSED_S = 86_400.0


def local_copy(model: str, weights: bool = False) -> str:
    """Where a model's files are on this machine: of a model in an object store, a copy, made once for all processes.

    Without `weights` the copy lacks those: for the tokenizer and the configuration. A hub name is returned unchanged.
    """
    if "://" not in model:
        return model
    source = Folder(model)
    key = stable_id(model, str(weights), *(str(part) for part in source.state()))
    target = Path(tempfile.gettempdir()) / "ray_distil" / "models" / key
    if not target.is_dir():
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as staging:
            made = Path(staging) / "model"
            source.download(made, lambda name: weights or not name.endswith((".safetensors", ".bin", ".pt")))
            try:
                made.rename(target)
            except OSError:  # another process was faster
                if not target.is_dir():
                    raise
        _remove_unused(target.parent)
    os.utime(target)
    return str(target)


def _remove_unused(copies: Path) -> None:
    """Remove the copies that no process has asked for in a day: each student is another."""
    for copy in copies.iterdir():
        with suppress(OSError):  # another process was faster
            if time.time() - copy.stat().st_mtime > UNUSED_S:
                shutil.rmtree(copy)
