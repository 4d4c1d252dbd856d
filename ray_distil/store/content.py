"""What the rows of an artifact are: a digest that depends neither on their order nor on the shards in which they lie.

Each row has a hash of 128 bits, and the digest is the sum of the hashes (modulo 2**128). So it is added up while rows
are written: each shard has the digest of its own rows in its Parquet metadata, and the sum over the shards is the
digest of the artifact. Later stages depend on it: equal rows, however they came to be, remake nothing.

Columns do not count that no later stage reads (which model made a text, with which seed, from which file a problem is), or
that are a function of the others (the verdict on a response).
"""

from collections.abc import Iterable
from hashlib import blake2b

import numpy as np
import pyarrow as pa

KEY = b"ray_distil.content"  # in the metadata of a Parquet file
HOW = {"model", "sampling_params", "num_prompt_tokens", "source"}  # columns that say how a row came to be
JUDGED_BY = "judged_by"  # with this column, `verdict` follows from the other ones
MODULUS = 2**128


def digest(table: pa.Table) -> int:
    """The digest of the rows of a table, in [0, 2**128)."""
    left_out = HOW | ({"verdict", JUDGED_BY} if JUDGED_BY in table.column_names else set())
    columns = [(name, table[name]) for name in table.column_names if name not in left_out]
    rows = [blake2b(digest_size=16) for _ in range(table.num_rows)]
    for name, column in columns:
        mark = name.encode()
        for row, value in zip(rows, _values(column), strict=True):
            row.update(b"%s %d " % (mark, len(value)))
            row.update(value)
    return sum(int.from_bytes(row.digest(), "little") for row in rows) % MODULUS


def _values(column: pa.ChunkedArray) -> Iterable[bytes]:
    """Each value as bytes, so that different values of one column have different bytes."""
    if pa.types.is_string(column.type):
        return (b"" if value is None else b"=" + value.encode("utf-8", "surrogatepass") for value in column.to_pylist())
    if pa.types.is_list(column.type) and pa.types.is_int32(column.type.value_type):
        return (_numbers(value) for chunk in column.chunks for value in chunk)
    return (repr(value).encode() for value in column.to_pylist())


def _numbers(value: pa.ListScalar) -> bytes:
    numbers = value.values
    return b"" if numbers is None else b"=" + np.ascontiguousarray(numbers.to_numpy(zero_copy_only=False)).tobytes()


def text(number: int) -> str:
    """32 hexadecimal digits."""
    return f"{number:032x}"


def total(digests: Iterable[int]) -> int:
    """The digest of all rows, from those of parts of them."""
    return sum(digests) % MODULUS
