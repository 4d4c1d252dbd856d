"""Rows made of the records of other systems: a teacher's responses, or training examples."""

import json
from abc import abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa

from ray_distil.chat.reasoning_marks import split_reasoning, thinking_is_open
from ray_distil.errors import BadRecord
from ray_distil.judge.answers import extract_answer
from ray_distil.judge.results import final_result
from ray_distil.records.conversations import finish_reason_of, instruction_of, responses_in
from ray_distil.runner.id_rule import keep_ids_by_source
from ray_distil.runner.reuse import RowsById
from ray_distil.runner.runs import Run
from ray_distil.runner.stage import Made, Row, Stage
from ray_distil.runner.stage_settings import StageSettings
from ray_distil.store.artifact import Artifact
from ray_distil.store.manifest import digest
from ray_distil.store.schemas import normalised, stable_id
from ray_distil.store.shards import ROWS_AT_ONCE, reject, table_of

TEACHERS = ("direct", "slow")
MATCHED, UNUSED = "matched", "unused"
RECORDS_AT_ONCE = 200  # of imported responses: chains of thought are long


class ImportedRows(Stage):
    """Rows that another system has made: one for each record of `instruction` and `output`.

    A stage that takes such rows defines `row`. source: the path of the file, as given.
    """

    def __init__(self, run: Run, records: list[Any], source: str) -> None:
        by_source = keep_ids_by_source(run.folder, self.artifact)
        ids = imported_ids(records, source, by_source)
        self.imported = [self.row(record, *numbered) for record, numbered in zip(records, ids, strict=True)]
        self.settings = StageSettings({"source": source} if by_source else {"ids": "text"})
        self.inputs = [digest(self.imported)]

    @abstractmethod
    def row(self, record: Any, row_id: str, number: int) -> Row:
        """A record as an accepted or rejected row. number: see `imported_ids`."""

    def make(self, artifact: Artifact) -> Made:
        assert self.schema is not None
        artifact.write_table(table_of(self.imported, self.schema), self.artifact)
        return len(self.imported), {}


def imported_response(record: Any, columns: dict[str, Any]) -> dict[str, Any]:
    """A record of `instruction` and `output` from another system as a RESPONSES row. `columns`: its ids and teacher."""
    try:
        instruction, responses, finish_reason = imported_texts(record)
        if len(responses) > 1:
            raise BadRecord("bad_record", f"{len(responses)} responses; expected one")
    except BadRecord as error:
        return reject(columns, error.reason, str(error))
    return {"instruction": instruction, **columns, **imported_columns(responses[0], finish_reason, reference=None)}


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
    finish_reason = record.get("finish_reason")
    return instruction, responses, finish_reason_of(finish_reason) if finish_reason else None


def imported_columns(response: str, finish_reason: str | None, reference: str | None) -> dict[str, Any]:
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


def matched(
    requested: RowsById,
    records: Iterable[Any],
    teacher: str,
    num_samples: int,
    counts: Counter[str],
    examples: dict[str, str] | None = None,
) -> Iterator[dict[str, Any]]:
    """One RESPONSES row for each request: first those with a record, in the records' order, then the rejected ones.

    requested: from `by_text`. `counts` is filled with the number of records by outcome: MATCHED, UNUSED (its instruction
    is not in this run, has enough responses already, or the record names the other teacher), or the reason of a bad
    record. `examples` is filled with the first detail of each reason.
    """
    num_found, remaining = np.zeros(len(requested), np.int32), iter(records)
    while part := list(islice(remaining, RECORDS_AT_ONCE)):
        # Records that can be read; the others are counted.
        readable = []
        for record in part:
            try:
                readable.append((record, *imported_texts(record)))
            except BadRecord as error:
                counts[error.reason] += 1
                if examples is not None:
                    examples.setdefault(error.reason, str(error))

        # Each record beside the instruction of the same text.
        ids = [text_id(instruction) for _, instruction, _, _ in readable]
        places, rows = requested.places(ids).tolist(), requested.rows(ids)
        for (record, _, responses, finish_reason), place, row in zip(readable, places, rows, strict=True):
            is_others = record.get("teacher") in TEACHERS and record["teacher"] != teacher
            if row is None or is_others or num_found[place] == num_samples:
                counts[UNUSED] += 1
                continue
            counts[MATCHED] += 1
            for response in responses[: num_samples - num_found[place]]:
                request = request_columns(row, teacher, int(num_found[place]))
                yield request | imported_columns(response, finish_reason, row["reference_answer"])
                num_found[place] += 1

    # Requests without a response.
    for start in range(0, len(requested), RECORDS_AT_ONCE):
        rows = requested.table.slice(start, RECORDS_AT_ONCE).to_pylist()
        for row, number in zip(rows, num_found[start : start + RECORDS_AT_ONCE].tolist(), strict=True):
            for sample_index in range(number, num_samples):
                detail = f"{number} of {num_samples} responses to this instruction are there"
                yield reject(request_columns(row, teacher, sample_index), "no_response", detail)


def by_text(instructions: Iterable[dict[str, Any]]) -> RowsById:
    """The instructions, found by `text_id`."""
    return RowsById(_text_tables(iter(instructions)), "text_id")


def _text_tables(instructions: Iterator[dict[str, Any]]) -> Iterator[pa.Table]:
    while part := list(islice(instructions, ROWS_AT_ONCE)):
        rows = [{"text_id": text_id(row["instruction"]), **of_instruction(row)} for row in part]
        yield pa.Table.from_pylist(rows, pa.schema([(name, pa.string()) for name in rows[0]]))


def text_id(instruction: str) -> str:
    return stable_id(normalised(instruction))


def of_instruction(row: dict[str, Any]) -> dict[str, Any]:
    """The columns of an INSTRUCTIONS row that its responses have too."""
    return {key: row[key] for key in ("instruction_id", "instruction", "reference_answer")}


def request_columns(row: dict[str, Any], teacher: str, sample_index: int) -> dict[str, Any]:
    """The columns of a RESPONSES row that describe the request."""
    response_id = stable_id(row["instruction_id"], teacher, sample_index)
    return {"response_id": response_id, **of_instruction(row), "teacher": teacher, "sample_index": sample_index}


def imported_example(record: Any, example_id: str) -> dict[str, Any]:
    """A record of `instruction` and `output` as an SFT_EXAMPLES row, without a gate; or a reject."""
    columns = {"example_id": example_id, "instruction_id": example_id, "origin": "imported", "origin_id": example_id}
    texts = dict(record) if isinstance(record, dict) else {}
    try:
        texts["instruction"] = instruction_of(texts)
    except BadRecord as error:
        return reject(columns, error.reason, str(error))
    for key in ("instruction", "output"):
        if not isinstance(texts.get(key), str) or not texts[key].strip():
            return reject(columns, "bad_record", f"the row has no text in {key!r}")
    return columns | {"prompt": texts["instruction"], "completion": texts["output"]}


def imported_ids(records: list[Any], source: str, by_source: bool) -> list[tuple[str, int]]:
    """`(id, number among equal records)` of imported rows: the id is a hash of the record and of that number.

    by_source: the id is a hash of the file's path, as given, and of the row's position in it, from 1; the number is this
    position. So it is in runs of earlier versions.
    """
    if by_source:
        return [(stable_id("imported", source, k), k) for k in range(1, len(records) + 1)]
    equal: Counter[str] = Counter()
    ids = []
    for record in records:
        text = json.dumps(record, sort_keys=True, ensure_ascii=True, default=str)
        ids.append((stable_id("imported", text, equal[text]), equal[text]))
        equal[text] += 1
    return ids
