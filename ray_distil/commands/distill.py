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
from ray_distil.config.section import RECIPES
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
            raise _explained(error, arguments.config) from error
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


def _explained(error: ConfigError, file: str | None) -> ConfigError:
    """The error; where whole sections are missing, with what such a configuration may have been meant as."""
    text = str(error)
    if "teachers: missing" in text and "training: missing" in text:
        text += (
            f"\na configuration is whole: copy a recipe, such as {RECIPES / 'tiny.yaml'}, and change it; or give --config tiny with "
            "key=value for each change"
            f"\nmodels alone are compared by: {cli.program('eval')} --config {file}"
        )
    elif "training: missing" in text:
        text += "\ntraining: null makes data alone, without a student"
    return ConfigError(text)
