"""Rejects rows of shards that are written already, for a reason that only all rows together can tell.

A Ray task a shard writes the rows that stay and the rejects, and then removes the shard. Where it is stopped between the
two, rows are there twice, and the stage makes all its rows again.
"""

import json
from collections import Counter
from collections.abc import Callable
from typing import Any

import pyarrow as pa

from ray_distil.runtime import metrics
from ray_distil.store.artifact import Artifact
from ray_distil.store.shards import REASON, check_attempt, write_block
from ray_distil.store.storage import Folder

# Accepted rows -> the same rows, with a reason and a detail where one is rejected.
Mark = Callable[[pa.Table], pa.Table]


def reject_rows(artifact: Artifact, stage: str, mark: Mark) -> Counter[str]:
    """Reject accepted rows of an artifact that is being made. Returns how many, by reason."""
    import ray.data

    arguments = {"folder": artifact.folder, "schema": artifact.schema, "stage": stage, "attempt": artifact.attempt}
    files = artifact.shards()
    if not files:
        return Counter()
    shards = ray.data.from_items(files, override_num_blocks=min(len(files), 200)).map_batches(
        reject_in_shard, batch_size=1, fn_kwargs={"mark": mark, **arguments}
    )
    rejects: Counter[str] = Counter()
    for row in shards.iter_rows():
        rejects.update(json.loads(row["rejects"]))
    for reason, number in rejects.items():
        metrics.count("distil_rows_rejected", number, run=artifact.run.name, stage=stage, reason=reason)
    return rejects


def reject_in_shard(
    batch: dict[str, Any], mark: Mark, folder: Folder, schema: pa.Schema, stage: str, attempt: str
) -> pa.Table:
    """Reject rows of one shard; its file name is the only row of the batch. Returns the counts: `rejects`, as JSON.

    A second try of a task finds the shard gone where the first one has done its work.
    """
    file = str(batch["item"][0])
    counts = pa.table({"rejects": ["{}"]})
    if not folder.exists(file):
        return counts
    table = mark(folder.read_table(file))
    if not table[REASON].null_count < table.num_rows:
        return counts
    written = write_block(table, folder, schema, stage, attempt)
    check_attempt(folder, attempt)
    folder.remove(file)
    return written.select(["rejects"])
