"""Imported texts as artifacts: a teacher's responses, or training examples, that another system has made."""

import json
from collections import Counter
from itertools import islice
from typing import Any

from ray_distil.config import TeacherConfig
from ray_distil.errors import UserError
from ray_distil.records import sources
from ray_distil.records.sources import Source
from ray_distil.runner.runs import Run
from ray_distil.runner.stage import Made, Stage
from ray_distil.stages import curation, made_of, teacher
from ray_distil.store import schemas
from ray_distil.store.artifact import Artifact
from ray_distil.store.manifest import digest
from ray_distil.store.shards import table_of

IMPORTED_ROWS = 1000  # in a shard: chains of thought are long


def import_teacher(
    run: Run, artifact: Artifact, problems: Artifact, name: str, asked: TeacherConfig, source: Source
) -> Counter[str]:
    """Write the rows of a teacher whose responses are imported; returns the number of unused records by reason."""
    columns = ["instruction_id", "instruction", "reference_answer", "split"]
    rows = (row for table in problems.tables(columns) for row in table.to_pylist())
    counts: Counter[str] = Counter()
    details: dict[str, str] = {}
    made = teacher.imported(rows, sources.records(source), name, asked.fraction, asked.num_samples, counts, details)
    done = artifact.done_ids()
    while chunk := list(islice(made, IMPORTED_ROWS)):
        if not counts[teacher.MATCHED]:
            bad = "; ".join(f"{counts[reason]:,} records are {reason} ({detail})" for reason, detail in details.items())
            raise UserError(
                f"{source.key}: {source.path!r} has no response to any training instruction of this run"
                + (f": {bad}" if bad else "")
            )
        missing = [row for row in chunk if row["response_id"] not in done]
        artifact.write_table(table_of(missing, schemas.RESPONSES), teacher.STAGE)
        artifact.tell.advance(len(chunk))
    num_matched = counts.pop(teacher.MATCHED, 0)
    if counts:
        why = ", ".join(f"{reason} {number:,}" for reason, number in sorted(counts.items()))
        run.display.say(f"{source.key}: {num_matched:,} records used; not used: {why}")
    return counts


def imported_ids(records: list[Any], source: str, by_source: bool) -> list[tuple[str, int]]:
    """`(id, number among equal records)` of imported rows: the id is a hash of the record and of that number.

    by_source: the id is a hash of the file's path, as given, and of the row's position in it, from 1; the number is this
    position. So it is in runs of earlier versions.
    """
    if by_source:
        return [(schemas.stable_id("imported", source, k), k) for k in range(1, len(records) + 1)]
    equal: Counter[str] = Counter()
    ids = []
    for record in records:
        text = json.dumps(record, sort_keys=True, ensure_ascii=True, default=str)
        ids.append((schemas.stable_id("imported", text, equal[text]), equal[text]))
        equal[text] += 1
    return ids


def _settings(source: str, by_source: bool) -> dict[str, Any]:
    return {"source": source} if by_source else {"ids": "text"}


class ImportedResponses(Stage):
    """Imported responses of a slow teacher: records of `instruction` and `output`."""

    rows, artifact, schema, unit = teacher, "responses", schemas.RESPONSES, "responses"

    def __init__(self, records: list[Any], source: str, by_source: bool) -> None:
        self.imported = []
        for record, (response_id, number) in zip(records, imported_ids(records, source, by_source), strict=True):
            known = {"response_id": response_id, "instruction_id": response_id, "teacher": "slow"}
            self.imported.append(teacher.imported_row(record, known | {"sample_index": number}))
        self.settings, self.inputs = _settings(source, by_source), [digest(self.imported)]

    def make(self, artifact: Artifact) -> Made:
        artifact.write_table(table_of(self.imported, schemas.RESPONSES), teacher.STAGE)
        return len(self.imported), {}


class ImportedExamples(Stage):
    """Imported training examples: records of `instruction` and `output`, taken without a gate."""

    rows, artifact, schema, unit = curation, "sft_examples", schemas.SFT_EXAMPLES, "examples"

    def __init__(self, records: list[Any], source: str, by_source: bool) -> None:
        ids = [example_id for example_id, _ in imported_ids(records, source, by_source)]
        self.imported = list(map(curation.imported_row, records, ids))
        self.settings, self.inputs = _settings(source, by_source), [digest(self.imported)]

    def make(self, artifact: Artifact) -> Made:
        artifact.write_table(table_of(self.imported, schemas.SFT_EXAMPLES), curation.STAGE)
        return len(self.imported), {}


def import_responses(run: Run, records: list[Any], source: str) -> tuple[Artifact, list[str]]:
    """The responses as an artifact, and the id of each record. source: the path of the file, as given."""
    made_of.keep_ids_by_source(run.folder, ImportedResponses.artifact)
    stage = ImportedResponses(records, source, made_of.ids_by_source(run.folder, ImportedResponses.artifact))
    return run.make(stage), [row["response_id"] for row in stage.imported]


def import_examples(run: Run, records: list[Any], source: str) -> Artifact:
    """The examples as an artifact. source: the path of the file, as given."""
    made_of.keep_ids_by_source(run.folder, ImportedExamples.artifact)
    by_source = made_of.ids_by_source(run.folder, ImportedExamples.artifact)
    return run.make(ImportedExamples(records, source, by_source))
