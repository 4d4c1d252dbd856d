"""Write the report of a run anew, or compare several runs on one page.

ray-distil report runs/tiny                                  runs/tiny/report/report.html, from what the run holds
ray-distil report runs/tiny runs/eval --output both.html     the models of both, benchmark by benchmark
"""

from collections.abc import Sequence
from pathlib import Path

from ray_distil.commands import cli
from ray_distil.errors import UserError
from ray_distil.report import report
from ray_distil.store.storage import Folder


def main(argv: Sequence[str] | None = None) -> int:
    parser = cli.CommandParser("report", __doc__)
    parser.add_argument("runs", nargs="+", metavar="RUN_FOLDER")
    parser.add_argument(
        "--output", type=Path, default=Path("report.html"), help="of several runs; default: %(default)s"
    )
    arguments = parser.parse_args(argv)

    def job() -> None:
        folders = [Folder.at(run) for run in arguments.runs]
        if len(folders) == 1:
            content, place = report.build(folders[0]), str(folders[0] / "report" / "report.html")
        else:
            content, page = report.build_several(folders)
            write_page(arguments.output, page)
            place = str(arguments.output)
        cli.stdout_console().print(*report.models_tables(content), f"report: {place}", sep="\n", soft_wrap=True)

    return cli.guarded(job)


def write_page(path: Path, page: str) -> None:
    """Raises UserError where the file cannot be written."""
    try:
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise UserError(f"--output: cannot write {str(path)!r} ({error.strerror}); give another file") from error
