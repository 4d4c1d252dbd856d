"""How long models take: seconds for a problem that is asked alone, and tokens per second of many requests at once.

Timing is a stage of its own, because a request beside others takes longer than a request alone.
"""

from collections.abc import Container, Iterable
from statistics import median
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ray_distil.stages import evaluation
from ray_distil.stages.question import Question
from ray_distil.store.schemas import TIMING, stable_id
from ray_distil.store.shards import reject, table_of

if TYPE_CHECKING:
    from ray.data import Dataset

    from ray_distil.generate.generation import Generate

VERSION = 1
STAGE = "timing"


def timing_id(name: str, benchmark: str, instruction_id: str) -> str:
    return stable_id("timing", name, benchmark, instruction_id)


def requests(
    row: dict[str, Any], name: str, benchmark: str, question: Question, done: Container[str] = ()
) -> list[dict[str, Any]]:
    """The evaluation's request for the first sample of a problem, with the id of a TIMING row."""
    made = evaluation.requests(row, name, benchmark, question)[:1]
    asked = [one | {"id": timing_id(name, benchmark, one["instruction_id"])} for one in made]
    return [one for one in asked if one["id"] not in done]


def timed_row(row: dict[str, Any]) -> dict[str, Any]:
    """A generated row as a TIMING row."""
    known = {"timing_id": row["id"], "model": row["model_name"]}
    known |= {name: row[name] for name in ("benchmark", "instruction_id")}
    if row["error"]:
        code, _, detail = row["error"].partition(": ")
        return reject(known, code, detail)
    if not row.get("seconds"):
        return reject(known, "not_measured", "the engine told no time")
    return known | {"num_generated_tokens": row["num_generated_tokens"] or None, "seconds": row["seconds"]}


def timed_batch(table: pa.Table) -> pa.Table:
    return table_of([timed_row(row) for row in table.to_pylist()], TIMING)


def timed(
    problems: "Dataset", generate: "Generate", name: str, benchmark: str, question: Question, done: Container[str] = ()
) -> "Dataset":
    """The times of the model `name` for problems. `generate` must work on one request at a time."""
    asked = {"name": name, "benchmark": benchmark, "question": question, "done": done}
    pending = problems.flat_map(requests, fn_kwargs=asked)
    return generate(pending).map_batches(timed_batch, batch_size=None, batch_format="pyarrow")


def summarise(times: pa.Table, name: str, benchmark: str) -> dict[str, Any]:
    """`seconds`: the median over the problems, None without one. The first request of an engine is a slow outlier."""
    seconds = times["seconds"].to_pylist()
    told = {"name": name, "benchmark": benchmark, "num_timed": len(seconds)}
    return told | {"seconds": median(seconds) if seconds else None}


def tokens_per_s(answers: pa.Table) -> float | None:
    """Generated tokens of EVAL rows with known times, divided by the seconds in which at least one request was at work.

    answers: num_generated_tokens, seconds (that the request took) and finished_at (seconds since 1970). A pause between
    two makings of an artifact does not count.
    """
    counted = answers.select(["num_generated_tokens", "seconds", "finished_at"]).drop_null().to_pylist()
    spans = sorted((row["finished_at"] - row["seconds"], row["finished_at"]) for row in counted)
    busy = _length(spans)
    return sum(row["num_generated_tokens"] for row in counted) / busy if busy else None


def _length(spans: Iterable[tuple[float, float]]) -> float:
    """The length of the union of time spans (start, end), which are sorted by start."""
    total, until = 0.0, float("-inf")
    for start, end in spans:
        total += max(0.0, end - max(start, until))
        until = max(until, end)
    return total
