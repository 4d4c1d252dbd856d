"""Accepted and rejected rows on their way to an artifact, and the shards that a block of rows becomes.

A shard is written under a temporary name, then renamed. Its name is a hash of its ids, so that a retried write replaces
its own file.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from typing import Any, TypedDict

import pyarrow as pa

from ray_distil.errors import StageError
from ray_distil.runtime import metrics
from ray_distil.store.parquet_files import parquet
from ray_distil.store.schemas import REJECTS, SEPARATOR, conformed
from ray_distil.store.storage import Folder

ATTEMPT = "_attempt"  # which attempt may write
REJECTS_FOLDER = "_rejects"
ROWS_AT_ONCE = 10_000  # ids of a table that are Python objects at the same time
TOKEN_COLUMNS = ("num_prompt_tokens", "num_generated_tokens")
REASON, DETAIL = "reject_reason", "reject_detail"
FINISH_REASON, COMPLETE = "finish_reason", "complete"
CUT = "cut off at max_tokens"
SOURCE = "source_"  # reasons that begin so are of rows that were not tried, because their source was unfit


class Written(TypedDict):
    """The counts of one block that was written: rows and tokens."""

    rows_out: int
    rows_rejected: int
    num_tried: int  # all rows except those whose source was unfit
    num_failed: int  # tried rows that were rejected or cut off at max_tokens
    num_prompt_tokens: int
    num_generated_tokens: int
    rejects: str  # JSON of reason -> rows, of all rejected rows
    why: str  # JSON of [reason, rows, an example's detail] for the failed rows
    files: str  # JSON of name -> bytes, of the shards that were written


def with_rejects(schema: pa.Schema) -> pa.Schema:
    """`schema` with all columns but the id nullable, and why a row is rejected: reason and detail, else null."""
    columns = [pa.field(f.name, f.type, nullable=i > 0) for i, f in enumerate(schema)]
    return pa.schema([*columns, pa.field(REASON, pa.string()), pa.field(DETAIL, pa.string())])


def table_of(rows: list[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    """Rows as a table of `with_rejects(schema)`. Keys not in the schema are left out; keys not in a row are null."""
    return pa.Table.from_pylist(rows, schema=with_rejects(schema))


def reject(row: dict[str, Any], reason: str, detail: str = "") -> dict[str, Any]:
    """The row marked as rejected, so that the artifact writes it into a reject shard."""
    return {**row, REASON: reason, DETAIL: detail[:500]}


def reject_failed(row: dict[str, Any], error: str) -> dict[str, Any]:
    """The row marked as rejected for an error of generation, "code: detail"."""
    reason, _, detail = error.partition(": ")
    return reject(row, reason, detail)


def read_shard(batch: dict[str, Any], folder: Folder, schema: pa.Schema) -> pa.Table:
    """The columns of the schema of one shard's rows; its file name is the only row of the batch."""
    return conformed(folder.read_table(str(batch["item"][0]), schema.names), schema)


def write_block(table: pa.Table, folder: Folder, schema: pa.Schema, stage: str, attempt: str) -> pa.Table:
    """Write a block's accepted and rejected rows as one shard each; returns one row of counts, a `Written`.

    Raises StageError where another attempt has begun.
    """
    is_rejected = table.column(REASON).is_valid()
    accepted = table.filter(pa.compute.invert(is_rejected)).select(schema.names).cast(schema)
    rejected = table.filter(is_rejected)
    files: dict[str, int] = {}
    if accepted.num_rows:
        files |= write_shard(folder, accepted, attempt)
    if rejected.num_rows:
        rows = [_reject_row(row, schema, stage) for row in rejected.to_pylist()]
        rejects = pa.Table.from_pylist(rows, schema=REJECTS)
        files |= write_shard(folder, rejects, attempt, f"{REJECTS_FOLDER}/")
    spent = {
        column: (pa.compute.sum(table[column]).as_py() or 0) if column in table.column_names else 0
        for column in TOKEN_COLUMNS
    }
    reasons = Counter(rejected[REASON].to_pylist())
    num_unfit = sum(number for reason, number in reasons.items() if reason.startswith(SOURCE))
    # In an evaluation, an answer without an end, or a problem too long for the context, is a result and no failure.
    num_found = reasons["prompt_too_long"] if COMPLETE in schema.names else 0
    num_cut = 0
    if FINISH_REASON in accepted.column_names:
        num_cut = pa.compute.sum(pa.compute.equal(accepted[FINISH_REASON], "length")).as_py() or 0
    counts: Written = {
        "rows_out": accepted.num_rows,
        "rows_rejected": rejected.num_rows,
        "num_tried": table.num_rows - num_unfit,
        "num_failed": rejected.num_rows - num_unfit - num_found + num_cut,
        "num_prompt_tokens": spent["num_prompt_tokens"],
        "num_generated_tokens": spent["num_generated_tokens"],
        "rejects": json.dumps(reasons),
        "why": json.dumps(_why(rejected, num_cut)),
        "files": json.dumps(files),
    }
    return pa.Table.from_pylist([counts])


