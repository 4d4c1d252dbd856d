"""How long models take for a problem that is asked alone.

Timing is a stage of its own, because a request beside others takes longer than a request alone.
"""

from collections.abc import Container
from dataclasses import replace
from functools import cached_property
from heapq import nsmallest
from statistics import median
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ray_distil.generate.question import Question
from ray_distil.records.problem_facts import EVAL
from ray_distil.runner.reuse import Reuse
from ray_distil.runner.stage import GeneratingStage, Made, Row, of_split
from ray_distil.runner.stage_settings import StageSettings
from ray_distil.stages.eval import Eval
from ray_distil.stages.eval import requests as eval_requests
from ray_distil.store.artifact import Artifact
from ray_distil.store.ids import IdSet
from ray_distil.store.schemas import TIMING, stable_id
from ray_distil.store.shards import reject, reject_failed, table_of

if TYPE_CHECKING:
    from ray.data import Dataset

    from ray_distil.generate.generation import Generate

NAME = "timing"  # in fingerprints
VERSION = 1


class Timing(GeneratingStage):
    """The time that one model takes for some problems of a benchmark, which are asked one at a time."""

    fingerprint_name, version = NAME, VERSION
    schema, unit = TIMING, "problems"

    def __init__(self, evaluation: Eval) -> None:
        self.run, self.evaluation = evaluation.run, evaluation
        self.num_timed = self.run.config.evaluation.num_timed
        self.artifact = evaluation.artifact.replace("eval/", "timing/", 1)
        self.imports = evaluation.imports
        self.settings, self.inputs = self._settings(evaluation.settings), evaluation.inputs

    def _settings(self, of_answers: StageSettings) -> StageSettings:
        values = {"asked": of_answers.values["asked"], "num_timed": self.num_timed}
        earlier = of_answers.earlier
        return replace(of_answers, values=values, earlier=None if earlier is None else self._settings(earlier))

    @property
    def reuse(self) -> Reuse | None:
        return None  # times are measured anew

    @cached_property
    def _timed_problems(self) -> list[Row]:
        """The `num_timed` problems with the smallest ids."""
        problems = self.evaluation.problems
        tables = of_split(problems, EVAL, [name for name in problems.schema.names if name not in ("source", "split")])
        rows = (row | {"split": EVAL} for table in tables for row in table.to_pylist())
        return nsmallest(self.num_timed, rows, key=lambda row: row["instruction_id"])

    def make(self, artifact: Artifact) -> Made:
        self.run.generate(self, artifact, len(self._timed_problems))
        return len(self._timed_problems), {}

    def summarise(self, artifact: Artifact) -> dict[str, Any]:
        times = artifact.read_table(["timing_id", "seconds"])
        return summarise(times, self.evaluation.name, self.evaluation.label)

    def datasets(self, done: IdSet, num_missing: int) -> list["Dataset"]:
        import ray.data

        evaluation, problems = self.evaluation, ray.data.from_items(self._timed_problems)
        generate = evaluation.generator.one_at_a_time().generate(num_missing)
        return [timed(problems, generate, evaluation.name, evaluation.label, evaluation.question, done)]


def timing_id(name: str, benchmark: str, instruction_id: str) -> str:
    return stable_id("timing", name, benchmark, instruction_id)


def requests(
    row: dict[str, Any], name: str, benchmark: str, question: Question, done: Container[str] = ()
) -> list[dict[str, Any]]:
    """The evaluation's request for the first sample of a problem, with the id of a TIMING row."""
    row_id = timing_id(name, benchmark, row["instruction_id"])
    requests = eval_requests(row, name, benchmark, question)[:1] if row_id not in done else []
    return [request | {"id": row_id} for request in requests]


def timed_row(row: dict[str, Any]) -> dict[str, Any]:
    """A generated row as a TIMING row."""
    columns = {"timing_id": row["id"], "model": row["model_name"]}
    columns |= {name: row[name] for name in ("benchmark", "instruction_id")}
    if row["error"]:
        return reject_failed(columns, row["error"])
    if not row.get("seconds"):
        return reject(columns, "not_measured", "the engine told no time")
    return columns | {"num_generated_tokens": row["num_generated_tokens"] or None, "seconds": row["seconds"]}


def timed_batch(table: pa.Table) -> pa.Table:
    return table_of([timed_row(row) for row in table.to_pylist()], TIMING)


def timed(
    problems: "Dataset", generate: "Generate", name: str, benchmark: str, question: Question, done: Container[str] = ()
) -> "Dataset":
    """The times of the model `name` for problems. `generate` must work on one request at a time."""
    request = {"name": name, "benchmark": benchmark, "question": question, "done": done}
    pending = problems.flat_map(requests, fn_kwargs=request)
    return generate(pending).map_batches(timed_batch, batch_size=None, batch_format="pyarrow")


def summarise(times: pa.Table, name: str, benchmark: str) -> dict[str, Any]:
    """`seconds`: the median over the problems, None without one. The first request of an engine is a slow outlier."""
    seconds = times["seconds"].to_pylist()
    median_seconds = median(seconds) if seconds else None
    return {"name": name, "benchmark": benchmark, "num_timed": len(seconds), "seconds": median_seconds}
