"""Uses rows of superseded shards, and of other runs, again, so that no text is paid for twice.

An artifact whose configuration or input has changed is made anew, and its old shards move to RUN/superseded/. An old
row is used again where its text would be the same: its part of the artifact (e.g. the rows of one teacher) has the same
mark in `_asked.json`, and the new artifact has a row with the same id. Other columns, such as the reference answer and
the verdict, are made anew.

    change                 old rows that are used again
    one problem more       the rows of all other problems
    a larger max_tokens    rows whose text ended by itself
    back to old settings   all rows
"""

import json
from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ray_distil.store.ahead import ahead
from ray_distil.store.artifact import Artifact
from ray_distil.store.ids import keys_of
from ray_distil.store.shards import REJECTS_FOLDER, SOURCE, reject, table_of
from ray_distil.store.storage import Folder
from ray_distil.store.superseded import marks_of, superseded

Row = dict[str, Any]


@dataclass(frozen=True)
class Reuse:
    """Which old rows of an artifact may be used again.

    - marks: part -> two marks: of the settings that change its texts, and of the limits to the texts' length.
    - earlier_marks: part -> mark of the same texts by earlier versions.
    - part_of: the column that names a row's part. None: all rows are one part, "".
    - sources: what rows are made of, found by the column `source_key`; read only if there are old rows to use.
    - reread: (row, its source or None, whether the limits are the same) -> the row as it is in the new artifact, or None
      for a row that cannot be used.
    - lasting_rejects, fails_again: reasons of rejects, and (row, its source or None) -> whether a row that was rejected for
      one of them is rejected again untried.
    """

    marks: dict[str, tuple[str, str]]
    earlier_marks: dict[str, str]
    part_of: str | None
    source_key: str
    sources: Callable[[], Iterable[pa.Table]]
    reread: Callable[[Row, Row | None, bool], Row | None]
    lasting_rejects: tuple[str, ...]
    fails_again: Callable[[Row, Row | None], bool]

    def has_same_texts(self, part: str, mark: str) -> bool:
        """Whether a mark of a part stands for the texts of the present settings."""
        return mark != "" and mark in (self.marks[part][0], self.earlier_marks.get(part))


class RowsById:
    """Rows that are found by their id. They need little more memory than their columns."""

    def __init__(self, tables: Iterable[pa.Table], key: str) -> None:
        filled = [table for table in tables if table.num_rows] or [pa.table({key: pa.array([], pa.string())})]
        keys = np.concatenate([keys_of(table[key].to_pylist()) for table in filled])
        self.order = np.argsort(keys, kind="stable")
        # combine_chunks: with several chunks, each `take` would copy the whole table.
        self.keys, self.table = keys[self.order], pa.concat_tables(filled).drop_columns([key]).combine_chunks()

    def __len__(self) -> int:
        return len(self.keys)

    def places(self, ids: list[str]) -> npt.NDArray[np.int64]:
        """The position in `table` of each id's row, -1 where there is none, [ids]."""
        if not len(self):
            return np.full(len(ids), -1, np.int64)
        keys = keys_of(ids)
        place = np.minimum(np.searchsorted(self.keys, keys), len(self) - 1)
        return np.where(self.keys[place] == keys, self.order[place], -1)

    def rows(self, ids: list[str]) -> list[dict[str, Any] | None]:
        """The row of each id, None where there is none."""
        places = self.places(ids)
        taken = iter(self.table.take(pa.array(places[places >= 0])).to_pylist())
        return [next(taken) if place >= 0 else None for place in places]


def is_the_same(row: Row, finished: bool, max_tokens: int, has_same_limits: bool) -> bool:
    """Whether a row's text would be the same under the present limits to its length.

    Under other limits, the text is the same if it ended by itself within `max_tokens`, or was cut at exactly that.
    Where its tokens are not counted, the `max_tokens` with which the row was generated is compared in place of them.
    """
    if has_same_limits:
        return True
    if row["num_generated_tokens"] is None:
        asked_with = json.loads(row.get("sampling_params") or "{}").get("max_tokens")
        return bool(finished and asked_with is not None and asked_with <= max_tokens)
    num_tokens: int = row["num_generated_tokens"]
    return num_tokens <= max_tokens if finished else num_tokens == max_tokens


