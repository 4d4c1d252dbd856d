"""Write the report of a run anew, or compare several runs on one page.

python jobs/report.py runs/tiny                                  runs/tiny/report/report.html, from what the run holds
python jobs/report.py runs/tiny runs/eval --output both.html     the models of both, benchmark by benchmark
"""

import argparse
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)

from rich.console import Console

from ray_distil.report import report
from ray_distil.run import cli
from ray_distil.store.storage import Folder


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="RUN_FOLDER")
    parser.add_argument(
        "--output", type=Path, default=Path("report.html"), help="of several runs; default: %(default)s"
    )
    arguments = parser.parse_args()

    def job() -> None:
        console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else 120)
        folders = [Folder.at(run) for run in arguments.runs]
        if len(folders) == 1:
            made, place = report.build(folders[0]), str(folders[0] / "report" / "report.html")
        else:
            made, page = report.build_several(folders)
            arguments.output.write_text(page, encoding="utf-8")
            place = str(arguments.output)
        console.print(*report.models_tables(made), f"report: {place}", sep="\n", soft_wrap=True)

    return cli.guarded(job, lambda: None)


if __name__ == "__main__":
    sys.exit(main())
