"""The files of models: of the Hugging Face hub at a commit, which never change, and copies from object stores.

    Qwen/Qwen3-8B                what the hub has at this moment
    Qwen/Qwen3-8B@v1.0           a branch, a tag or a commit
    Qwen/Qwen3-8B@b968826d...    a commit, of 40 digits: what a run's stages are given

`runner/frozen.py` keeps the commits of a run.
"""

import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fnmatch import fnmatch
from functools import lru_cache
from json import JSONDecodeError
from pathlib import Path

from filelock import FileLock

from ray_distil.errors import UserError
from ray_distil.store.schemas import stable_id
from ray_distil.store.storage import Folder

TIMEOUT_S = 20
COMMIT = re.compile(r"[0-9a-f]{40}")
WEIGHTS = ["*.safetensors", "*.bin", "*.pt", "*.pth", "*.ckpt", "*.gguf", "*.onnx", "*.h5", "*.msgpack", "*.ot"]
# What no engine reads.
OTHER_FORMATS = ["original/*", "*.pth", "*.ckpt", "*.gguf", "*.onnx", "*.h5", "*.msgpack", "*.ot"]
SAMPLES = ["*.png", "*.jpg", "*.jpeg", "*.gif", "*.mp4", "*.pdf", "original/*", "onnx/*", "metal/*"]
UNUSED_S = 86_400.0  # after which a copy of a model from an object store is removed


def is_hub_name(model_source: str) -> bool:
    """Whether a model_source can be a hub name, ORG/NAME or ORG/NAME@REVISION, and not a path."""
    name, mark, revision = model_source.partition("@")
    is_name = name.count("/") == 1 and not name.startswith((".", "~", "/")) and ":" not in name
    return is_name and bool(revision) == bool(mark)


def split(model: str) -> tuple[str, str | None]:
    """`(ORG/NAME, revision or None)` of a hub name."""
    name, _, revision = model.partition("@")
    return name, revision or None


def is_at_commit(model: str) -> bool:
    """Whether a model is ORG/NAME@COMMIT."""
    return is_hub_name(model) and COMMIT.fullmatch(split(model)[1] or "") is not None and not Path(model).is_dir()


def cached(model: str, file: str) -> str | None:
    """The path of a file of a hub's model in the hub's cache on this machine; None where it is not there."""
    from huggingface_hub import constants, try_to_load_from_cache
    from huggingface_hub.file_download import repo_folder_name

    name, revision = split(model)
    path = try_to_load_from_cache(name, file, revision=revision)
    if isinstance(path, str):
        return path
    if revision is not None:
        return None
    # A download at a commit leaves no mark of which commit is the newest one: that of the newest copy is taken.
    snapshots = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=name, repo_type="model") / "snapshots"
    copies = sorted(snapshots.glob(f"*/{file}"), key=lambda copy: copy.lstat().st_mtime)
    return str(copies[-1]) if copies else None


def is_away(error: Exception) -> bool:
    """Whether an error of huggingface_hub says nothing of the model: no network, the hub is busy or switched off."""
    is_of_name = isinstance(error, ValueError) and not isinstance(error, JSONDecodeError)  # this one: a proxy's page
    return not is_of_name and status_of(error) not in (401, 403, 404)


def refusal(model: str, error: Exception) -> str:
    """What an error of huggingface_hub says of a model, and the remedy."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    name, revision = split(model)
    if is_away(error):
        status = status_of(error)
        reason = f"HTTP {status}" if status else type(error).__name__
        return (
            f"the hub cannot be reached ({reason}): set HF_ENDPOINT to a mirror or HTTPS_PROXY to a proxy, or fetch the "
            f"model elsewhere by `ray-distil download {name}`, and give its folder"
        )
    if isinstance(error, GatedRepoError):
        return (
            f"{name} is gated: accept its licence on the hub's page of it, and set HF_TOKEN to a token of that account"
        )
    if isinstance(error, RepositoryNotFoundError):
        return f"the hub has no model of the name {name}; correct it, or set HF_TOKEN if it is a private one"
    if isinstance(error, RevisionNotFoundError):
        return f"the hub has no revision {revision} of {name}; give one of its branches, tags or commits"
    if isinstance(error, ValueError):  # no name that a hub could have, or a mirror that names no commits
        return " ".join(str(error).split())
    return f"the hub refuses {name} (HTTP {status_of(error)}): set HF_TOKEN to a token that may read it"


def is_refused(error: Exception) -> bool:
    """Whether a hub has answered that it does not give a model."""
    return status_of(error) is not None and not is_away(error)


def status_of(error: Exception) -> int | None:
    """The HTTP status of an error; None where no server has answered."""
    return getattr(getattr(error, "response", None), "status_code", None)


def newest(model: str, timeout: float = TIMEOUT_S) -> str:
    """The commit that the hub has for a name now. Raises an error of huggingface_hub where it does not say."""
    from huggingface_hub import HfApi

    name, revision = split(model)
    commit = HfApi().model_info(name, revision=revision, timeout=timeout).sha
    if commit is None:  # a mirror of the hub may have none
        raise ValueError(f"the hub names no commit of {name}")
    return str(commit)


def commit_of(model: str) -> str | None:
    """The commit of a name: by the hub's cache on this machine, else by the hub; None where neither knows it."""
    _, revision = split(model)
    if revision is not None and COMMIT.fullmatch(revision):
        return revision
    if (path := cached(model, "config.json")) is not None:
        return Path(path).parent.name  # .../snapshots/COMMIT/config.json
    try:
        return newest(model)
    except Exception:  # noqa: BLE001  of many types; where the model is loaded, a missing one is an error
        return None


