"""Stage 2: the teachers' responses to the training instructions, one row per (instruction, teacher, sample)."""

import json
from collections import Counter
from collections.abc import Container, Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from ray_distil.chat.prompts import instruction_messages
from ray_distil.chat.reasoning_marks import split_reasoning, thinking_is_open
from ray_distil.errors import BadRecord
from ray_distil.judge.answers import extract_answer
from ray_distil.judge.results import final_result
from ray_distil.records.conversations import finish_reason_of, instruction_of, responses_in
from ray_distil.stages.question import Question
from ray_distil.store.reuse import Known, is_the_same
from ray_distil.store.schemas import RESPONSES, normalised, stable_fraction, stable_id
from ray_distil.store.shards import ROWS_AT_ONCE, reject, table_of

if TYPE_CHECKING:
    from ray.data import Dataset

    from ray_distil.generate.generation import Generate

VERSION = 4
ASKING_VERSION = 1  # of the requests: with another version all texts are generated again
STAGE = "teacher"
TEACHERS = ("direct", "slow")
MATCHED, UNUSED = "matched", "unused"
RECORDS_AT_ONCE = 200  # of imported responses: chains of thought are long


def is_asked(instruction_id: str, teacher: str, fraction: float) -> bool:
    """Whether a teacher is asked this instruction. A hash chooses the share `fraction` of all instructions."""
    return stable_fraction(teacher, instruction_id) < fraction


def num_requests(instruction_ids: list[str], teacher: str, fraction: float, num_samples: int) -> int:
    """The number of responses that a teacher must give to these instructions."""
    return sum(is_asked(i, teacher, fraction) for i in instruction_ids) * num_samples


def requests(row: dict[str, Any], teacher: str, question: Question, done: Container[str] = ()) -> list[dict[str, Any]]:
    """The requests to one teacher for an INSTRUCTIONS row: none, or one for each sample, each with its own seed.

    The seeds of an instruction are consecutive numbers, as vLLM uses them for n samples of one request. Requests whose
    ids are in `done` are left out.
    """
    if row["split"] != "train" or not is_asked(row["instruction_id"], teacher, question.fraction):
        return []
    made = []
    first_seed = int(stable_id(question.seed, row["instruction_id"], teacher), 16) % 2**31
    for sample_index in range(question.num_samples):
        asked = _request(row, teacher, sample_index)
        response_id = asked.pop("response_id")
        if response_id in done:
            continue
        row_seed = first_seed + sample_index
        made.append({
            "id": response_id,
            **asked,
            "messages": instruction_messages(row["instruction"], question.suffix, question.system_prompt),
            "sampling_params": question.sampling_params | {"seed": row_seed},
            "seed": row_seed,
        })  # fmt: skip
    return made


def response_row(row: dict[str, Any], model: str, sampling_params: dict[str, Any]) -> dict[str, Any]:
    """A generated row as a RESPONSES row. A text that was cut is kept: the gates see its finish_reason."""
    known = row | {"response_id": row["id"], "model": model}
    if row["error"]:
        code, _, detail = row["error"].partition(": ")
        return reject(known, code, detail)
    return (
        known
        | _read(row["generated_text"])
        | {
            "num_prompt_tokens": row["num_prompt_tokens"] or None,  # 0: not counted
            "num_generated_tokens": row["num_generated_tokens"] or None,
            "sampling_params": json.dumps(sampling_params | {"seed": row["seed"]}, sort_keys=True),
        }
    )


def renewed(
    row: dict[str, Any], reference: str | None, max_tokens: int, has_same_limits: bool
) -> dict[str, Any] | None:
    """A generated RESPONSES row of an earlier making, read again; None where the teacher would give another text."""
    if is_the_same(row, row["finish_reason"] == "stop", max_tokens, has_same_limits):
        return row | _read(row["response"]) | {"reference_answer": reference}
    return None


def _read(text: str) -> dict[str, Any]:
    """The columns of a RESPONSES row that are read from a generated text."""
    reasoning, conclusion = split_reasoning(text)
    return {"response": text, "reasoning": reasoning, "answer": extract_answer(conclusion)}


def imported_row(record: Any, known: dict[str, Any]) -> dict[str, Any]:
    """A record of `instruction` and `output` from another system as a RESPONSES row. `known`: its ids and teacher."""
    try:
        instruction, responses, finish_reason = imported_texts(record)
        if len(responses) > 1:
            raise BadRecord("bad_record", f"{len(responses)} responses; expected one")
    except BadRecord as error:
        return reject(known, error.reason, str(error))
    return {"instruction": instruction, **known, **_imported(responses[0], finish_reason, reference=None)}


def imported_texts(record: Any) -> tuple[str, list[str], str | None]:
    """`(instruction, responses, finish_reason)` of a record; finish_reason None: not given. Raises BadRecord."""
    if not isinstance(record, dict):
        raise BadRecord("bad_record", f"a {type(record).__name__}; expected an object")
    instruction, responses = instruction_of(record), responses_in(record)
    if not isinstance(instruction, str) or not instruction.strip():
        raise BadRecord("bad_record", "no text in 'instruction'")
    try:
        "".join([instruction, *responses]).encode()
    except UnicodeEncodeError:
        raise BadRecord("not_unicode", "a lone surrogate") from None
    given = record.get("finish_reason")
    return instruction, responses, finish_reason_of(given) if given else None


