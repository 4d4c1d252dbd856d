"""Compare models on benchmarks, without a distillation: accuracy with its interval, and tokens.

ray-distil eval --benchmarks tiny --models slow=tiny:student-slow base=tiny:student-base
ray-distil eval --benchmarks aime24,math500 --models mine=PATH Qwen/Qwen2.5-7B-Instruct --plan
ray-distil eval --benchmarks gpqa_diamond=gpqa_diamond.csv --models api=https://HOST/v1#MODEL --api-key-env KEY
ray-distil eval --status runs/eval

Built in: aime24, aime25, math500, gpqa_diamond, mmlu_pro, gsm8k, tiny. The same command continues a stopped evaluation.
"""

import os
import re
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ray_distil.commands import cli, pipeline, plan, status
from ray_distil.commands.pipeline import opened
from ray_distil.config import RECIPES, TRAINED, StagesConfig
from ray_distil.config.evaluation_config import HELD_OUT, built_in
from ray_distil.config.section import apply_overrides, read_mapping, validate
from ray_distil.errors import ConfigError, UserError
from ray_distil.report import report
from ray_distil.report.contents import Report
from ray_distil.runtime.progress import Display
from ray_distil.runtime.session import SUBMITTED
from ray_distil.stages import make_benchmarks, make_given_evaluations, make_timings
from ray_distil.store.storage import Folder


def main(argv: Sequence[str] | None = None) -> int:
    arguments = _parser().parse_args(argv)
    logs: list[Path] = []

    def job() -> None:
        console = cli.stdout_console()
        if arguments.status:
            console.print(*status.tables(Folder.at(arguments.status)), sep="\n")
            return

        config = configuration(arguments)
        if arguments.config is None:
            console.print(default_settings(), soft_wrap=True)
        if arguments.plan:
            with _by_options():
                plan.show(config, console)
            return

        logs.append(pipeline.log_folder(config))
        with _by_options():
            finished = run(config, Display(console))
        console.print("", *report.models_tables(finished), sep="\n")
        console.print(f"report: {config.run_folder / 'report'}/report.html", soft_wrap=True)

    return cli.guarded(job, lambda: logs[0] if logs else None)


@contextmanager
def _by_options() -> Iterator[None]:
    """Mistakes in what an option of this command sets are told by its name too."""
    try:
        yield
    except ConfigError as error:
        key = re.compile(r"^(evaluation\.\S*max_tokens): ", re.MULTILINE)
        raise ConfigError(key.sub(r"--max-tokens (\1): ", str(error))) from error


def _parser() -> cli.ConfigParser:
    parser = cli.ConfigParser("eval", __doc__, default="eval/gpu where this machine has a GPU, else eval/cpu")
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


SECTIONS = ("run", "ray", "evaluation", "plan")
OVER_ALL = {"samples": "num_samples", "limit": "limit", "max_tokens": "max_tokens"}


def configuration(arguments: Namespace) -> StagesConfig:
    """The configuration that the arguments describe. Raises UserError for arguments that make no sense together."""
    values = read_mapping(arguments.config or default_recipe())
    data = {name: values[name] for name in SECTIONS if name in values}
    if "training" in values:  # a recipe of a distillation: this run gets another name
        data["run"] = data.get("run", {}) | {"name": f"{data.get('run', {}).get('name', 'run')}-eval"}
    evaluation = data["evaluation"] = dict(data.get("evaluation") or {})

    # What the arguments name replaces the recipe's.
    overrides = list(arguments.overrides)
    named_models: list[str] = []
    for text in arguments.models or []:
        (overrides if _is_override(text) else named_models).append(text)
    if named_models:
        evaluation["models"] = [_model(text, arguments.api_key_env) for text in named_models]
    if arguments.benchmarks:
        evaluation["benchmarks"] = [_benchmark(text) for text in arguments.benchmarks.split(",") if text]

    models = evaluation.get("models") or []
    if not models:
        raise UserError("--models: none is given; name one or more, as --models fast=PATH slow=ORG/NAME")
    if arguments.baseline or evaluation.get("baseline") not in [text["name"] for text in models]:
        evaluation["baseline"] = arguments.baseline or models[0]["name"]

    if arguments.timed is not None:
        evaluation["num_timed"] = arguments.timed
    evaluation = apply_overrides(data, overrides)["evaluation"]  # apply_overrides may return a copy
    evaluation["benchmarks"] = [_with(text, arguments) for text in evaluation.get("benchmarks") or ["tiny"]]
    config = validate(StagesConfig, data, overrides)

    # Only a distillation run has these.
    if any(benchmark.name == HELD_OUT for benchmark in config.evaluation.benchmarks):
        raise UserError(f"--benchmarks: {HELD_OUT} is of a distillation run; known: {', '.join(built_in())}, NAME=FILE")
    if trained := [model.name for model in config.evaluation.models if model.model_source == TRAINED]:
        raise UserError(f"--models: {trained[0]} is a student that a run trains; give its folder, {trained[0]}=PATH")
    return config


