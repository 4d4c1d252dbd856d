"""Files of records as people publish them. Upper or lower case in a name does not matter; compression and Parquet are
recognised by their first bytes.

a.jsonl  a.ndjson  a.json  a.csv  a.tsv  a.parquet    formats; .gz, .zst, .bz2 or .lz4 may follow
year=2024/part-0.parquet                              the folder's name gives a column (Hive)
"""

import io
import itertools
import json
import re
from collections.abc import Iterator
from datetime import date, datetime, time
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import csv

from ray_distil.errors import UserError
from ray_distil.records.json_lists import Elements, Texts
from ray_distil.store.storage import Folder

# Users read their names in sources.KINDS and in config/keys.py.
FORMATS = {".parquet": "parquet", ".csv": "csv", ".tsv": "csv", ".jsonl": "json", ".ndjson": "json", ".json": "json"}
COMPRESSED = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2", ".lz4": "lz4"}
MAGIC = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"BZh": "bz2", b"\x04\x22\x4d\x18": "lz4"}
NO_DATA = {"dataset_infos.json", "dataset_info.json", "dataset_dict.json", "state.json", "metadata.json", "config.json"}
WORKBOOKS = (".xlsx", ".xlsm", ".xls", ".ods", ".numbers")
BATCH_ROWS = 1000
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
CSV_BLOCK_BYTES = 2**26  # the longest row
START_BYTES = 256  # by which compression, Parquet and files that are no data are known
SAMPLE_BYTES = 2**20  # bytes from which the dialect of a CSV file is guessed
_HIVE = re.compile(r"([^/=]+)=([^/]*)/")


def is_data(name: str) -> bool:
    """Whether a file holds records, by its name; it may be compressed."""
    return bool(_format(name)) and name.rpartition("/")[2].lower() not in NO_DATA


def records_of(place: Folder, file: str, key: str, label: str) -> Iterator[Any]:
    """The records of a file in folder `place`; if `file` is "", `place` is the file. Raises UserError, naming `key`."""
    filesystem, path = place.filesystem_and_path(file)
    hive = {name: unquote(value) for name, value in _HIVE.findall(file)}
    with filesystem.open_input_file(path) as stream:
        start = stream.read(START_BYTES)
        stream.seek(0)
        if wrong := _no_data(start) or _workbook(path, start):
            raise UserError(f"{key}: {label} is {wrong}")
        packed = next((codec for magic, codec in MAGIC.items() if start.startswith(magic)), None)
        kind = "parquet" if start.startswith(b"PAR1") else _format(path)
        data = _unpacked(stream, packed)
        if kind == "csv":
            sample = data.read(SAMPLE_BYTES)
            # Arrow reads the file itself: its threads could still hold a file of Python when Python ends, and abort.
            again = _unpacked(filesystem.open_input_file(path), packed)
            records = _csv(again, sample, key, label, ".tsv" in path.lower())
        else:
            records = _read(data, kind, key, label)
        for record in records:
            yield {**hive, **record} if hive and isinstance(record, dict) else record


def _no_data(start: bytes) -> str:
    """What a file is in place of data, by its first bytes; "" for what may be data."""
    text = start.removeprefix(BYTE_ORDER_MARK).lstrip().lower()
    if text.startswith(b"version https://git-lfs"):
        return "a pointer of Git LFS, not the file itself; run `git lfs pull` in its folder, or download the file"
    if text.startswith((b"<!doctype html", b"<html")):
        return "a page in HTML, not data; download the file itself (on Hugging Face's hub under /resolve/, not /blob/)"
    return ""


def _workbook(path: str, start: bytes) -> str:
    """What a file of a spreadsheet is; "" for any other."""
    if path.lower().endswith(WORKBOOKS) or start.startswith(b"PK\x03\x04"):
        return "a workbook, or another archive, and no text; export the sheet as CSV (UTF-8)"
    return ""


