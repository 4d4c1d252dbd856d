"""Compare models on benchmarks, without a distillation: accuracy with its interval, and tokens.

ray-distil eval --benchmarks tiny --models slow=tiny:student-slow base=tiny:student-base
ray-distil eval --benchmarks aime24,math500 --models mine=PATH Qwen/Qwen2.5-7B-Instruct --plan
ray-distil eval --benchmarks gpqa_diamond=gpqa_diamond.csv --models api=https://HOST/v1#MODEL --api-key-env KEY
ray-distil eval --status runs/eval

Built in: aime24, aime25, math500, gpqa_diamond, mmlu_pro, gsm8k, tiny. The same command continues a stopped evaluation.
"""

from collections.abc import Sequence
from pathlib import Path

from ray_distil.commands import cli
from ray_distil.report import report
from ray_distil.run import pipeline, plan, standalone, status
from ray_distil.runtime.progress import Display
from ray_distil.store.storage import Folder


def main(argv: Sequence[str] | None = None) -> int:
    arguments = _parser().parse_args(argv)
    logs: list[Path] = []

    def job() -> None:
        console = cli.stdout_console()
        if arguments.status:
            console.print(*status.tables(Folder.at(arguments.status)), sep="\n")
            return

        config = standalone.configuration(arguments)
        if arguments.plan:
            planned = plan.checked(config)
            console.print(plan.table(planned), *planned.remarks, sep="\n", soft_wrap=True)
            return

        logs.append(pipeline.log_folder(config))
        finished = standalone.run(config, Display(console))
        console.print("", *report.models_tables(finished), sep="\n")
        console.print(f"report: {config.run_folder / 'report'}/report.html", soft_wrap=True)

    return cli.guarded(job, lambda: logs[0] if logs else None)


def _parser() -> cli.ConfigParser:
    parser = cli.ConfigParser("eval", __doc__)
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
    return parser
