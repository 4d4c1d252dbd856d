"""Generation through the teacher's stage against raw vLLM: the same prompts, on one machine, in one run.

    python -m tests.benchmarks.generation --rows 2000 --repeats 3
    python -m tests.benchmarks.generation --ways "at once" --knob batch_size=64,max_concurrent_batches=8
    python -m tests.benchmarks.generation --sigma 0

    at once    vllm.LLM.chat, all prompts in one call: what the engine can do
    stage      responses.py on a Ray, its shards written and counted: what ray_distil does
    batches    vllm.LLM.chat, 32 prompts a call, each call waited for: what a script does

No engine is told how many rows it takes in a step (`max_num_seqs`): each has its own default. Lengths are as uneven as
those of reasoning: log-normal with a mean of MEAN_TOKENS, whose logarithm has the standard deviation `--sigma`. With 0 a
text ends where the model ends it.

Generated tokens a second from when the engine is ready to the last row. The ways take turns, every other turn the other
way round, and a ratio is the median of those within a turn: a machine's own rate may differ more from minute to minute.
A knob is keys of the engine's section, with commas between: the stage runs once more for each, else as in the recipe.
"""

import argparse
import json
import math
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from ray_distil import stages
from ray_distil.chat.prompts import instruction_messages
from ray_distil.config import load
from ray_distil.config.models import resolve_models
from ray_distil.problems import collecting
from ray_distil.runner.runs import Run
from ray_distil.stages import responses as responses_stage
from ray_distil.store import schemas
from ray_distil.store.artifact import Artifact

SCRIPT_BATCH = 32
ENGINE = "teachers.slow.engine"
MEAN_TOKENS, MOST_TOKENS = 120, 900
SIGMA = "RAY_DISTIL_SIGMA"


def num_tokens(instruction: str) -> int | None:
    """How many tokens the text for an instruction has; None: the model decides."""
    sigma = float(os.environ[SIGMA])
    drawn = random.Random(instruction).lognormvariate(math.log(MEAN_TOKENS) - sigma**2 / 2, sigma)
    return min(MOST_TOKENS, max(1, round(drawn))) if sigma else None


def of_this_length(sampling_params: dict[str, Any], instruction: str) -> dict[str, Any]:
    """The parameters of a request whose text has `num_tokens`."""
    number = num_tokens(instruction)
    return sampling_params if number is None else sampling_params | {"min_tokens": number, "max_tokens": number}


def settings(folder: str, rows: int, knob: str = "") -> list[str]:
    default: Any = load().teachers
    kwargs = {k: v for k, v in default.slow.engine.engine_kwargs.items() if k != "max_num_seqs"}
    made = ["teachers.direct=null", "teachers.slow.fraction=1", f"instructions.num_train={rows}"]
    made += ["instructions.num_eval=1", f"run.storage_path={folder}", "run.name=bench", "run.max_reject_fraction=1"]
    made += [f"{ENGINE}.engine_kwargs={json.dumps(kwargs)}"]
    return made + [f"{ENGINE}.{one}" for one in knob.split(",") if one]


def raw(folder: str, rows: int, batch: int) -> None:
    """Prints seconds and generated tokens of `LLM.chat`."""
    config = load(None, settings(folder, rows))
    slow = config.teachers.slow
    assert slow is not None
    assert slow.engine is not None
    os.environ |= slow.engine.env_vars  # before vLLM is imported
    from vllm import LLM, SamplingParams

    tables = collecting.collect(config.instructions, config.run.seed).tables()
    texts = [row["instruction"] for table in tables for row in table.to_pylist() if row["split"] == "train"]
    conversations = [instruction_messages(text, config.instructions.suffix) for text in texts]
    llm = LLM(resolve_models(config)["teachers.slow"], **slow.engine.engine_kwargs)
    sampling = slow.sampling_params.model_dump(exclude_none=True)
    params = [SamplingParams(**of_this_length(sampling, text)) for text in texts]
    started, tokens = time.monotonic(), 0
    for start in range(0, len(conversations), batch):
        outputs = llm.chat(conversations[start : start + batch], params[start : start + batch], use_tqdm=False)
        tokens += sum(len(output.outputs[0].token_ids) for output in outputs)
    print("MADE", json.dumps([time.monotonic() - started, tokens]))