def _imported(response: str, finish_reason: str | None, reference: str | None) -> dict[str, Any]:
    """The columns of a RESPONSES row for an imported text. Token counts are not known.

    Without a given finish_reason, a text whose think block is open counts as cut. The answer is the stated one. A text
    with reasoning that states none has the text behind its reasoning as the answer; if there is a reference, only the
    result in which this text ends, if it has one.
    """
    reasoning, conclusion = split_reasoning(response)
    unstated = (reference is not None and final_result(conclusion)) or conclusion
    return {
        "response": response,
        "reasoning": reasoning,
        "answer": extract_answer(conclusion) or (unstated if reasoning else None) or None,
        "finish_reason": finish_reason or ("length" if thinking_is_open(response) else "stop"),
        "model": "imported",
        "sampling_params": "{}",
    }


def imported(
    instructions: Iterable[dict[str, Any]],
    records: Iterable[Any],
    teacher: str,
    fraction: float,
    num_samples: int,
    counts: Counter[str],
    examples: dict[str, str] | None = None,
) -> Iterator[dict[str, Any]]:
    """One RESPONSES row for each request: first those with a record, in the records' order, then the rejected ones.

    `counts` is filled with the number of records by outcome: MATCHED, UNUSED (its instruction is not in this run, has
    enough responses already, or the record names the other teacher), or the reason of a bad record. `examples` is
    filled with the first detail of each reason.
    """
    asked = Known(_by_text(instructions, teacher, fraction), "text_id")
    found, given = np.zeros(len(asked), np.int32), iter(records)
    while part := list(islice(given, RECORDS_AT_ONCE)):
        read = []
        for record in part:
            try:
                read.append((record, *imported_texts(record)))
            except BadRecord as error:
                counts[error.reason] += 1
                if examples is not None:
                    examples.setdefault(error.reason, str(error))
        ids = [_text_id(instruction) for _, instruction, _, _ in read]
        for (record, _, responses, finish_reason), place, row in zip(
            read, asked.places(ids).tolist(), asked.rows(ids), strict=True
        ):
            is_others = record.get("teacher") in TEACHERS and record["teacher"] != teacher
            if row is None or is_others or found[place] == num_samples:
                counts[UNUSED] += 1
                continue
            counts[MATCHED] += 1
            for response in responses[: num_samples - found[place]]:
                asked_for = _request(row, teacher, int(found[place]))
                yield asked_for | _imported(response, finish_reason, row["reference_answer"])
                found[place] += 1
    for start in range(0, len(asked), RECORDS_AT_ONCE):
        rows = asked.table.slice(start, RECORDS_AT_ONCE).to_pylist()
        for row, number in zip(rows, found[start : start + RECORDS_AT_ONCE].tolist(), strict=True):
            for sample_index in range(number, num_samples):
                detail = f"{number} of {num_samples} responses to this instruction are there"
                yield reject(_request(row, teacher, sample_index), "no_response", detail)


def _by_text(instructions: Iterable[dict[str, Any]], teacher: str, fraction: float) -> Iterator[pa.Table]:
    """Tables of the instructions that the teacher is asked, each with a hash of its text as `text_id`."""
    chosen = (r for r in instructions if r["split"] == "train" and is_asked(r["instruction_id"], teacher, fraction))
    while part := list(islice(chosen, ROWS_AT_ONCE)):
        rows = [{"text_id": _text_id(row["instruction"]), **_asked_for(row)} for row in part]
        yield pa.Table.from_pylist(rows, pa.schema([(name, pa.string()) for name in rows[0]]))


def _text_id(instruction: str) -> str:
    return stable_id(normalised(instruction))


def _asked_for(row: dict[str, Any]) -> dict[str, Any]:
    return {key: row[key] for key in ("instruction_id", "instruction", "reference_answer")}


def _request(row: dict[str, Any], teacher: str, sample_index: int) -> dict[str, Any]:
    """The columns of a RESPONSES row that describe the request."""
    response_id = stable_id(row["instruction_id"], teacher, sample_index)
    return {"response_id": response_id, **_asked_for(row), "teacher": teacher, "sample_index": sample_index}


def responses(
    instructions: "Dataset",
    generate: "Generate",
    teacher: str,
    model: str,
    question: Question,
    done: Container[str] = (),
) -> "Dataset":
    """One teacher's responses, without those whose ids are in `done`."""
    pending = instructions.flat_map(requests, fn_kwargs={"teacher": teacher, "question": question, "done": done})
    how = {"model": model, "sampling_params": question.sampling_params}
    return generate(pending).map_batches(response_batch, batch_size=None, batch_format="pyarrow", fn_kwargs=how)


def response_batch(table: pa.Table, model: str, sampling_params: dict[str, Any]) -> pa.Table:
    return table_of([response_row(row, model, sampling_params) for row in table.to_pylist()], RESPONSES)
