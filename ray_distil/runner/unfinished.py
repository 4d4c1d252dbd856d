"""The stages of a run that have begun and are not finished: rows in their shards, and when the last one was written.

Others may work on the run meanwhile. Shards come, are merged and are removed while they are counted: while a merge is
under way, its rows can be counted twice. In the rows of the last minutes a merged shard counts when it was merged.
"""

from dataclasses import dataclass, field

from ray_distil.report import report
from ray_distil.store.ahead import ahead
from ray_distil.store.artifact_reader import FINGERPRINT
from ray_distil.store.listing import is_shard, newest, rows_by_file, stored_files
from ray_distil.store.manifest import read_manifest
from ray_distil.store.shards import ATTEMPT, REJECTS_FOLDER
from ray_distil.store.storage import Folder
from ray_distil.train.step_log import read_log

RECENT_SECONDS = 600.0


@dataclass(frozen=True)
class Unfinished:
    """One stage in the middle. For training, `num_rows` and `total` are optimiser steps; else `total` is None."""

    artifact: str  # its folder in the run, e.g. "eval/fast/tiny"
    changed: float  # when its newest file was written, in seconds since 1970
    num_rows: int = 0
    num_rejected: int = 0
    num_recent: int = 0  # of both, in shards of the last RECENT_SECONDS
    num_unreadable: int = 0  # shards that are no whole Parquet files
    total: int | None = None  # 0 before the first step
    seconds: float = field(default=0.0, compare=False)  # from the last start to the newest file
    files: list[str] = field(default_factory=list, compare=False)


def unfinished_stages(run_folder: Folder, now: float) -> list[Unfinished]:
    """The unfinished stages in the order of the run. `now`: seconds since 1970."""
    stages = ahead(lambda name: _unfinished(run_folder / name, name, now), report.artifacts_of(run_folder))
    return [stage for stage in stages if stage is not None]


def _unfinished(folder: Folder, artifact: str, now: float) -> Unfinished | None:
    """None where the stage has not begun, or is finished. A manifest of other settings finishes nothing."""
    manifest = read_manifest(folder)
    if manifest is not None and _fingerprint(folder) in (manifest.fingerprint, ""):
        return None
    files = stored_files(folder)
    changed = newest(files)
    if changed is None:
        return None
    seconds = changed - next((file.changed for file in files if file.name == ATTEMPT), changed)

    if artifact == "checkpoint":
        steps = read_log(folder)
        step = steps[-1] if steps else {}
        return Unfinished(
            artifact, changed, num_rows=step.get("step", 0), total=step.get("num_steps", 0), seconds=seconds
        )

    shards = {file.name: file.changed for file in files if is_shard(file.name)}
    counts = rows_by_file(folder, list(shards))
    rejected = {name for name in counts if name.startswith(f"{REJECTS_FOLDER}/")}
    return Unfinished(
        artifact,
        changed,
        num_rows=sum(number or 0 for name, number in counts.items() if name not in rejected),
        num_rejected=sum(counts[name] or 0 for name in rejected),
        num_recent=sum(number or 0 for name, number in counts.items() if shards[name] > now - RECENT_SECONDS),
        num_unreadable=sum(number is None for number in counts.values()),
        seconds=seconds,
        files=list(counts),
    )


def _fingerprint(folder: Folder) -> str:
    """The fingerprint of the shards; "" without one."""
    try:
        return folder.read_text(FINGERPRINT).strip()
    except FileNotFoundError:
        return ""
