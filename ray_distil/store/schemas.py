"""One pyarrow schema per artifact, and the id rules.

    instructions -> responses -> rewrites -> sft_examples -> packed -> checkpoint -> eval -> report

The first column of each schema is the row's id. It is unique in the artifact, and depends on what the row is, never on
its position in a file. Rejected rows of every artifact have the schema REJECTS.
"""

import hashlib
import re
import unicodedata
from typing import NamedTuple

import pyarrow as pa


def _schema(*columns: tuple[str, pa.DataType] | tuple[str, pa.DataType, bool]) -> pa.Schema:
    return pa.schema([pa.field(name, kind, nullable=bool(null)) for name, kind, *null in columns])


NULLABLE = True
_UNSEEN = re.compile(
    "[\u00ad\u034f\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufe00-\ufe0f\ufeff]"
)
SEPARATOR = "\x1f"  # between the parts that an id is a hash of
TOKENS = pa.list_(pa.int32())

INSTRUCTIONS = _schema(
    ("instruction_id", pa.string()),
    ("instruction", pa.string()),
    ("reference_answer", pa.string(), NULLABLE),
    ("source", pa.string()),  # name of the file, or "tiny"
    ("split", pa.string()),  # "train" | "eval"
)

BENCHMARK = _schema(
    *((field.name, field.type, field.nullable) for field in INSTRUCTIONS),  # instruction: the whole prompt
    ("category", pa.string(), NULLABLE),
    ("num_choices", pa.int32(), NULLABLE),  # of a multiple choice, whose reference is a letter
)

RESPONSES = _schema(
    ("response_id", pa.string()),
    ("instruction_id", pa.string()),
    ("instruction", pa.string()),
    ("reference_answer", pa.string(), NULLABLE),
    ("teacher", pa.string()),  # "direct" | "slow"
    ("sample_index", pa.int32()),
    ("response", pa.string()),  # the whole text
    ("reasoning", pa.string()),  # the text in the think block; "" without one
    ("answer", pa.string(), NULLABLE),  # extracted; null where none is stated
    ("finish_reason", pa.string()),  # "stop" | "length"
    ("num_prompt_tokens", pa.int32(), NULLABLE),  # null where an endpoint does not count, and in an imported response
    ("num_generated_tokens", pa.int32(), NULLABLE),
    ("model", pa.string()),
    ("sampling_params", pa.string()),  # JSON, with the row's own seed
    (
        "verdict",
        pa.string(),
        NULLABLE,
    ),  # "accepted", or the reason of the first gate that it fails; null in earlier versions
    ("judged_by", pa.string(), NULLABLE),  # version of the gates, and the user's own judge
)

REWRITES = _schema(
    ("rewrite_id", pa.string()),
    ("response_id", pa.string()),
    ("instruction_id", pa.string()),
    ("instruction", pa.string()),
    ("reference_answer", pa.string(), NULLABLE),
    ("source_answer", pa.string(), NULLABLE),  # of the slow response
    ("source_mark", pa.string()),  # hash of the rewriter's input: problem, answer and reasoning
    ("reasoning", pa.string()),  # the rewritten text
    ("answer", pa.string(), NULLABLE),  # the result with which the rewritten text ends
    ("original_tokens", pa.int32(), NULLABLE),  # generated for the slow response; null where it was imported
    ("original_characters", pa.int32()),  # of the slow response's reasoning, which was rewritten
    ("rewritten_tokens", pa.int32(), NULLABLE),  # generated, without the rewriter's own thinking
    ("compression_ratio", pa.float64(), NULLABLE),  # rewritten / original
    ("num_prompt_tokens", pa.int32(), NULLABLE),
    ("num_generated_tokens", pa.int32(), NULLABLE),  # what the rewrite cost, thinking included
    ("finish_reason", pa.string()),
    ("verdict", pa.string()),  # "accepted", or the reason of the first gate that it fails
    ("model", pa.string()),
    ("sampling_params", pa.string()),
)

SFT_EXAMPLES = _schema(
    ("example_id", pa.string()),
    ("instruction_id", pa.string()),
    ("prompt", pa.string()),
    ("completion", pa.string()),
    ("origin", pa.string()),  # "direct" | "slow" | "rewrite"
    ("origin_id", pa.string()),  # response_id or rewrite_id
    ("num_tokens", pa.int32(), NULLABLE),  # generated for the text by its teacher; null where nobody counted
)

PACKED = _schema(
    ("sequence_id", pa.string()),  # chunk and number; training shuffles the sequences
    ("input_ids", TOKENS),
    ("labels", TOKENS),  # -100 where nothing is learnt
    ("position_ids", TOKENS),  # from 0 in each example
    ("lengths", TOKENS),  # of the examples, without padding
    ("example_ids", pa.list_(pa.string())),
)