@lru_cache(maxsize=64)
def snapshot(model: str, weights: bool, cache: str | None = None, every_format: bool = False) -> str:
    """The folder of a model's files at a commit, in the hub's cache on this machine; what is missing is downloaded.

    model: ORG/NAME@COMMIT. Without `weights`, the configuration and the tokenizer are enough. cache: another folder than
    the hub's own. every_format: weights in pickles too where there are safetensors. Raises UserError where the
    hub has no such model, or does not give it to this user; OSError where it does not answer.
    """
    from huggingface_hub import snapshot_download

    name, commit = split(model)
    left_out = OTHER_FORMATS
    if not weights:
        left_out = WEIGHTS + SAMPLES
    elif not every_format and _has_safetensors(name, commit):
        left_out = [*OTHER_FORMATS, "*.bin", "*.pt"]
    try:
        with _bars(weights):
            return str(snapshot_download(name, revision=commit, cache_dir=cache, ignore_patterns=left_out))
    except Exception as error:  # its types are many: gated, no network, too many requests, no space on the disk
        if is_refused(error):
            raise UserError(f"its files at commit {commit} did not come: {refusal(model, error)}") from error
        reason = (str(error).strip().splitlines() or [""])[0]
        raise OSError(
            f"{name}: its files at commit {commit} did not come ({type(error).__name__}: {reason}); those that have come "
            "stay in the hub's cache, and the same command goes on from there"
        ) from error


@contextmanager
def _bars(enabled: bool) -> Iterator[None]:
    """Bars of a download, which go to stderr: for weights, not for a configuration's few files."""
    from huggingface_hub import utils

    if enabled or utils.are_progress_bars_disabled():
        yield
        return
    utils.disable_progress_bars()
    try:
        yield
    finally:
        utils.enable_progress_bars()


def _has_safetensors(name: str, commit: str | None) -> bool:
    """Whether the weights are there as safetensors; files of another format are then not needed. False if unknown."""
    from huggingface_hub import HfApi

    cached_config = cached(f"{name}@{commit}", "config.json")
    if cached_config is not None and any(Path(cached_config).parent.glob("*.safetensors")):
        return True
    try:
        return any(file.endswith(".safetensors") for file in HfApi().list_repo_files(name, revision=commit))
    except Exception:  # noqa: BLE001  of many types
        return False


def local_copy(model: str, weights: bool = False, cache: str | None = None, every_format: bool = False) -> str:
    """The folder of a model's files on this machine. A model in an object store is copied, once for all processes.

    Without `weights` the copy has no weights: it serves for the tokenizer and the configuration. ORG/NAME@COMMIT is taken
    from the hub, by way of its cache in the folder `cache`, or its own; with `every_format` also weights of other formats
    than safetensors. The path of a folder, or a hub name without a commit, is returned unchanged.
    """
    if "://" not in model:
        return snapshot(model, weights, cache, every_format) if is_at_commit(model) else model
    source = Folder(model)
    key = stable_id(model, str(weights), *(str(part) for part in source.state()))
    target = Path(tempfile.gettempdir()) / "ray-distil" / "models" / key
    if not target.is_dir():
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{target}.lock"):  # the kernel lets the next process in when one dies
            if not target.is_dir():
                with tempfile.TemporaryDirectory(dir=target.parent) as staging:
                    folder = Path(staging) / "model"
                    source.download(folder, lambda name: weights or not _is_weights(name))
                    folder.rename(target)
                _remove_unused(target.parent)
    os.utime(target)
    return str(target)


def _is_weights(name: str) -> bool:
    return any(fnmatch(name, pattern) for pattern in WEIGHTS)


def _remove_unused(copies: Path) -> None:
    """Remove copies that no process has asked for in a day (UNUSED_S): each new student makes one more copy."""
    for copy in (path for path in copies.iterdir() if path.is_dir()):
        with suppress(OSError):  # another process was faster
            if time.time() - copy.stat().st_mtime > UNUSED_S:
                shutil.rmtree(copy)
