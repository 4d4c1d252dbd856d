"""Rejects accepted rows of a table of problems: those of a reason, and those over a limit."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ray_distil.selection.words import Places
from ray_distil.store.shards import DETAIL, REASON, reject


@dataclass(frozen=True)
class Limit:
    """At most `num_rows` rows of a split are accepted; None: all. `key`: the key of the configuration that sets it."""

    num_rows: int | None
    key: str


def usable(table: pa.Table, split: str) -> pa.Table:
    return table.filter(pc.and_(pc.is_null(table[REASON]), pc.equal(table["split"], split)))


def with_column(table: pa.Table, name: str, column: Any) -> pa.Table:
    """The table with other values of a column that it has."""
    at = table.schema.get_field_index(name)
    return table.set_column(at, table.schema.field(at), column)


def rejected(table: pa.Table, rows: Places, reason: str, details: list[str]) -> pa.Table:
    """The table; these of its accepted rows are rejected."""
    if not len(rows):
        return table
    is_of = np.zeros(table.num_rows, np.bool_)
    is_of[rows] = True
    for name, values in ((REASON, [reason] * len(rows)), (DETAIL, details)):
        column = pc.replace_with_mask(table[name], pa.array(is_of), pa.array(values, pa.string()))
        table = with_column(table, name, column)
    return table


def limited(table: pa.Table, split: str, limit: Limit, num_kept: Counter[str]) -> pa.Table:
    """The table; the split's rows beyond `limit` are rejected. `num_kept`: split -> accepted rows so far, updated here."""
    is_of = pc.and_(pc.is_null(table[REASON]), pc.equal(table["split"], split))
    number = np.cumsum(is_of.to_numpy(), dtype=np.int64) + num_kept[split]
    num_kept[split] = int(number[-1]) if len(number) else num_kept[split]
    if limit.num_rows is None or num_kept[split] <= limit.num_rows:
        return table
    is_over = pc.and_(is_of, pa.array(number > limit.num_rows))
    over = reject({}, "over_limit", f"{limit.key} is {limit.num_rows}")
    for name in (REASON, DETAIL):
        table = with_column(table, name, pc.if_else(is_over, over[name], table[name]))
    return table