def count(shard: Written, run: str, stage: str) -> None:
    """Add the counts of a shard to the run's metrics. Call it in the driver: the process that wrote the shard may end,
    and its node go, before Prometheus has read its metrics once. The label `stage` is the artifact's first folder, e.g.
    "eval" for all evaluations.
    """
    stage = stage.partition("/")[0]
    metrics.count("distil_rows_written", shard["rows_out"], run=run, stage=stage)
    for reason, number in json.loads(shard["rejects"]).items():
        metrics.count("distil_rows_rejected", number, run=run, stage=stage, reason=reason)
    tokens: Mapping[str, Any] = shard
    for column in TOKEN_COLUMNS:
        metrics.count(column.replace("num_", "distil_"), tokens[column], run=run, stage=stage)


def _why(rejected: pa.Table, num_cut: int) -> list[tuple[str, int, str]]:
    details: dict[str, str] = {}
    counts: Counter[str] = Counter()
    for reason, detail in zip(rejected[REASON].to_pylist(), rejected[DETAIL].to_pylist(), strict=True):
        if not reason.startswith(SOURCE):
            counts[reason] += 1
            details.setdefault(reason, detail or "")
    if num_cut:
        counts[CUT] += num_cut
    return [(reason, number, details.get(reason, "")) for reason, number in counts.most_common()]


def _reject_row(row: dict[str, Any], schema: pa.Schema, stage: str) -> dict[str, Any]:
    columns = {name: row[name] for name in schema.names if row[name] is not None}
    text = json.dumps(columns, ensure_ascii=True)
    return {"id": str(row[schema.names[0]]), "stage": stage, "reason": row[REASON], "detail": row[DETAIL], "row": text}


def check_attempt(artifact: Folder, attempt: str) -> None:
    """Raises StageError where another attempt has begun, or where the artifact cannot be seen."""
    try:
        newest = artifact.read_text(ATTEMPT)
    except FileNotFoundError as error:
        raise StageError(f"{artifact}: this node does not see the run's folder; see run.storage_path") from error
    if newest != attempt:
        raise StageError(f"{artifact}: another attempt has begun; this one may no longer write")


def write_shard(artifact: Folder, table: pa.Table, attempt: str, inside: str = "") -> dict[str, int]:
    """Write a table as a shard. Returns its name -> its bytes."""
    return write_rows(artifact, inside, table.column(0), parquet([table], with_content=not inside), attempt)


def write_rows(artifact: Folder, inside: str, ids: pa.ChunkedArray, shard: pa.Buffer, attempt: str) -> dict[str, int]:
    """Write the bytes of a Parquet file as the shard of the rows `ids`. Returns its name -> its bytes."""
    name = f"{inside}part-{_id_of_all(ids)}.parquet"
    artifact.write_bytes(name, shard, lambda: check_attempt(artifact, attempt))
    return {name: shard.size}


def _id_of_all(ids: pa.ChunkedArray) -> str:
    """`stable_id` of the sorted ids. Only ROWS_AT_ONCE ids are Python objects at the same time."""
    ordered, digest = ids.take(pa.compute.sort_indices(ids)), hashlib.sha256()
    for start in range(0, len(ordered), ROWS_AT_ONCE):
        text = SEPARATOR.join(ordered.slice(start, ROWS_AT_ONCE).to_pylist())
        digest.update((SEPARATOR + text if start else text).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()[:16]