def default_recipe() -> Path:
    """The shipped recipe for this machine, gpu.yaml or cpu.yaml. A submitted job gets gpu.yaml, for its cluster."""
    return RECIPES / "eval" / ("gpu.yaml" if SUBMITTED in os.environ or has_gpu() else "cpu.yaml")


def default_settings() -> str:
    """A line that names the recipe that was taken, why, and the other one."""
    reason = "this machine has a GPU" if has_gpu() else "this machine has no GPU"
    if SUBMITTED in os.environ:
        reason = "it is for a cluster"
    name = default_recipe().stem
    return f"settings: --config eval/{name}, as {reason}; the other one is --config eval/{'cpu' if name == 'gpu' else 'gpu'}"


def has_gpu() -> bool:
    return any(Path("/dev").glob("nvidia[0-9]*"))


def run(config: StagesConfig, display: Display) -> Report:
    """Make what the run does not have yet, and its report, by the same evaluation stages as a distillation run."""
    with opened(config, display) as this:
        benchmarks = make_benchmarks(this)
        make_given_evaluations(this, benchmarks)
        make_timings(this, benchmarks)
        this.save_settings()
        return report.build(this.folder)


def _is_override(text: str) -> bool:
    """Whether an argument behind --models is an override, key.path=value, and not a model."""
    key = text.partition("=")[0]
    return "." in key and key.partition(".")[0] in StagesConfig.model_fields


def _model(text: str, api_key_env: str | None) -> dict[str, Any]:
    """An entry of `evaluation.models` from NAME=PATH, PATH, or NAME=URL#MODEL for an endpoint."""
    name, mark, source = text.partition("=")
    if not mark:
        name, source = re.sub(r"[^\w.+-]", "-", text.rstrip("/").rpartition("/")[2].rpartition(":")[2]), text
    if not source.startswith(("http://", "https://")):
        return {"name": name, "model_source": source}
    url, mark, served = source.partition("#")
    if not mark:
        raise UserError(f"--models: {text!r} names no model of the endpoint; give NAME=URL#MODEL")
    return {"name": name, "endpoint": {"base_url": url, "model": served, "api_key_env": api_key_env}}


def _benchmark(text: str) -> str | dict[str, Any]:
    """A benchmark from NAME (built in) or NAME=PATH (a local copy of a built-in one, or the user's own problems)."""
    name, mark, path = text.strip().partition("=")
    return {"name": name, "path": path} if mark else name


def _with(benchmark: Any, arguments: Namespace) -> Any:
    """A benchmark with the arguments that hold for all benchmarks: --samples, --limit, --max-tokens."""
    overrides: dict[str, Any] = {
        key: getattr(arguments, name) for name, key in OVER_ALL.items() if getattr(arguments, name) is not None
    }
    if not overrides or (isinstance(benchmark, str) and benchmark not in built_in()):
        return benchmark
    declaration: dict[str, Any] = {"name": benchmark} if isinstance(benchmark, str) else dict(benchmark)
    if (max_tokens := overrides.pop("max_tokens", None)) is not None:
        declaration["sampling_params"] = (declaration.get("sampling_params") or {}) | {"max_tokens": max_tokens}
    return declaration | overrides
