"""Remove what a run has superseded: the rows and training states of earlier settings or inputs.

ray-distil clean runs/one-gpu                     lists the folders in runs/one-gpu/superseded, and removes nothing
ray-distil clean runs/one-gpu --yes               removes them
ray-distil clean s3://BUCKET/runs/first --yes     the same in an object store
"""

import shlex
import time
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from rich.table import Table

from ray_distil.commands import cli
from ray_distil.commands.status import duration
from ray_distil.report.benchmark_tables import DASH
from ray_distil.report.contents import console_table
from ray_distil.report.provenance import check_run
from ray_distil.runner.lease import run_lock
from ray_distil.runner.unfinished import unfinished_stages
from ray_distil.runtime.redaction import redacted
from ray_distil.store.ahead import do_all
from ray_distil.store.listing import StoredFile, is_shard, newest, rows_by_file, stored_files
from ray_distil.store.shards import REJECTS_FOLDER
from ray_distil.store.storage import Folder
from ray_distil.store.superseded import SUPERSEDED


def main(argv: Sequence[str] | None = None) -> int:
    parser = cli.CommandParser("clean", __doc__)
    parser.add_argument("run", metavar="RUN_FOLDER")
    parser.add_argument("--yes", action="store_true", help="remove the folders; without it they are only listed")
    arguments = parser.parse_args(argv)

    def job() -> None:
        console = cli.stdout_console()
        run = Folder.at(arguments.run)
        folders = remove_superseded(run) if arguments.yes else superseded_folders(run)
        if not folders:
            console.print(f"{run}: nothing is superseded", soft_wrap=True)
            return

        console.print(table(folders))
        if arguments.yes:
            console.print(f"removed: {total(folders)}", soft_wrap=True)
            return

        for stage in needed_by(run, folders):
            console.print(f"note: {stage} is not finished; when the run goes on, it may use these rows again")
        console.print(f"nothing is removed yet; to remove {total(folders)}:", soft_wrap=True)
        command = f"{cli.program('clean')} {shlex.quote(redacted(arguments.run))} --yes"
        console.print(f"    {command}", soft_wrap=True)

    return cli.guarded(job)


HEADER = ("Folder", "Rows", "Rejected", "Size", "Superseded")


class SupersededFolder(NamedTuple):
    name: str  # ARTIFACT-FINGERPRINT-SECONDS, in RUN/superseded/
    num_bytes: int
    num_shards: int
    num_rows: int
    num_rejected: int
    since: float  # when it was superseded, in seconds since 1970


def superseded_folders(run: Folder) -> list[SupersededFolder]:
    """The superseded folders of a run, sorted by name. Raises UserError where there is no run."""
    files = _superseded_files(run)
    rows = rows_by_file(run / SUPERSEDED, [file.name for file in files if is_shard(file.name)])

    by_folder: dict[str, list[StoredFile]] = defaultdict(list)
    for file in files:
        by_folder[file.name.partition("/")[0]].append(file)

    folders = []
    for name, of_folder in by_folder.items():
        shards = {file.name: rows.get(file.name) or 0 for file in of_folder if is_shard(file.name)}
        rejects = {file for file in shards if f"/{REJECTS_FOLDER}/" in file}
        seconds = name.rpartition("-")[2]
        folders.append(
            SupersededFolder(
                name,
                num_bytes=sum(file.size for file in of_folder),
                num_shards=len(shards),
                num_rows=sum(number for file, number in shards.items() if file not in rejects),
                num_rejected=sum(shards[file] for file in rejects),
                since=float(seconds) if seconds.isdecimal() else newest(of_folder) or 0.0,
            )
        )
    return folders


def remove_superseded(run: Folder) -> list[SupersededFolder]:
    """Remove the superseded folders; returns what they held. Raises UserError while another process makes the run."""
    if not _superseded_files(run):
        return []
    with run_lock(run):
        folders = superseded_folders(run)
        do_all(lambda folder: (run / SUPERSEDED / folder.name).remove_all(), folders)
        if not stored_files(run / SUPERSEDED):
            (run / SUPERSEDED).remove_all()
    return folders


def _superseded_files(run: Folder) -> list[StoredFile]:
    check_run(run)
    return stored_files(run / SUPERSEDED)


def table(folders: list[SupersededFolder], now: float | None = None) -> Table:
    """The folders for the console; `now`: seconds since 1970, None: the time of this machine."""
    now = time.time() if now is None else now
    rows = [
        [
            folder.name,
            f"{folder.num_rows:,}" if folder.num_shards else DASH,
            f"{folder.num_rejected:,}" if folder.num_shards else DASH,
            size(folder.num_bytes),
            f"{duration(now - folder.since)} ago",
        ]
        for folder in folders
    ]
    return console_table("Superseded", HEADER, rows, left=(0, 4))


def needed_by(run: Folder, folders: list[SupersededFolder]) -> list[str]:
    """The unfinished stages that may still use rows of these folders again, when the run goes on."""
    artifacts = {folder.name.rpartition("-")[0].rpartition("-")[0] for folder in folders}
    stages = unfinished_stages(run, time.time())
    return [stage.artifact for stage in stages if stage.artifact.replace("/", "-") in artifacts]


def total(folders: list[SupersededFolder]) -> str:
    """E.g. "2 folders, 1,204 rows, 3.1 MB"."""
    number = f"{len(folders):,} folder{'' if len(folders) == 1 else 's'}"
    rows = sum(folder.num_rows + folder.num_rejected for folder in folders)
    return f"{number}, {rows:,} rows, {size(sum(folder.num_bytes for folder in folders))}"


def size(num_bytes: float) -> str:
    """Three digits: 512 B, 1.24 kB, 393 GB."""
    for unit in ("B", "kB", "MB", "GB"):
        if num_bytes < 999.5:
            return f"{num_bytes:.3g} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:,.3g} TB" if num_bytes < 999.5 else f"{num_bytes:,.0f} TB"
