"""An engine that needs no model, on the contract of `ray_distil/generate/generation.py`.

For what is about rows and not about texts: kills, stops, resumption, backlog. As vLLM's, it has several batches at
once, and some take much longer than others. Its answers are a function of a row's id and reference answer alone, so
that runs can be compared; a word is a token. Some are wrong, some are cut, and some rows are refused, so that every way
of a row is taken.
"""

import asyncio
import itertools
import json
import sys
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ray_distil.config.engine_config import EngineConfig
from ray_distil.generate import engine, generation
from ray_distil.store.schemas import stable_fraction

if TYPE_CHECKING:
    from ray.data import Dataset

REFUSED, CUT, WRONG = 0.15, 0.25, 0.35  # shares of the rows, one inside the other


def answer(row: dict[str, Any]) -> dict[str, Any]:
    """The columns ADDED of one row; a slow teacher thinks, all others answer at once."""
    share = stable_fraction("null engine", row["id"])
    if share < REFUSED:
        refused = "prompt_too_long: refused by the null engine"
        return {"generated_text": "", "finish_reason": "error", "error": refused, **_tokens(0, 0)}
    stated = "0" if share < WRONG else row.get("reference_answer") or row.get("source_answer") or "7"
    conclusion = f"Row {row['id']}.\n\nThe final answer is \\boxed{{{stated}}}."
    thought = "Wait, I count again. " * 4 if row.get("teacher") == "slow" else ""
    words = (f"<think> {thought} </think> {conclusion}" if thought else conclusion).split(" ")
    most = len(words) // 2 if share < CUT else row["sampling_params"]["max_tokens"]
    return {
        "generated_text": " ".join(words[:most]),
        "finish_reason": "length" if len(words) > most else "stop",
        "error": "",
        **_tokens(min(most, len(words)), min(most, thought.count(" "))),
    }


def _tokens(generated: int, thinking: int) -> dict[str, int]:
    return {"num_prompt_tokens": 40, "num_generated_tokens": generated, "num_thinking_tokens": thinking}


class NullEngine:
    """`seconds` a batch on average, between a quarter of it and seven quarters.

    It is ready after `start` seconds; with a `log` the second engine after twice as long, and so on. `log`: a file to
    which it appends a batch's time, rows and engine when the batch is answered.
    """

    def __init__(self, seconds: float = 0.0, start: float = 0.0, log: str = "") -> None:
        self.seconds, self.log = seconds, log
        self.number = place_in_line(log) if log else 1
        time.sleep(start * self.number)

    async def __call__(self, batch: pa.Table) -> AsyncIterator[pa.Table]:
        await asyncio.sleep(self.seconds * (0.25 + 1.5 * stable_fraction("null engine's time", str(batch["id"][0]))))
        answers = pa.Table.from_pylist([answer(row) for row in batch.to_pylist()], schema=generation.ADDED)
        kept = batch.drop_columns(["messages", "sampling_params"])
        for name in generation.ADDED.names:
            kept = kept.append_column(name, answers[name])
        if self.log:
            with open(self.log, "a") as file:
                file.write(json.dumps([time.time(), batch.num_rows, self.number]) + "\n")
        yield kept


def place_in_line(log: str) -> int:
    """1 for the first engine of a log, 2 for the second one. Each leaves a file beside the log."""
    for number in itertools.count(1):
        with suppress(FileExistsError):
            Path(f"{log}-{number}").touch(exist_ok=False)
            return number
    raise AssertionError


def answered(log: Path) -> list[tuple[float, int, int]]:
    """Time, number of rows and engine of each batch in a log of the null engines."""
    return sorted(tuple(json.loads(line)) for line in log.read_text().splitlines())


def build(config: EngineConfig, num_rows: int, *arguments: Any) -> generation.Generate:
    """What `engine.build` builds, with this engine: batches, places and restarts as `config` has them."""
    batch_size, batches_at_once = engine.batches_of(config, num_rows)

    def generate(dataset: "Dataset") -> "Dataset":
        import ray.cloudpickle
        import ray.data

        ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers need no way to the tests
        least, most = config.concurrency
        return dataset.repartition(target_num_rows_per_block=batch_size).map_batches(
            NullEngine,
            fn_constructor_args=arguments,
            batch_size=batch_size,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(
                min_size=least, max_size=most, max_tasks_in_flight_per_actor=batches_at_once
            ),
            max_concurrency=batches_at_once,
            num_cpus=config.num_cpus,
            resources=config.resources,
        )

    return generate


def install(seconds: float, start: float = 0.0, log: str = "") -> None:
    """Let this process build null engines wherever the configuration has an engine; vLLM is not loaded."""
    engine.build = lambda config, model, chat, num_rows: build(config, num_rows, seconds, start, log)
    engine.IMPORTS = ()