def _unpacked(stream: pa.NativeFile, packed: str | None) -> pa.NativeFile:
    return pa.CompressedInputStream(stream, packed) if packed else stream


def _format(name: str) -> str:
    lower = name.lower()
    for ending in COMPRESSED:
        lower = lower.removesuffix(ending)
    return next((kind for ending, kind in FORMATS.items() if lower.endswith(ending)), "")


def _read(stream: Any, kind: str, key: str, label: str) -> Iterator[Any]:
    if kind == "parquet":
        source = stream if stream.seekable() else pa.BufferReader(stream.read_buffer())
        for batch in pq.ParquetFile(source).iter_batches(BATCH_ROWS):
            columns = {name: _values(batch.column(name)) for name in batch.schema.names}
            for values in zip(*columns.values(), strict=True):
                yield {name: plain(value) for name, value in zip(columns, values, strict=True)}
    else:
        yield from _json(io.BufferedReader(stream), key, label)


def _values(column: pa.Array) -> list[Any]:
    """The values of a column. A float of 32 bits has its own digits: 0.1, and not 0.10000000149011612.

    A text that is not UTF-8 has lone surrogates, by which its row is rejected; a date beyond Python's is text.
    """
    if pa.types.is_float32(column.type) or pa.types.is_float16(column.type):
        return [None if text is None else float(text) for text in column.cast(pa.string()).to_pylist()]
    try:
        return list(column.to_pylist())
    except (UnicodeDecodeError, OverflowError, ValueError):
        return [_value(scalar) for scalar in column]


def _value(scalar: pa.Scalar) -> Any:
    try:
        return scalar.as_py()
    except UnicodeDecodeError:
        buffer = scalar.as_buffer() if hasattr(scalar, "as_buffer") else None
        return None if buffer is None else buffer.to_pybytes().decode("utf-8", "surrogateescape")
    except (OverflowError, ValueError):
        return f"{scalar.type} {getattr(scalar, 'value', '')}".strip()


def _csv(stream: pa.NativeFile, sample: bytes, key: str, label: str, tabs: bool) -> Iterator[dict[str, Any]]:
    """Records of a CSV file that begins with `sample`. Every value is text, an empty one is null. Names of columns are
    stripped of blanks.
    """
    header = sample.partition(b"\n")[0]
    delimiter = "\t" if tabs else next((sign for sign in ",;\t|" if sign.encode() in header), ",")
    try:
        yield from _csv_rows(_csv_reader(stream, delimiter, _is_escaped(sample, delimiter)), key, label)
    except pa.ArrowInvalid as error:
        text = " ".join(str(error).split())
        if "invalid UTF8" in text:
            raise UserError(f"{key}: {label!r} is not UTF-8 ({text}); save it as UTF-8") from error
        if match := re.search(r"Expected (\d+) columns, got (\d+): (.*)", text):
            number = _line_of(sample, match[3])
            line = f", line {number}" if number else ""
            raise UserError(
                f"{key}: {label}{line}: {match[2]} values in place of {match[1]}: {match[3][:200]}; a value that holds "
                f"{delimiter!r} needs quotes around it"
            ) from error
        raise


def _line_of(sample: bytes, text: str) -> int:
    """The number of the line that begins so, among the first of a file; 0 where it is not there."""
    lines = sample.decode("utf-8", "replace").splitlines()
    return next((number for number, line in enumerate(lines, 1) if " ".join(line.split()).startswith(text[:80])), 0)


def _csv_rows(reader: csv.CSVStreamingReader, key: str, label: str) -> Iterator[dict[str, Any]]:
    names = [name.strip() for name in reader.schema.names]
    if len(set(names)) < len(names):
        raise UserError(f"{key}: {label}: two columns have one name in {names}; give each its own")
    for batch in reader:
        for start in range(0, batch.num_rows, BATCH_ROWS):
            rows = batch.slice(start, BATCH_ROWS).to_pylist()
            yield from (dict(zip(names, row.values(), strict=True)) for row in rows)


