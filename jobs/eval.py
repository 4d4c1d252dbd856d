"""Compare models on benchmarks, without a distillation: accuracy with its interval, and tokens.

python jobs/eval.py --benchmarks tiny --models slow=tiny:student-slow base=tiny:student-base
python jobs/eval.py --benchmarks aime24,math500 --models mine=PATH Qwen/Qwen2.5-7B-Instruct --plan
python jobs/eval.py --benchmarks gpqa_diamond=gpqa_diamond.csv --models api=https://HOST/v1#MODEL --api-key-env KEY
python jobs/eval.py --status runs/eval

Built in: aime24, aime25, math500, gpqa_diamond, mmlu_pro, gsm8k, tiny. The same command continues a stopped evaluation.
"""

import sys
from pathlib import Path

# Python puts jobs/ first on sys.path. The repository's root takes its place, so that ray_distil is found.
sys.path[0] = str(Path(__file__).resolve().parent.parent)

from rich.console import Console

from ray_distil import make_plan
from ray_distil.report import report
from ray_distil.run import cli, pipeline, plan, standalone, status
from ray_distil.runtime.progress import Display
from ray_distil.store.storage import Folder


def main() -> int:
    parser = cli.parser(__doc__)
    parser.add_argument("--benchmarks", metavar="A,B=PATH", help="names; of a local copy or an own file NAME=PATH")
    parser.add_argument("--models", nargs="+", metavar="NAME=PATH", help="folder, hub name, tiny:NAME, or URL#MODEL")
    parser.add_argument("--baseline", metavar="NAME", help="the model with speed gain 1; default: the first")
    parser.add_argument("--samples", type=int, metavar="N", help="answers a problem, of all benchmarks")
    parser.add_argument("--limit", type=int, metavar="N", help="problems of each benchmark, always the same ones")
    parser.add_argument(
        "--timed", type=int, metavar="N", help="problems asked one at a time too, for seconds a problem"
    )
    parser.add_argument("--max-tokens", type=int, metavar="N", help="of an answer, for all benchmarks")
    parser.add_argument("--api-key-env", metavar="NAME", help="environment variable with the key of the endpoints")
    parser.add_argument(
        "--status", metavar="RUN_FOLDER", help="print the stages of a run, finished or in the middle, and leave"
    )
    parser.add_argument("--plan", action="store_true", help="print tokens, hours and money, and leave")
    arguments = parser.parse_args()
    logs: list[Path] = []

    def job() -> None:
        console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else 120)
        if arguments.status:
            console.print(*status.tables(Folder.at(arguments.status)), sep="\n")
            return
        config = standalone.configuration(arguments)
        if arguments.plan:
            planned = make_plan(config)
            console.print(plan.table(planned), *planned.remarks, sep="\n", soft_wrap=True)
            return
        logs.append(pipeline.log_folder(config))
        made = standalone.run(config, Display(console))
        console.print("", *report.models_tables(made), sep="\n")
        console.print(f"report: {config.run_folder / 'report'}/report.html", soft_wrap=True)

    return cli.guarded(job, lambda: logs[0] if logs else None)


if __name__ == "__main__":
    sys.exit(main())
