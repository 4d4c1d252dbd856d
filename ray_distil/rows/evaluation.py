"""Stage 7: models on the held-out problems: accuracy, tokens used, and whether the answers ended by themselves.

Each model's answers are an artifact of their own, so another student leaves those of the others as they are.
"""

from collections.abc import Container
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ray_distil.rows import scores
from ray_distil.store.reuse import is_the_same
from ray_distil.store.schemas import EVAL, stable_id
from ray_distil.store.shards import reject, table_of
from ray_distil.texts.agreement import answers_agree
from ray_distil.texts.answers import extract_answer
from ray_distil.texts.prompts import instruction_messages
from ray_distil.texts.reasoning import split_reasoning

if TYPE_CHECKING:
    from ray.data import Dataset

    from ray_distil.generate.generation import Generate

VERSION = 6
ASKING_VERSION = 1  # of what is asked: another one buys all texts again
STAGE = "evaluation"


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
    """What one model's answers come to; see `scores.summary`. `rejected`: the rows that have no answer."""
    figures = scores.summary(scores.with_rejected(answers, rejected))
    return {"name": name, "benchmark": benchmark, "num_rejected": len(rejected), **figures}