def _is_escaped(sample: bytes, delimiter: str) -> bool:
    """Whether quotes within quotes are \\", as Spark writes them, and not "" as others do.

    A \\" at the end of a cell may be a backslash and the quote that closes it, as pandas writes LaTeX's line break: only
    one within a cell says that it is Spark's. The dialect must give each row of the sample as many cells as the header.
    """
    is_within = re.search(rb'\\"(?![,;\t|\r\n]|$)', sample) is not None
    is_escaped = is_within and not re.search(rb'[^,;\t|\n\r]""[^,;\t|\n\r]', sample)
    if b'\\"' not in sample or _reads(sample, delimiter, is_escaped):
        return is_escaped
    return not is_escaped if _reads(sample, delimiter, not is_escaped) else is_escaped


def _reads(sample: bytes, delimiter: str, is_escaped: bool) -> bool:
    whole_lines = sample if len(sample) < SAMPLE_BYTES else sample[: sample.rfind(b"\n") + 1]
    try:
        for _ in _csv_reader(pa.BufferReader(whole_lines), delimiter, is_escaped):
            pass
    except pa.ArrowInvalid:
        return False
    return True


def _csv_reader(stream: pa.NativeFile, delimiter: str, is_escaped: bool) -> csv.CSVStreamingReader:
    return csv.open_csv(
        stream,
        csv.ReadOptions(block_size=CSV_BLOCK_BYTES),
        csv.ParseOptions(
            delimiter=delimiter,
            newlines_in_values=True,
            escape_char="\\" if is_escaped else False,
            double_quote=not is_escaped,
        ),
        csv.ConvertOptions(default_column_type=pa.string(), null_values=[""], strings_can_be_null=True),
    )


def _json(stream: io.BufferedReader, key: str, path: str) -> Iterator[Any]:
    """The records of a JSON list, or of JSON lines; one is in memory at a time."""
    # The first character tells a list from lines.
    first_bytes = []
    for line in stream:
        first_bytes.append(line)
        if line.removeprefix(BYTE_ORDER_MARK).strip():
            break

    # A JSON list.
    if first_bytes and first_bytes[-1].removeprefix(BYTE_ORDER_MARK).lstrip().startswith(b"["):
        try:
            yield from Elements(iter(Texts(stream, b"".join(first_bytes))))
        except UnicodeDecodeError as error:
            raise UserError(f"{key}: {path!r} is not UTF-8 at byte {error.start}; save it as UTF-8") from error
        except json.JSONDecodeError as error:
            raise UserError(
                f"{key}: {path}, line {error.lineno}: {error.msg} (the file starts as a JSON list)"
            ) from error
        except (ValueError, RecursionError) as error:
            raise UserError(f"{key}: {path}: {reason(error)}") from error
        return

    # One JSON object a line.
    start = 0
    for number, line in enumerate(itertools.chain(first_bytes, stream), 1):
        text = _text(line, start, key, path)
        start += len(line)
        if text.strip():
            try:
                record = json.loads(text)
            except json.JSONDecodeError as error:
                raise UserError(
                    f"{key}: {path}, line {number}: {error.msg} at column {error.colno}; expected one JSON object a line"
                ) from error
            except (ValueError, RecursionError) as error:  # a number of thousands of digits, thousands of brackets
                raise UserError(f"{key}: {path}, line {number}: {reason(error)}") from error
            yield record


def _text(data: bytes, start: int, key: str, path: str) -> str:
    """The text of `data`, which begins at byte `start` of a file. Raises UserError where it is not UTF-8."""
    try:
        return data.decode("utf-8-sig" if start == 0 else "utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{key}: {path!r} is not UTF-8 at byte {start + error.start}; save it as UTF-8") from error


def plain(value: Any) -> Any:
    """A value of Arrow as one of JSON."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if value == value else None  # what is missing in a column of numbers is often NaN
    if isinstance(value, dict):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)


def reason(error: Exception) -> str:
    """An error of a library in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
