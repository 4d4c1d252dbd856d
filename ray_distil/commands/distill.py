"""Distil a slow-thinking teacher into a fast-thinking student: from instructions to a student and a report.

ray-distil distill                                       the tiny recipe, on this machine
ray-distil distill --config FILE run.name=first          a configuration, with overrides
ray-distil distill run.name=mine instructions.path=problems.jsonl
                                                         your own instructions, in a run of their own
ray-distil distill --plan --config FILE                  rows, tokens, GPU-hours and disk, before anything starts
ray-distil distill --status runs/tiny                    what a run holds, finished or not
"""

from collections.abc import Sequence
from pathlib import Path

from ray_distil.commands import cli, export, pipeline, plan, status
from ray_distil.config import load
from ray_distil.errors import ConfigError
from ray_distil.report import report
from ray_distil.runtime.progress import Display
from ray_distil.store.storage import Folder


def main(argv: Sequence[str] | None = None) -> int:
    parser = cli.ConfigParser("distill", __doc__)
    parser.add_argument(
        "--status", metavar="RUN_FOLDER", help="print the stages of a run, finished or in the middle, and leave"
    )
    parser.add_argument("--plan", action="store_true", help="print what the run will need and leave")
    arguments = parser.parse_args(argv)
    logs: list[Path] = []

    def job() -> None:
        console = cli.stdout_console()
        if arguments.status:
            console.print(*status.tables(Folder.at(arguments.status)), sep="\n")
            return

        try:
            config = load(arguments.config, arguments.overrides)
        except ConfigError as error:
            if not ("teachers: missing" in str(error) and "training: missing" in str(error)):
                raise
            command = f"{cli.program('eval')} --config {arguments.config}"
            raise ConfigError(f"{error}\nmodels alone are compared by: {command}") from error
        if arguments.plan:
            plan.show(config, console)
            return

        logs.append(pipeline.log_folder(config))
        finished = pipeline.run(config, Display(console))
        console.print(report.stages_table(finished), "", *report.models_tables(finished), "")
        if config.training is None:
            console.print(f"examples: {config.run_folder / str(export.EXPORTED)}", soft_wrap=True)
        console.print(
            f"{report.headline(finished)}\nreport: {config.run_folder / 'report'}/report.html", soft_wrap=True
        )

    return cli.guarded(job, lambda: logs[0] if logs else None)
