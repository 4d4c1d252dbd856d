"""Train the student without a gate, or without the rewriting, and compare it with the student of the full run.

ray-distil ablate --seeds 1 --without shorter long2short          the tiny recipe, two variants
ray-distil ablate --config FILE                                   each gate that is on, and the rewriting, three seeds

The teachers are asked once. Each variant has its own run folder beside the full run, whose report has the table.
"""

from collections.abc import Sequence
from pathlib import Path

from ray_distil.commands import cli
from ray_distil.config import load
from ray_distil.report import report
from ray_distil.run import ablation, pipeline
from ray_distil.runtime.progress import Display


def main(argv: Sequence[str] | None = None) -> int:
    parser = cli.ConfigParser("ablate", __doc__)
    parser.add_argument(
        "--without", nargs="+", metavar="NAME", help="gates, long2short, or several as A+B; default: each"
    )
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="trainings of each; default: %(default)s")
    arguments = parser.parse_args(argv)
    logs: list[Path] = []

    def job() -> None:
        # Overrides may stand behind --without, which takes all words that follow.
        words = arguments.without or []
        without = [word for word in words if "=" not in word]
        overrides = [*arguments.overrides, *(word for word in words if "=" in word)]

        config = load(arguments.config, overrides)
        logs.append(pipeline.log_folder(config))
        console = cli.stdout_console(width=160)
        finished = ablation.run(config, without or ablation.choices(config), arguments.seeds, Display(console))
        console.print("", *report.ablation_tables(finished), sep="\n")
        console.print(f"report: {config.run_folder / 'report'}/report.html", soft_wrap=True)

    return cli.guarded(job, lambda: logs[0] if logs else None)
