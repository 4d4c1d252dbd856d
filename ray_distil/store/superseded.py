"""Earlier makings of an artifact, in RUN/superseded/, and what a folder says of its making.

RUN/superseded/NAME-FINGERPRINT-SECONDS/     the shards of other settings or inputs; SECONDS since 1970 when they went
"""

import json
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from ray_distil.store.manifest import read_manifest
from ray_distil.store.storage import Folder

SUPERSEDED = "superseded"
ASKED = "_asked.json"
MADE_OF = "_made_of.json"
LISTINGS, LISTING_PAUSE_S = 20, 0.2


def superseded(run: Folder, artifact: str) -> list[Folder]:
    """The folders with superseded shards of the artifact, the newest first."""
    place, name = run / SUPERSEDED, artifact.replace("/", "-")
    folders = {file.partition("/")[0] for file in _files(place)}
    of_artifact = [folder for folder in folders if folder.rsplit("-", 2)[0] == name]
    return [
        place / folder for folder in sorted(of_artifact, key=lambda folder: folder.rpartition("-")[2], reverse=True)
    ]


def _files(place: Folder) -> list[str]:
    for _ in range(LISTINGS):
        with suppress(FileNotFoundError):  # another stage moves a folder meanwhile
            return place.files(recursive=True)
        time.sleep(LISTING_PAUSE_S)
    return place.files(recursive=True)


def supersede(run: Folder, artifact: str, fingerprint: str | None) -> Folder:
    """Move what is in an artifact's folder to superseded/; returns its new folder."""
    target = run / SUPERSEDED / f"{artifact.replace('/', '-')}-{fingerprint or 'unknown'}-{int(time.time())}"
    (run / artifact).move_to(target)
    return target


def earlier_making(run: Folder, artifact: str, fingerprint: str, is_training: bool) -> Folder | None:
    """The newest superseded making of an artifact with this fingerprint that is whole; of a training also a stopped one."""
    folders = superseded(run, artifact)
    for folder in folders:
        manifest = read_manifest(folder)
        if manifest is None or manifest.fingerprint != fingerprint:
            continue
        if set(manifest.files) <= set(folder.files(recursive=True)):
            return folder
    of_fingerprint = [folder for folder in folders if folder.name.rsplit("-", 2)[1] == fingerprint]
    return of_fingerprint[0] if is_training and of_fingerprint else None


def marks_of(folder: Folder) -> dict[str, list[str]]:
    """Part of an artifact -> the two marks of the settings with which its texts were made (`reuse.Reuse`)."""
    return _mapping(folder, ASKED)


def saved_made_of(folder: Folder) -> dict[str, Any]:
    """The settings and inputs of what is in an artifact's folder; {} where an earlier version has made it."""
    return _mapping(folder, MADE_OF)


def differences(old: Any, new: Any, at: str = "") -> Iterator[str]:
    """Each value that differs between two mappings, as "key.inner old -> new"."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in dict.fromkeys([*old, *new]):
            yield from differences(old.get(key), new.get(key), f"{at}.{key}" if at else str(key))
    elif old != new:
        yield f"{at} {_short(old)} -> {_short(new)}"


def _short(value: Any) -> str:
    text = "null" if value is None else " ".join(str(value).split()) or "(empty)"
    return text if len(text) <= 60 else f"{text[:57]}..."


def _mapping(folder: Folder, file: str) -> dict[str, Any]:
    try:
        saved = json.loads(folder.read_text(file))
    except (FileNotFoundError, ValueError):
        return {}
    return saved if isinstance(saved, dict) else {}
