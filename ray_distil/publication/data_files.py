"""Rows of a run as the Parquet files of a data set: a folder for each configuration, with `messages` as trainers take them.

sft_examples/train-00000-of-00002.parquet     the same run gives the same bytes
responses/train-00000-of-00001.parquet
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ray_distil.errors import UserError
from ray_distil.publication.problem_columns import ProblemColumns
from ray_distil.report.cards import name_of
from ray_distil.store.artifact_reader import ArtifactReader, finished
from ray_distil.store.manifest import most_common, read_manifest
from ray_distil.store.schemas import ARTIFACTS
from ray_distil.store.storage import Folder

SPLIT = "train"
ROWS_A_GROUP = 1000  # of a Parquet file: what a viewer fetches at once
SHARD_BYTES = 500_000_000  # of a file, as Hugging Face's own tools divide data sets
MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
JOINED = {"source": pa.string(), "reference_answer": pa.string(), "pass_rate": pa.float64()}


class Layout(NamedTuple):
    """A configuration: columns of the question and of the text, and the published column -> the artifact's."""

    question: str
    text: str
    columns: dict[str, str]


LAYOUTS = {
    "sft_examples": Layout(
        "prompt",
        "completion",
        {
            "messages": "", "origin": "origin", "source": "", "reference_answer": "", "pass_rate": "",
            "num_tokens": "num_tokens", "instruction_id": "instruction_id", "example_id": "example_id",
        },
    ),
    "responses": Layout(
        "instruction",
        "response",
        {
            "messages": "", "teacher": "teacher", "model": "model", "sample_index": "sample_index", "source": "",
            "answer": "answer", "reference_answer": "", "verdict": "verdict", "pass_rate": "",
            "finish_reason": "finish_reason", "num_tokens": "num_generated_tokens",
            "sampling_params": "sampling_params", "instruction_id": "instruction_id", "response_id": "response_id",
        },
    ),
    "rewrites": Layout(
        "instruction",
        "reasoning",
        {
            "messages": "", "model": "model", "source": "", "answer": "answer", "source_answer": "source_answer",
            "reference_answer": "", "verdict": "verdict", "pass_rate": "", "original_tokens": "original_tokens",
            "num_tokens": "rewritten_tokens", "instruction_id": "instruction_id", "response_id": "response_id",
            "rewrite_id": "rewrite_id",
        },
    ),
}  # fmt: skip


@dataclass
class Written:
    """The figures of a configuration. num_bytes: of the rows in memory; file_bytes: of the files."""

    schema: pa.Schema
    num_examples: int = 0
    num_bytes: int = 0
    file_bytes: int = 0


def exportable(run: Folder, artifact: str) -> ArtifactReader:
    """An artifact of LAYOUTS that is finished and not empty. Raises UserError for any other."""
    complete = {name: reader for name in LAYOUTS if (reader := finished(run, name)) is not None}
    if artifact not in complete:
        choice = f"complete are {', '.join(complete)}" if complete else f"none of {', '.join(LAYOUTS)} is complete"
        raise UserError(f"--artifact: {artifact!r} of {run} is not complete, or is none that can be exported; {choice}")
    manifest = read_manifest(run / artifact)
    if manifest is not None and not manifest.rows_out:
        why = most_common(manifest.rejects) or "there were none"
        raise UserError(f"{artifact} of {run} has no rows ({why}); nothing is written")
    return complete[artifact]


def schema_of(configuration: str) -> pa.Schema:
    """The published columns, in their order."""
    artifact = ARTIFACTS[configuration].schema or pa.schema([])
    kinds = {"messages": MESSAGES, **JOINED}
    columns = LAYOUTS[configuration].columns.items()
    return pa.schema([(name, artifact.field(column).type if column else kinds[name]) for name, column in columns])


def tables(artifact: ArtifactReader, problems: ProblemColumns) -> Iterator[pa.Table]:
    """The rows of a configuration in tables of up to ROWS_A_GROUP rows. One part of the artifact is in memory."""
    question, text, columns = LAYOUTS[artifact.name]
    schema = schema_of(artifact.name)
    needed = [question, text, *filter(None, columns.values())]
    for part in artifact.tables(needed):
        for start in range(0, part.num_rows, ROWS_A_GROUP):
            rows = part.slice(start, ROWS_A_GROUP).combine_chunks()
            values = problems.joined(rows["instruction_id"]) | {"messages": _messages(rows[question], rows[text])}
            values |= {name: rows[column] for name, column in columns.items() if column}
            if "model" in values:  # a machine's folders are not published
                values["model"] = _renamed(values["model"], name_of)
            yield pa.table([values[name] for name in schema.names], schema=schema)


def write(
    artifact: ArtifactReader,
    problems: ProblemColumns,
    folder: Path,
    watch: Callable[[pa.Table], None] | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> Written:
    """Write the files of a configuration into a new folder; returns their figures. `watch` sees each table.

    A file is complete at the first row group with which it holds `shard_bytes`. The bytes depend on the rows and their
    order alone. One row group is in memory beside a part of the artifact.
    """
    folder.mkdir()
    figures, paths = Written(schema_of(artifact.name)), list[Path]()
    sink, writer = None, None
    with ExitStack() as files:
        for table in tables(artifact, problems):
            if sink is None or writer is None or sink.tell() >= shard_bytes:
                files.close()
                paths.append(folder / f"{len(paths):05d}")
                sink = files.enter_context(pa.OSFile(str(paths[-1]), "wb"))
                writer = files.enter_context(_writer(sink, figures.schema))
            writer.write_table(table)
            if watch is not None:
                watch(table)
            figures.num_examples += table.num_rows
            figures.num_bytes += table.nbytes

    # The name of a file tells how many there are.
    for number, path in enumerate(paths):
        final = folder / f"{SPLIT}-{number:05d}-of-{len(paths):05d}.parquet"
        path.rename(final)
        figures.file_bytes += final.stat().st_size
    return figures


def _writer(sink: pa.NativeFile, schema: pa.Schema) -> pq.ParquetWriter:
    """By content-defined chunks, of which the hub stores those that are new alone."""
    return pq.ParquetWriter(sink, schema, compression="zstd", use_content_defined_chunking=True, write_page_index=True)


def _messages(questions: pa.ChunkedArray, texts: pa.ChunkedArray) -> pa.Array:
    """A turn of the user and one of the assistant for each row."""
    number = len(questions)
    both = pa.concat_arrays([*questions.chunks, *texts.chunks])
    places = np.arange(2 * number).reshape(2, number).T.ravel()  # question 0, text 0, question 1, ...
    roles = pa.array(["user", "assistant"]).take(pa.array(np.arange(2 * number) % 2))
    turns = pa.StructArray.from_arrays([roles, both.take(pa.array(places))], fields=list(MESSAGES.value_type))
    return pa.ListArray.from_arrays(pa.array(np.arange(number + 1) * 2, pa.int32()), turns, type=MESSAGES)


def _renamed(column: pa.ChunkedArray, rename: Callable[[str], str]) -> pa.Array:
    """The column with `rename(value)` for each value, of which a run has few different ones."""
    encoded = pc.dictionary_encode(column.combine_chunks())
    names = pa.array([rename(name) for name in encoded.dictionary.to_pylist()], pa.string())
    return names.take(encoded.indices)
