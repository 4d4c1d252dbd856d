"""Train the student without a gate, or without the rewriting, and compare it with the student of the full run.

python jobs/ablate.py --seeds 1 --without shorter long2short          the tiny recipe, two variants
python jobs/ablate.py --config FILE                                   each gate that is on, and the rewriting, three seeds

The teachers are asked once. Each variant has its own run folder beside the full run, whose report has the table.
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)

from rich.console import Console

from ray_distil.report import report
from ray_distil.run import ablation, cli, pipeline
from ray_distil.runtime.progress import Display


def main() -> int:
    parser = cli.parser(__doc__)
    parser.add_argument(
        "--without", nargs="+", metavar="NAME", help="gates, long2short, or several as A+B; default: each"
    )
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="trainings of each; default: %(default)s")
    arguments = parser.parse_args()
    logs: list[Path] = []

    def job() -> None:
        console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else 160)
        named = [one for one in arguments.without or [] if "=" not in one]
        arguments.overrides += [one for one in arguments.without or [] if "=" in one]
        config = cli.load_config(arguments)
        logs.append(pipeline.log_folder(config))
        made = ablation.run(config, named or ablation.choices(config), arguments.seeds, Display(console))
        console.print("", *report.ablation_tables(made), sep="\n")
        console.print(f"report: {config.run_folder / 'report'}/report.html", soft_wrap=True)

    return cli.guarded(job, lambda: logs[0] if logs else None)


if __name__ == "__main__":
    sys.exit(main())
