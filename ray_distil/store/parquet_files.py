"""Parquet files as bytes: how they are written and opened, and how damage of them is known."""

import re
from collections.abc import Iterable
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ray_distil.store import content

# How the errors of Arrow's reader begin, where their type is that of the errors of a disk or a store.
DAMAGE = re.compile(
    r"Couldn't deserialize thrift|Corrupt|Unexpected end of stream|\w+ decompression failed|Invalid flatbuffers message"
    r"|could not verify page integrity|Number of decoded rep / def levels"
)


def is_damage(error: Exception) -> bool:
    """Whether an error of Arrow says that the bytes are not those of a Parquet file."""
    return isinstance(error, pa.ArrowInvalid) or bool(DAMAGE.match(str(error)))


def opened(source: Any) -> pq.ParquetFile:
    """The Parquet file that Arrow's `source` reads. Its pages are compared with their checksums, where it has some."""
    return pq.ParquetFile(source, page_checksum_verification=True)


def parquet(tables: Iterable[pa.Table], with_content: bool = False) -> pa.Buffer:
    """The bytes of a Parquet file with these tables of one schema. One table is needed in memory at a time.

    `with_content`: the digest of the rows (`content.py`) is in the file's metadata. Raises ValueError where there is no
    table.
    """
    sink, writer, digests = pa.BufferOutputStream(), None, []
    for table in tables:
        rows = table.replace_schema_metadata()  # of a file that was read: it is not that of these rows
        writer = writer or pq.ParquetWriter(sink, rows.schema, compression="zstd", write_page_checksum=True)
        writer.write_table(rows)
        if with_content:
            digests.append(content.digest(rows))
    if writer is None:
        raise ValueError("a Parquet file needs a table, if only an empty one")

    if with_content:
        writer.add_key_value_metadata({content.KEY: content.text(content.total(digests))})
    writer.close()
    return sink.getvalue()
