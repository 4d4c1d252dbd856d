"""Stage 7: models on the held-out problems and on benchmarks: accuracy, tokens, whether answers ended by themselves.

There is one artifact for each model and benchmark, so a new student, benchmark or number of samples remakes no other
artifact. Answers are judged by `scorers.py` from the stored texts.
"""

from collections.abc import Container
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ray_distil.chat.prompts import instruction_messages
from ray_distil.generate.generation import TIMES
from ray_distil.judge import scorers
from ray_distil.stages.question import Question
from ray_distil.store.reuse import is_the_same
from ray_distil.store.schemas import EVAL, stable_id
from ray_distil.store.shards import reject, table_of

if TYPE_CHECKING:
    from ray.data import Dataset

    from ray_distil.generate.generation import Generate

VERSION = 8
ASKING_VERSION = 1  # of the requests: with another version all texts are generated again
STAGE = "evaluation"
OF_A_PROBLEM = ("reference_answer", "category", "num_choices")  # needed to judge an answer


def requests(
    row: dict[str, Any], name: str, benchmark: str, question: Question, done: Container[str] = ()
) -> list[dict[str, Any]]:
    """The requests to one model for a row of INSTRUCTIONS or BENCHMARK: one for each sample whose id is not in `done`.

    A problem of the split "train" gets no request.
    """
    if row["split"] != "eval":
        return []
    made = []
    for sample_index in range(question.num_samples):
        eval_id = stable_id(name, benchmark, row["instruction_id"], sample_index)
        if eval_id in done:
            continue
        made.append({
            "id": eval_id,
            "model_name": name,
            "benchmark": benchmark,
            "instruction_id": row["instruction_id"],
            "instruction": row["instruction"],
            **{name: row.get(name) for name in OF_A_PROBLEM},
            "sample_index": sample_index,
            **dict.fromkeys(TIMES, 0.0),  # generation fills them in
            "messages": instruction_messages(row["instruction"], question.suffix, question.system_prompt),
            "sampling_params": question.sampling_params | {"seed": int(stable_id(question.seed, eval_id), 16) % 2**31},
        })  # fmt: skip
    return made


def answer_row(row: dict[str, Any], kind: str = "math") -> dict[str, Any]:
    """A generated row as an EVAL row, judged by the benchmark's kind of answer; or as a reject."""
    known = row | {"eval_id": row["id"], "model": row["model_name"]}
    if row["error"]:
        code, _, detail = row["error"].partition(": ")
        return reject(known, code, detail)
    known |= {name: row[name] or None for name in ("num_prompt_tokens", "num_generated_tokens")}  # 0: not counted
    if known["num_generated_tokens"] is None:
        known["num_thinking_tokens"] = None
    known |= {name: row.get(name) or None for name in TIMES}
    made = known | {"response": row["generated_text"], "complete": row["finish_reason"] == "stop"}
    return scorers.judged(made, kind)


def renewed(
    row: dict[str, Any], problem: dict[str, Any], kind: str, max_tokens: int, has_same_limits: bool
) -> dict[str, Any] | None:
    """An EVAL row of an earlier making, judged again by `problem`; None where the model would give another text."""
    if is_the_same(row, row["complete"], max_tokens, has_same_limits):
        return scorers.judged(row | {name: problem.get(name) for name in OF_A_PROBLEM}, kind)
    return None


def answer_batch(table: pa.Table, kind: str = "math") -> pa.Table:
    return table_of([answer_row(row, kind) for row in table.to_pylist()], EVAL)


def evaluate(
    problems: "Dataset",
    generate: "Generate",
    kind: str,
    name: str,
    benchmark: str,
    question: Question,
    done: Container[str] = (),
) -> "Dataset":
    """The answers of the model `name` to problems, judged by the benchmark's `kind` of answer."""
    asked = {"name": name, "benchmark": benchmark, "question": question, "done": done}
    pending = problems.flat_map(requests, fn_kwargs=asked)
    how = {"batch_size": None, "batch_format": "pyarrow", "fn_kwargs": {"kind": kind}}
    return generate(pending).map_batches(answer_batch, **how)
