"""What a finished artifact holds, and what it depends on.

A fingerprint is a hash over everything that an artifact is made of: its part of the configuration, the fingerprints of
its inputs, the version of its stage's code. Equal fingerprints mean equal rows.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ray_distil.storage import Folder

MANIFEST = "_manifest.json"


@dataclass(frozen=True)
class Manifest:
    """What a finished artifact holds. rows_in = rows_out + rows_rejected, counted in `unit`."""

    artifact: str
    stage: str
    fingerprint: str
    unit: str
    rows_in: int
    rows_out: int
    rows_rejected: int
    rejects: dict[str, int]
    seconds: float
    files: list[str]
    summary: dict[str, Any] = field(default_factory=dict)


def fingerprint(stage: str, version: int, settings: dict[str, Any], inputs: list[str]) -> str:
    """16 hexadecimal digits over a stage's code version, its settings and the fingerprints of its inputs.

    Raises TypeError or ValueError for a setting that has no stable form in JSON (a set, an object, NaN).
    """
    text = json.dumps([stage, version, settings, inputs], sort_keys=True, ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def digest(rows: list[dict[str, Any]]) -> str:
    """What rows in memory say, for `fingerprint`."""
    return hashlib.sha256(json.dumps(rows, sort_keys=True, default=str).encode()).hexdigest()[:16]


def model_fingerprint(model: str) -> str:
    """What a model is, for `fingerprint`: a hub name as it is; a folder by its small files and the sizes of the large."""
    folder = Path(model)
    if not folder.is_dir():
        return model
    digest = hashlib.sha256()
    for file in sorted(p for p in folder.iterdir() if p.is_file()):
        size = file.stat().st_size
        digest.update(f"{file.name} {size} ".encode())
        digest.update(file.read_bytes() if size < 2**26 else b"")
    return digest.hexdigest()[:16]


def read_manifest(folder: Folder) -> Manifest | None:
    """The manifest of an artifact's folder, whatever its fingerprint; None where the artifact is not whole."""
    try:
        return Manifest(**json.loads(folder.read_text(MANIFEST)))
    except FileNotFoundError:
        return None


def write_manifest(folder: Folder, manifest: Manifest) -> Manifest:
    """Write the manifest; the artifact is whole from here on."""
    folder.write_text(MANIFEST, json.dumps(asdict(manifest), indent=1, ensure_ascii=False) + "\n")
    return manifest
