"""Imported texts as artifacts: a teacher's responses, or training examples, that another system has made."""

from collections import Counter
from itertools import islice
from typing import Any

from ray_distil import UserError
from ray_distil.config import TeacherConfig
from ray_distil.rows import curation, teacher
from ray_distil.run.runs import Run
from ray_distil.run.stage import Made, Stage
from ray_distil.store import schemas
from ray_distil.store.artifact import Artifact
from ray_distil.store.manifest import digest
from ray_distil.store.shards import table_of
from ray_distil.texts import sources
from ray_distil.texts.sources import Source

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


def imported_id(source: str, position: int) -> str:
    """Id of an imported row: a hash of the file's path, as given, and the row's position in the file, from 1."""
    return schemas.stable_id("imported", source, position)


class ImportedResponses(Stage):
    """Imported responses of a slow teacher: records of `instruction` and `output`."""

    rows, artifact, schema, unit = teacher, "responses", schemas.RESPONSES, "responses"

    def __init__(self, records: list[Any], source: str) -> None:
        self.imported = []
        for position, record in enumerate(records, 1):
            response_id = imported_id(source, position)
            known = {"response_id": response_id, "instruction_id": response_id, "teacher": "slow"}
            self.imported.append(teacher.imported_row(record, known | {"sample_index": position}))
        self.settings, self.inputs = {"source": source}, [digest(self.imported)]

    def make(self, artifact: Artifact) -> Made:
        artifact.write_table(table_of(self.imported, schemas.RESPONSES), teacher.STAGE)
        return len(self.imported), {}


class ImportedExamples(Stage):
    """Imported training examples: records of `instruction` and `output`, taken without a gate."""

    rows, artifact, schema, unit = curation, "sft_examples", schemas.SFT_EXAMPLES, "examples"

    def __init__(self, records: list[Any], source: str) -> None:
        self.imported = [curation.imported_row(record, imported_id(source, k)) for k, record in enumerate(records, 1)]
        self.settings, self.inputs = {"source": source}, [digest(self.imported)]

    def make(self, artifact: Artifact) -> Made:
        artifact.write_table(table_of(self.imported, schemas.SFT_EXAMPLES), curation.STAGE)
        return len(self.imported), {}


def import_responses(run: Run, records: list[Any], source: str) -> Artifact:
    return run.make(ImportedResponses(records, source))


def import_examples(run: Run, records: list[Any], source: str) -> Artifact:
    return run.make(ImportedExamples(records, source))
