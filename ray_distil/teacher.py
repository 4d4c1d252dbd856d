"""Stage 2: the teachers' responses to the training instructions, one row per (instruction, teacher, sample)."""

import json
from collections.abc import Container
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ray_distil.prompts import instruction_messages
from ray_distil.reasoning import extract_answer, split_reasoning
from ray_distil.schemas import RESPONSES, stable_fraction, stable_id
from ray_distil.shards import reject, table_of

if TYPE_CHECKING:
    from ray.data import Dataset

    from ray_distil.engine import Generate

VERSION = 2
STAGE = "teacher"


def is_asked(instruction_id: str, teacher: str, fraction: float) -> bool:
    """Whether a teacher is asked this instruction: a share `fraction` of all, chosen by hash."""
    return stable_fraction(teacher, instruction_id) < fraction


def num_requests(instruction_ids: list[str], teacher: str, fraction: float, num_samples: int) -> int:
    """How many responses there must be."""
    return sum(is_asked(i, teacher, fraction) for i in instruction_ids) * num_samples


def requests(
    row: dict[str, Any],
    teacher: str,
    fraction: float,
    num_samples: int,
    sampling_params: dict[str, Any],
    seed: int,
    suffix: str,
    done: Container[str] = (),
) -> list[dict[str, Any]]:
    """An INSTRUCTIONS row as the requests to one teacher: none, or one a sample, each with its own recorded seed.

    The seeds of an instruction follow one another, as those of vLLM's own n samples of one seed do. Requests whose ids are in `done` are left out.
    """
    if row["split"] != "train" or not is_asked(row["instruction_id"], teacher, fraction):
        return []
    made = []
    first_seed = int(stable_id(seed, row["instruction_id"], teacher), 16) % 2**31
    for sample_index in range(num_samples):
        response_id = stable_id(row["instruction_id"], teacher, sample_index)
        if response_id in done:
            continue
        row_seed = first_seed + sample_index
        made.append({
            "id": response_id,
            "instruction_id": row["instruction_id"],
            "instruction": row["instruction"],
            "reference_answer": row["reference_answer"],
            "teacher": teacher,
            "sample_index": sample_index,
            "messages": instruction_messages(row["instruction"], suffix),
            "sampling_params": sampling_params | {"seed": row_seed},
            "seed": row_seed,
        })  # fmt: skip
    return made


def response_row(row: dict[str, Any], model: str, sampling_params: dict[str, Any]) -> dict[str, Any]:
    """A generated row as a RESPONSES row; an unfinished one goes on with its finish_reason, for the gates to judge."""
    known = row | {"response_id": row["id"], "model": model}
    if row["error"]:
        code, _, detail = row["error"].partition(": ")
        return reject(known, code, detail)
    reasoning, conclusion = split_reasoning(row["generated_text"])
    return known | {
        "response": row["generated_text"],
        "reasoning": reasoning,
        "answer": extract_answer(conclusion),
        "sampling_params": json.dumps(sampling_params | {"seed": row["seed"]}, sort_keys=True),
    }


def imported_row(record: Any, response_id: str, position: int) -> dict[str, Any]:
    """A record of `instruction` and `output` that another system made, as a RESPONSES row of a slow teacher.

    Its token counts are not known. The answer is the one stated, else the text behind the reasoning.
    """
    known = {"response_id": response_id, "instruction_id": response_id, "teacher": "slow", "sample_index": position}
    texts = record if isinstance(record, dict) else {}
    for key in ("instruction", "output"):
        if not isinstance(texts.get(key), str) or not texts[key].strip():
            return reject(known, "bad_record", f"row {position} has no text in {key!r}")
    reasoning, conclusion = split_reasoning(texts["output"])
    return known | {
        "instruction": texts["instruction"],
        "response": texts["output"],
        "reasoning": reasoning,
        "answer": extract_answer(conclusion) or (conclusion if reasoning else None),
        "finish_reason": "stop",
        "model": "imported",
        "sampling_params": "{}",
    }


def responses(instructions: "Dataset", generate: "Generate", teacher: str, model: str, **asked: Any) -> "Dataset":
    """One teacher's responses. `asked`: the other arguments of `requests`."""
    params = asked["sampling_params"]
    pending = instructions.flat_map(requests, fn_kwargs={"teacher": teacher, **asked})
    return generate(pending).map_batches(
        response_batch, batch_size=None, batch_format="pyarrow", fn_kwargs={"model": model, "sampling_params": params}
    )


def response_batch(table: pa.Table, model: str, sampling_params: dict[str, Any]) -> pa.Table:
    return table_of([response_row(row, model, sampling_params) for row in table.to_pylist()], RESPONSES)