def carry(
    artifact: Artifact, reuse: Reuse, stage: str, runs: Iterable[Folder] = (), without: Container[str] = ()
) -> int:
    """Write the old rows that can be used again into a started artifact; returns how many. After a stop, call it again.

    runs: other runs, whose rows count as old ones of this run. without: parts that are left out. Old rows of this run's
    sources that had failed or were cut are counted in `artifact.num_failed_before`: they may fail again.
    """
    read_sources = cache(lambda: RowsById(reuse.sources(), reuse.source_key))
    num_carried = 0
    for old in [*superseded(artifact.run, artifact.name), *(run / artifact.name for run in runs)]:
        # Parts whose texts are the same, and those among them whose limits are the same too.
        marks = marks_of(old)
        parts = {
            part for part in reuse.marks if part not in without and reuse.has_same_texts(part, marks.get(part, [""])[0])
        }
        same_limits = {part for part in parts if marks[part][1] == reuse.marks[part][1]}
        if not parts:
            continue
        done = artifact.done_ids()

        # Accepted rows: each beside its source, read again.
        sizes = old.sizes("part-", ".parquet")
        for table in ahead(old.read_table, sizes, sizes.__getitem__):
            if {field.name for field in artifact.schema if not field.nullable} - set(table.column_names):
                continue  # the shard is of an older schema
            part_of = table[reuse.part_of].to_pylist() if reuse.part_of else [""] * table.num_rows
            ids = table.column(0).to_pylist()
            is_usable = [part in parts and row_id not in done for part, row_id in zip(part_of, ids, strict=True)]
            if not any(is_usable):
                continue
            usable = table.filter(pa.array(is_usable)).to_pylist()
            has_same_limits = [part in same_limits for part, is_in in zip(part_of, is_usable, strict=True) if is_in]
            row_sources = read_sources().rows([row[reuse.source_key] for row in usable])
            reread = list(map(reuse.reread, usable, row_sources, has_same_limits))
            rows = [row for row in reread if row is not None]
            artifact.write_table(table_of(rows, artifact.schema), stage)
            num_carried += len(rows)
            pairs = zip(reread, row_sources, strict=True)
            artifact.num_failed_before += sum(row is None and source is not None for row, source in pairs)

        # Rejected rows: those that would be rejected again.
        rejects = old / REJECTS_FOLDER
        sizes = rejects.sizes("part-", ".parquet")
        for table in ahead(rejects.read_table, sizes, sizes.__getitem__):
            rows = [row for row in table.to_pylist() if row["id"] not in done]
            rejected: list[Row] = []
            lasting = [row for row in rows if row["reason"] in reuse.lasting_rejects]
            if lasting and same_limits and reuse.part_of is None:
                rejected = list(_rejected_again(lasting, read_sources(), reuse))
            artifact.write_table(table_of(rejected, artifact.schema), stage)
            num_carried += len(rejected)
            artifact.num_failed_before += _num_failed(rows, parts, reuse, read_sources) - len(rejected)
    return num_carried


def _num_failed(rejects: list[Row], parts: set[str], reuse: Reuse, read_sources: Callable[[], RowsById]) -> int:
    """How many rows of a reject shard are of these parts and of this run's sources, and had been tried."""
    rows = [json.loads(row["row"]) for row in rejects if not row["reason"].startswith(SOURCE)]
    if reuse.part_of is not None:
        rows = [row for row in rows if row.get(reuse.part_of) in parts]
    return int((read_sources().places([row[reuse.source_key] for row in rows]) >= 0).sum()) if rows else 0


def _rejected_again(rejects: list[Row], sources: RowsById, reuse: Reuse) -> Iterator[Row]:
    """Rows of a reject shard that would be rejected again, in the form of `shards.reject`."""
    rows = [json.loads(old["row"]) for old in rejects]
    row_sources = sources.rows([row[reuse.source_key] for row in rows])
    for row, old, source in zip(rows, rejects, row_sources, strict=True):
        if reuse.fails_again(row, source):
            yield reject(row, old["reason"], old["detail"])
