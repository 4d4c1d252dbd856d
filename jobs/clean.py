"""Remove what a run has superseded: the rows and training states of earlier settings or inputs.

python jobs/clean.py runs/one-gpu                     lists the folders in runs/one-gpu/superseded, and removes nothing
python jobs/clean.py runs/one-gpu --yes               removes them
python jobs/clean.py s3://BUCKET/runs/first --yes     the same in an object store
"""

import argparse
import shlex
import sys
from pathlib import Path

# Python puts jobs/ first on sys.path. The repository's root takes its place, so that ray_distil is found.
sys.path[0] = str(Path(__file__).resolve().parent.parent)

from rich.console import Console

from ray_distil.run import cleaning, cli
from ray_distil.store.storage import Folder, redacted


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", metavar="RUN_FOLDER")
    parser.add_argument("--yes", action="store_true", help="remove the folders; without it they are only listed")
    arguments = parser.parse_args()

    def job() -> None:
        console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else 120, highlight=False)
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
        console.print(f"    python jobs/clean.py {shlex.quote(redacted(arguments.run))} --yes", soft_wrap=True)

    return cli.guarded(job, lambda: None)


if __name__ == "__main__":
    sys.exit(main())
