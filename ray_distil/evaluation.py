"""Stage 7: models on the held-out problems: accuracy, tokens used, and whether the answers ended by themselves.

Each model's answers are an artifact of their own, so another student leaves those of the others as they are.
"""

from collections.abc import Container
from math import sqrt
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ray_distil.agreement import answers_agree
from ray_distil.answers import extract_answer
from ray_distil.blocks import reject, table_of
from ray_distil.prompts import instruction_messages
from ray_distil.reasoning import split_reasoning
from ray_distil.reuse import is_the_same
from ray_distil.schemas import EVAL, stable_id

if TYPE_CHECKING:
    from ray.data import Dataset

    from ray_distil.engine import Generate

VERSION = 4
ASKING_VERSION = 1  # of what is asked: another one buys all texts again
STAGE = "evaluation"
SUMMARISED = ["instruction_id", "correct", "complete", "num_generated_tokens"]  # columns
Z = 1.959964  # of the normal distribution, for 95 %


def requests(
    row: dict[str, Any],
    name: str,
    benchmark: str,
    num_samples: int,
    sampling_params: dict[str, Any],
    seed: int,
    suffix: str,
    system_prompt: str | None = None,
    done: Container[str] = (),
) -> list[dict[str, Any]]:
    """An INSTRUCTIONS row as the requests to one model: none if it is not held out, else one a sample not in `done`."""
    if row["split"] != "eval":
        return []
    made = []
    for sample_index in range(num_samples):
        eval_id = stable_id(name, benchmark, row["instruction_id"], sample_index)
        if eval_id in done:
            continue
        made.append({
            "id": eval_id,
            "model_name": name,
            "benchmark": benchmark,
            "instruction_id": row["instruction_id"],
            "instruction": row["instruction"],
            "reference_answer": row["reference_answer"],
            "sample_index": sample_index,
            "messages": instruction_messages(row["instruction"], suffix, system_prompt),
            "sampling_params": sampling_params | {"seed": int(stable_id(seed, eval_id), 16) % 2**31},
        })  # fmt: skip
    return made


def answer_row(row: dict[str, Any]) -> dict[str, Any]:
    """A generated row as an EVAL row. A cut answer is not correct, whatever it had said before."""
    known = row | {"eval_id": row["id"], "model": row["model_name"]}
    if row["error"]:
        code, _, detail = row["error"].partition(": ")
        return reject(known, code, detail)
    return _judged(known | {"response": row["generated_text"], "complete": row["finish_reason"] == "stop"})


def renewed(
    row: dict[str, Any], reference: str | None, max_tokens: int, has_same_limits: bool
) -> dict[str, Any] | None:
    """An EVAL row of an earlier making as it is now; None where its text would be another one."""
    if is_the_same(row, row["complete"], max_tokens, has_same_limits):
        return _judged(row | {"reference_answer": reference})
    return None


def _judged(row: dict[str, Any]) -> dict[str, Any]:
    answer, reference = extract_answer(split_reasoning(row["response"])[1]), row["reference_answer"]
    is_correct = None if reference is None else row["complete"] and answers_agree(answer, reference)
    return row | {"answer": answer, "correct": is_correct}


def answer_batch(table: pa.Table) -> pa.Table:
    return table_of([answer_row(row) for row in table.to_pylist()], EVAL)


def evaluate(problems: "Dataset", generate: "Generate", **asked: Any) -> "Dataset":
    """One model's answers to the held-out problems. `asked`: the other arguments of `requests`."""
    pending = problems.flat_map(requests, fn_kwargs=asked)
    return generate(pending).map_batches(answer_batch, batch_size=None, batch_format="pyarrow")


def summarise(answers: pa.Table, rejected: list[dict[str, Any]], name: str, benchmark: str) -> dict[str, Any]:
    """What one model's answers come to. `rejected`: the rows that have no answer; they count as wrong and not complete.

    accuracy: share of correct answers among those with a reference; null where there is none.
    mean_tokens: generated tokens an answer, reasoning and end token included, cut answers too.
    completion_rate: share of answers that ended by themselves.
    accuracy_interval: see there.
    """
    rows = answers.select(SUMMARISED).to_pylist()
    tokens = [row["num_generated_tokens"] for row in rows]
    for row in rejected:
        correct = None if row.get("reference_answer") is None else False
        rows.append({"instruction_id": row["instruction_id"], "correct": correct, "complete": False})
    return {
        "name": name,
        "benchmark": benchmark,
        "num_problems": len({row["instruction_id"] for row in rows}),
        "num_rejected": len(rejected),
        "accuracy": _mean([row["correct"] for row in rows if row["correct"] is not None]),
        "mean_tokens": _mean(tokens),
        "completion_rate": _mean([row["complete"] for row in rows]),
        "accuracy_interval": accuracy_interval(rows),
    }


def compare(models: list[dict[str, Any]], baseline: str) -> list[dict[str, Any]]:
    """The models' summaries with speed_gain: mean tokens of the baseline over their own, as the recipe's table has it."""
    reference = next((model["mean_tokens"] for model in models if model["name"] == baseline), None)
    return [
        model | {"speed_gain": reference / model["mean_tokens"] if reference and model["mean_tokens"] else None}
        for model in models
    ]


def accuracy_interval(rows: list[dict[str, Any]]) -> list[float] | None:
    """The 95 % interval of accuracy, [low, high]; None without a reference.

    Wilson's score interval (1927) on an effective number of answers: that with which independent answers would have
    the standard error that is clustered by problem (Miller, 2411.00640). Samples of one problem that agree say no more
    than one of them. It has a width at 0 and at 100 % too. Coverage: tests/benchmarks/intervals.py.
    """
    by_problem: dict[str, list[bool]] = {}
    for row in rows:
        if row["correct"] is not None:
            by_problem.setdefault(row["instruction_id"], []).append(row["correct"])
    if not by_problem:
        return None
    shares = [sum(samples) / len(samples) for samples in by_problem.values()]
    return [round(bound, 6) for bound in clustered_wilson(shares, sum(map(len, by_problem.values())))]


def clustered_wilson(shares: list[float], num_answers: int) -> tuple[float, float]:
    """Wilson's interval for the mean of the problems' shares of correct answers, of `num_answers` answers in all."""
    n, mean = len(shares), sum(shares) / len(shares)
    variance = sum((share - mean) ** 2 for share in shares) / max(1, n - 1) / n  # of the mean
    effective = min(max(mean * (1 - mean) / variance, n), num_answers) if variance else n
    middle, spread = mean + Z**2 / (2 * effective), Z * sqrt(mean * (1 - mean) / effective + (Z / (2 * effective)) ** 2)
    scale = 1 + Z**2 / effective
    return max(0.0, (middle - spread) / scale), min(1.0, (middle + spread) / scale)


def pareto_front(models: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The models that no other one beats, by tokens: none is as accurate with fewer, or more accurate with as many."""
    measured = [m for m in models if m["accuracy"] is not None and m["mean_tokens"] is not None]
    front: list[dict[str, Any]] = []
    for model in sorted(measured, key=lambda m: (m["mean_tokens"], -m["accuracy"])):
        if not front or model["accuracy"] > front[-1]["accuracy"]:
            front.append(model)
    return front


def _mean(values: list[Any]) -> float | None:
    return sum(values) / len(values) if values else None
