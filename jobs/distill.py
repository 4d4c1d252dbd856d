"""Distil a slow-thinking teacher into a fast-thinking student: from instructions to a student and a report.

python jobs/distill.py                                       the tiny recipe, on this machine
python jobs/distill.py --config FILE run.name=first          a configuration, with overrides
python jobs/distill.py instructions.path=problems.jsonl      your own instructions
python jobs/distill.py --plan --config FILE                  rows, tokens, GPU-hours and disk, before anything starts
python jobs/distill.py --status runs/tiny                    what a run holds, finished or not
"""

import sys
from pathlib import Path

# Python puts jobs/ first on sys.path. The repository's root takes its place, so that ray_distil is found.
sys.path[0] = str(Path(__file__).resolve().parent.parent)

from rich.console import Console

from ray_distil import make_plan, run_pipeline
from ray_distil.report import report
from ray_distil.run import cli, pipeline, plan, status
from ray_distil.runtime.progress import Display
from ray_distil.store.storage import Folder


def main() -> int:
    parser = cli.parser(__doc__)
    parser.add_argument(
        "--status", metavar="RUN_FOLDER", help="print the stages of a run, finished or in the middle, and leave"
    )
    parser.add_argument("--plan", action="store_true", help="print what the run will need and leave")
    arguments = parser.parse_args()
    logs: list[Path] = []

    def job() -> None:
        console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else 120)
        if arguments.status:
            console.print(*status.tables(Folder.at(arguments.status)), sep="\n")
            return
        config = cli.load_config(arguments)
        if arguments.plan:
            planned = make_plan(config)
            console.print(plan.table(planned), *planned.remarks, sep="\n", soft_wrap=True)
            return
        logs.append(pipeline.log_folder(config))
        made = run_pipeline(config, Display(console))
        console.print(report.stages_table(made), "", *report.models_tables(made), "")
        console.print(f"{report.headline(made)}\nreport: {config.run_folder / 'report'}/report.html", soft_wrap=True)

    return cli.guarded(job, lambda: logs[0] if logs else None)


if __name__ == "__main__":
    sys.exit(main())