def stage(folder: str, rows: int, knob: str) -> None:
    """The same of the stage, from the moment that its engine is ready."""
    import ray.data.llm

    ready, build = Path(folder) / "ready", ray.data.llm.build_processor

    def build_stamped(*arguments: Any, **options: Any) -> Any:
        processor = build(*arguments, **options)
        engine_stage = processor.stages["vLLMEngineStage"]

        class Stamped(engine_stage.fn):  # type: ignore[name-defined]
            def __init__(self, *arguments: Any, **options: Any) -> None:
                super().__init__(*arguments, **options)
                ready.write_text(str(time.monotonic()))

        processor.stages["vLLMEngineStage"] = engine_stage.model_copy(update={"fn": Stamped})
        return processor

    requests = responses_stage.requests

    def requests_of_lengths(row: dict[str, Any], **options: Any) -> list[dict[str, Any]]:
        made = requests(row, **options)
        return [one | {"sampling_params": of_this_length(one["sampling_params"], row["instruction"])} for one in made]

    responses_stage.requests = requests_of_lengths  # type: ignore[assignment]
    ray.data.llm.build_processor = build_stamped
    config = load(None, settings(folder, rows, knob))
    run = Run(config, resolve_models(config))
    problems = stages.make_instructions(run, collecting.collect(config.instructions, config.run.seed))
    responses = stages.make_responses(run, problems)
    seconds = time.monotonic() - float(ready.read_text())
    print("MADE", json.dumps([seconds, tokens_of(responses)]))


def tokens_of(responses: Artifact) -> int:
    assert responses.schema.equals(schemas.RESPONSES)
    return sum(sum(table["num_generated_tokens"].to_pylist()) for table in responses.tables(["num_generated_tokens"]))


def measured(way: str, rows: int, option: str) -> tuple[float, int]:
    """Tokens a second and tokens of one way, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", __spec__.name, "--one", way, folder, option, "--rows", str(rows)]
        made = subprocess.run(command, capture_output=True, text=True)
    if made.returncode:
        raise SystemExit(made.stdout[-2000:] + made.stderr[-4000:])
    seconds, tokens = json.loads(next(line for line in made.stdout.splitlines() if line.startswith("MADE"))[4:])
    return tokens / seconds, tokens


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--ways", nargs="*", default=["at once", "stage", "batches"])
    parser.add_argument("--knob", nargs="*", default=[], metavar="KEY=VALUE")
    parser.add_argument("--sigma", type=float, default=1.0, help="spread of the lengths; 0: as the model has it")
    parser.add_argument("--one", nargs=3, help="one measurement: its way, a folder, its option")
    chosen = parser.parse_args()
    if chosen.one:
        way, folder, option = chosen.one
        if way == "raw":
            raw(folder, chosen.rows, int(option))
        else:
            stage(folder, chosen.rows, option)
        return
    os.environ[SIGMA] = str(chosen.sigma)
    ways = {"at once": ("raw", str(chosen.rows)), "stage": ("stage", ""), "batches": ("raw", str(SCRIPT_BATCH))}
    ways = {name: ways[name] for name in chosen.ways}
    ways |= {knob: ("stage", knob) for knob in chosen.knob}
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(chosen.repeats):
        for name, (way, option) in list(ways.items())[:: -1 if turn % 2 else 1]:
            rate, tokens = measured(way, chosen.rows, option)
            rates[name].append(rate)
            print(f"{turn + 1} {name:28} {rate:8,.0f} tokens/s   {tokens:,} tokens", flush=True)
    whole = rates.get("at once") or next(iter(rates.values()))
    for name, found in rates.items():
        ratios = [rate / of for rate, of in zip(found, whole, strict=True)]
        print(
            f"  {name:28} {statistics.median(found):8,.0f} tokens/s   {statistics.median(ratios):.3f} of at once "
            f"({min(ratios):.3f} to {max(ratios):.3f})"
        )


if __name__ == "__main__":
    main()
