"""What a run holds at any time: its finished stages, those in the middle, and whether somebody works on it.

Nothing is written, and Ray is not needed: the run may be made by another machine.
"""

import re
import time
from contextlib import suppress

from rich.table import Table

from ray_distil.checks import losses
from ray_distil.commands import last_command
from ray_distil.commands.last_command import LastCommand
from ray_distil.config import StagesConfig
from ray_distil.errors import ConfigError
from ray_distil.records.problems import Problems
from ray_distil.report import cost, provenance, report
from ray_distil.report.benchmark_tables import DASH
from ray_distil.report.contents import console_table
from ray_distil.report.cost import StageFiles
from ray_distil.runner import frozen
from ray_distil.runner.lease import is_at_work
from ray_distil.runner.runs import Run
from ray_distil.runner.shipped_logs import LOGS
from ray_distil.runner.unfinished import RECENT_SECONDS, Unfinished, unfinished_stages
from ray_distil.runtime.session import last_line
from ray_distil.store.listing import stored_files
from ray_distil.store.manifest import MANIFEST, read_manifest
from ray_distil.store.schemas import ARTIFACTS
from ray_distil.store.storage import Folder

HEADER = ("Stage", "Out", "Rejected", f"Last {RECENT_SECONDS / 60:.0f} min", "Newest", "State")


def tables(run_folder: Folder, now: float | None = None) -> list[Table | str]:
    """The finished stages, those in the middle, lines on how the last command ended, if it failed, and the cost.

    Raises UserError where there is no run.

    `now`: seconds since 1970; None: the time of this machine.
    """
    now = time.time() if now is None else now
    finished = report.read(run_folder)
    unfinished = unfinished_stages(run_folder, now)
    names = {stage.artifact for stage in unfinished}
    stages_and_cost: list[Table | str] = [report.stages_table(finished, without=names)]
    at_work = is_at_work(run_folder, max((stage.changed for stage in unfinished), default=0.0), now)
    if unfinished:
        rows = [_row(stage, at_work, now) for stage in unfinished]
        stages_and_cost.append(console_table("In the middle", HEADER, rows, left=(0, 4, 5)))
    if not at_work and (failed := failure(run_folder, [stage["name"] for stage in finished.stages], now)):
        stages_and_cost.append(failed)

    files = [stage for stage in finished.files if stage.artifact not in names]
    files += [StageFiles(stage.artifact, stage.seconds, stage.files) for stage in unfinished]
    if costs := cost.costs(run_folder, provenance.saved_config(run_folder), files):
        stages_and_cost.append(report.cost_table(costs))
    return stages_and_cost


def remarks_on_plan(config: StagesConfig, records: Problems | None = None) -> list[str]:
    """What a plan's run has already, which the plan counts all the same, and what the run would refuse to lose.

    From manifests, and rows of texts only where settings have changed. Nothing is written.
    """
    folder = config.run_folder
    if not folder.is_folder():
        return []
    finished = [m for m in map(read_manifest, map(folder.__truediv__, report.artifacts_of(folder))) if m is not None]
    paid = [manifest for manifest in finished if ARTIFACTS[manifest.artifact.partition("/")[0]].is_costly]
    parts = [f"{manifest.artifact} complete ({manifest.rows_in:,} {manifest.unit})" for manifest in paid]
    parts += [f"{stage.artifact} {stage.num_rows:,} so far" for stage in unfinished_stages(folder, time.time())]
    if not parts:
        return []
    lines = [f"{folder} is there: {provenance.first_of(parts)}; the plan counts all, as for a new run"]
    if config.teachers is None or any(manifest.artifact == "instructions" for manifest in finished):
        with suppress(ConfigError, OSError):  # a model that is not here: the checks say so
            lines += losses.remarks(Run(config, frozen.resolved(config)[0]), records)
    return lines


def failure(run_folder: Folder, stages: list[str], now: float) -> str:
    """How the last command ended, by its record and its log; "" where it did not fail.

    Runs of earlier versions have no record. Their last command has not failed where one of the `stages` was finished
    since the log of its error.
    """
    record, logs = last_command.read(run_folder), stored_files(run_folder / LOGS, recursive=False)
    newest = max((file for file in logs if file.name.startswith("error")), key=lambda file: file.changed, default=None)
    if record is not None and record.code != 0:
        log = newest.name if newest is not None and record.code == 1 else last_command.FILE
        return _ending(record, str(run_folder / LOGS / log), now)

    # An error of which there is only a log.
    times = [run_folder.modified(f"{stage}/{MANIFEST}") for stage in stages] if newest is not None else []
    times += [file.changed for file in logs if file.name == last_command.FILE]
    if newest is None or any((time or 0.0) > newest.changed for time in times):
        return ""

    # An error of this package says it in its own words; of another one, the cause does.
    text = (run_folder / LOGS).read_text(newest.name)
    own_errors = re.findall(r"^ray_distil\.errors\.\w+: (.+)$", text, re.MULTILINE)
    words = (
        own_errors[-1] if own_errors else last_line(RuntimeError(text or "its log is empty, as a full disk leaves it"))
    )
    return f"The last command failed {duration(now - newest.changed)} ago: {words}\nall of it: {run_folder / LOGS / newest.name}"


def _ending(record: LastCommand, log: str, now: float) -> str:
    """How a command ended, in two lines; in a third one where the file `log` has more of its error."""
    ago = f"{duration(now - (record.ended or record.began))} ago"
    first, _, more = record.message.partition("\n")
    if record.code is None:
        line = f"The last command, which began {ago}, was killed or lost its machine: it left no exit code"
    elif record.code in (130, 143):
        line = f"The last command was interrupted (exit code {record.code}) {ago}"
    else:
        line = f"The last command ended with exit code {record.code}, {ago}: {first}"
    is_longer = record.code == 1 or bool(more)
    return f"{line}\ncommand: {record.command}" + (f"\nall of it: {log}" if is_longer else "")


def _row(stage: Unfinished, at_work: bool, now: float) -> list[str]:
    age = duration(now - stage.changed)
    state = "at work" if at_work else f"stopped for {age}"
    if stage.num_unreadable:
        state += f"; {stage.num_unreadable:,} shards are no whole files"
    if stage.total is not None:
        steps = f"step {stage.num_rows:,}" + (f" of {stage.total:,}" if stage.total else "")
        return [stage.artifact, steps, DASH, DASH, f"{age} ago", state]
    counts = [f"{number:,}" for number in (stage.num_rows, stage.num_rejected, stage.num_recent)]
    return [stage.artifact, *counts, f"{age} ago", state]


def duration(seconds: float) -> str:
    """The largest whole unit: "12 s", "5 min", "3 h", "2 d"; 0 where clocks disagree."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds // length:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"
