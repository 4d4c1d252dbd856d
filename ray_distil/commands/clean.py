"""Remove what a run has superseded: the rows and training states of earlier settings or inputs.

ray-distil clean runs/one-gpu                     lists the folders in runs/one-gpu/superseded, and removes nothing
ray-distil clean runs/one-gpu --yes               removes them
ray-distil clean s3://BUCKET/runs/first --yes     the same in an object store
"""

import shlex
from collections.abc import Sequence

from ray_distil.commands import cli
from ray_distil.run import cleaning
from ray_distil.store.storage import Folder, redacted


def main(argv: Sequence[str] | None = None) -> int:
    parser = cli.CommandParser("clean", __doc__)
    parser.add_argument("run", metavar="RUN_FOLDER")
    parser.add_argument("--yes", action="store_true", help="remove the folders; without it they are only listed")
    arguments = parser.parse_args(argv)

    def job() -> None:
        console = cli.stdout_console()
        run = Folder.at(arguments.run)
        folders = cleaning.remove_superseded(run) if arguments.yes else cleaning.superseded_folders(run)
        if not folders:
            console.print(f"{run}: nothing is superseded", soft_wrap=True)
            return

        console.print(cleaning.table(folders))
        if arguments.yes:
            console.print(f"removed: {cleaning.total(folders)}", soft_wrap=True)
            return

        for stage in cleaning.needed_by(run, folders):
            console.print(f"note: {stage} is not finished; when the run goes on, it may use these rows again")
        console.print(f"nothing is removed yet; to remove {cleaning.total(folders)}:", soft_wrap=True)
        command = f"{cli.program('clean')} {shlex.quote(redacted(arguments.run))} --yes"
        console.print(f"    {command}", soft_wrap=True)

    return cli.guarded(job)