EVAL = _schema(
    ("eval_id", pa.string()),
    ("model", pa.string()),
    ("benchmark", pa.string()),
    ("instruction_id", pa.string()),
    ("instruction", pa.string()),
    ("reference_answer", pa.string(), NULLABLE),
    ("sample_index", pa.int32()),
    ("response", pa.string()),
    ("answer", pa.string(), NULLABLE),
    ("correct", pa.bool_(), NULLABLE),  # null where there is no reference
    (
        "unclear",
        pa.bool_(),
        NULLABLE,
    ),  # the judge could not read it; also null by a user's scorer, and in earlier versions
    ("complete", pa.bool_()),  # the model stopped by itself
    ("num_prompt_tokens", pa.int32(), NULLABLE),  # null where an endpoint does not count
    ("num_generated_tokens", pa.int32(), NULLABLE),
    ("num_thinking_tokens", pa.int32(), NULLABLE),  # of the generated ones
    ("category", pa.string(), NULLABLE),  # of the problem
    ("num_choices", pa.int32(), NULLABLE),  # options of the problem, in the order of its instruction
    ("scored_by", pa.string()),  # kind of answer, and version of `scorers.py`; a user's own by its path
    ("seconds", pa.float64(), NULLABLE),  # from request to answer, among other requests; null where not measured
    ("finished_at", pa.float64(), NULLABLE),  # time of the whole answer, seconds since 1970
)

TIMING = _schema(
    ("timing_id", pa.string()),
    ("model", pa.string()),
    ("benchmark", pa.string()),
    ("instruction_id", pa.string()),
    ("num_generated_tokens", pa.int32(), NULLABLE),
    ("seconds", pa.float64()),  # from request to answer, with no other request in flight
)

REJECTS = _schema(
    ("id", pa.string()),  # of the row, as it would have been in the artifact
    ("stage", pa.string()),
    ("reason", pa.string()),  # a short code, counted in the manifest
    ("detail", pa.string()),  # a few words
    ("row", pa.string()),  # JSON of the row's columns that are not null
)


class ArtifactKind(NamedTuple):
    """What all parts of the package know of an artifact."""

    schema: pa.Schema | None  # of its accepted rows; None: it has other files
    predecessors: tuple[str, ...] = ()  # the artifacts whose rows it is made of
    is_costly: bool = False  # models generate or learn for it
    has_parts: bool = False  # it is a folder of artifacts: of each benchmark, or of each model on each benchmark


# The first part of an artifact's folder -> its kind, in the order of the stages. An evaluation is made of its problems.
ARTIFACTS = {
    "instructions": ArtifactKind(INSTRUCTIONS),
    "benchmarks": ArtifactKind(BENCHMARK, has_parts=True),
    "responses": ArtifactKind(RESPONSES, ("instructions",), is_costly=True),
    "rewrites": ArtifactKind(REWRITES, ("responses",), is_costly=True),
    "sft_examples": ArtifactKind(SFT_EXAMPLES, ("responses", "rewrites")),
    "packed": ArtifactKind(PACKED, ("sft_examples",)),
    "checkpoint": ArtifactKind(None, ("packed",), is_costly=True),
    "eval": ArtifactKind(EVAL, is_costly=True, has_parts=True),
    "timing": ArtifactKind(TIMING, is_costly=True, has_parts=True),
}
CHAIN = tuple(name for name, kind in ARTIFACTS.items() if not kind.has_parts)  # from the instructions to the student


def conformed(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The table with the columns of the schema. A column that it lacks, as shards of an earlier version may, is null."""
    if table.column_names == schema.names:
        return table
    names = set(table.column_names)
    columns = [table[f.name] if f.name in names else pa.nulls(table.num_rows, f.type) for f in schema]
    return pa.table(columns, names=schema.names).cast(schema)


def stable_id(*parts: str | int) -> str:
    """16 hexadecimal digits (64 bits of SHA-256) that depend on the parts alone."""
    text = SEPARATOR.join(str(part) for part in parts)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def stable_fraction(*parts: str | int) -> float:
    """A number in [0, 1) that depends on the parts alone: the same rows are chosen on every machine."""
    return int(stable_id(*parts), 16) / 16**16


def without_unseen(text: str) -> str:
    """The text without characters that nobody sees: those of no width, marks of direction, variation selectors."""
    return text if text.isascii() else _UNSEEN.sub("", text)


def normalised(text: str) -> str:
    """The form in which two instructions are compared: Unicode NFC without unseen characters, each run of white space as
    one blank.
    """
    return " ".join(unicodedata.normalize("NFC", without_unseen(text)).split())


def instruction_id(instruction: str, source: str = "") -> str:
    """Hash of the normalised text; in runs of earlier versions, of the text and the name of its source."""
    return stable_id(normalised(instruction), source) if source else stable_id(normalised(instruction))
