"""Records from wherever they lie, one after the other, as values of JSON.

    problems.json, problems.jsonl    a JSON list, or one JSON object a line
    problems.csv                     a header row; every value is text, an empty one is null
    problems.parquet
    FOLDER                           such files in the order of their names, without those that begin with _ or a dot;
                                     or what `Dataset.save_to_disk` of Hugging Face's datasets wrote
    s3://BUCKET/...                  all of these in an object store (gs://, abfs:// too)
    hf://datasets/OWNER/NAME         a dataset of the hub; @REVISION may follow

What cannot be read is a UserError that names the key of the configuration.
"""

import difflib
import hashlib
import io
import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date, datetime, time
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import csv, fs

from ray_distil import UserError
from ray_distil.config import TeacherConfig
from ray_distil.manifest import MANIFEST
from ray_distil.schemas import stable_id
from ray_distil.storage import Folder, describe

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

HUB = "hf://datasets/"
ENDINGS = (".parquet", ".csv", ".jsonl", ".json")
KINDS = "a JSON list, JSONL, CSV or Parquet file, a folder of them, or hf://datasets/OWNER/NAME"
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
BATCH_ROWS = 1000
UNFINISHED = "_attempt"  # lies in an artifact of ours from its first shard on
CSV_BLOCK_BYTES = 2**26  # no row may be longer


@dataclass(frozen=True)
class Source:
    """`key`: where the configuration has the path. `columns`: our name of a column -> the source's."""

    path: str
    key: str
    split: str = "train"
    split_key: str = "dataset_split"
    name: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_on_hub(self) -> bool:
        return self.path.startswith(HUB)

    @property
    def label(self) -> str:
        """The source's name without what leads to it."""
        if self.is_on_hub:
            return self.path.removeprefix(HUB)
        return Folder(self.path).name if "://" in self.path else Path(self.path).absolute().name


def responses_of(teacher: TeacherConfig, key: str) -> Source:
    """The source of a teacher whose responses are there already; `key`: its section."""
    assert teacher.responses is not None
    return Source(
        teacher.responses,
        f"{key}.responses",
        teacher.dataset_split,
        name=teacher.dataset_name,
        columns=dict(teacher.columns),
    )


def records(source: Source) -> Iterator[Any]:
    """The records in their order. Raises UserError, naming the key, the file and the line; a wrong column at the end."""
    seen: dict[str, None] = {}
    is_empty = True
    for record in _read(source):
        is_empty = False
        if source.columns and isinstance(record, dict):
            seen |= dict.fromkeys(record)
            found = {ours: _look_up(record, theirs) for ours, theirs in source.columns.items()}
            seen |= {source.columns[ours]: None for ours, value in found.items() if value is not None}
            record = record | found
        yield record
    if is_empty:
        raise UserError(f"{source.key}: {source.path!r} is empty; it needs at least one record")
    for ours, theirs in source.columns.items():
        if theirs not in seen:
            near = difflib.get_close_matches(theirs, seen, n=1, cutoff=0.5)
            raise UserError(
                f"{source.key.rpartition('.')[0]}.columns.{ours}: no record of {source.path!r} has {theirs!r}; "
                + (f"did you mean {near[0]!r}? " if near else "")
                + f"There are: {', '.join(seen)}"
            )


def _look_up(record: dict[str, Any], name: str) -> Any:
    """The value of a column; of a dotted name, that of a column in a column: reward_model.ground_truth, messages.0.info."""
    if name in record or "." not in name:
        return record.get(name)
    value: Any = record
    for part in name.split("."):
        if isinstance(value, list) and part.isdigit() and int(part) < len(value):
            value = value[int(part)]
        else:
            value = value.get(part) if isinstance(value, dict) else None
    return value


def fingerprint(source: Source) -> str:
    """What the source holds: of a file its digest, of a folder those of its files, of a hub's dataset what it says."""
    if source.is_on_hub:
        dataset = _split_of(_from_hub(source), source)
        return stable_id(source.path, source.name or "", source.split, dataset._fingerprint)
    place, is_folder = _place(source)
    with _told(source):
        if not is_folder:
            return _digest(place)
        saved = _is_saved(place)
        files = place.files(recursive=True) if saved else _files(source, place)
        parts = [f"{file} {_digest(place, file)}" for file in files]
        return stable_id(*parts, *([source.split] if saved else []))


def check(source: Source) -> None:
    """Raises UserError where nothing is there. A hub is not asked."""
    if not source.is_on_hub:
        _place(source)


def is_here(source: Source) -> bool:
    """Whether it can be read, without a hub."""
    try:
        return not source.is_on_hub and bool(_place(source))
    except UserError:
        return False


def _read(source: Source) -> Iterator[Any]:
    if source.is_on_hub:
        yield from _rows(_split_of(_from_hub(source), source))
        return
    place, is_folder = _place(source)
    if not is_folder:
        yield from _records_of(source, place)
    elif _is_saved(place):
        with tempfile.TemporaryDirectory(prefix="ray_distil-") as scratch:
            yield from _rows(_split_of(_from_disk(source, place, Path(scratch)), source))
    else:
        for file in _files(source, place):
            yield from _records_of(source, place, file)


def _place(source: Source) -> tuple[Folder, bool]:
    """The file or folder, and whether it is a folder. Raises UserError where there is neither."""
    try:
        place = Folder.at(source.path)
    except UserError as error:
        raise UserError(f"{source.key}: {error}") from error
    with _told(source):
        filesystem, path = place.filesystem_and_path()
        kind = filesystem.get_file_info(path).type
    if kind == fs.FileType.NotFound:
        raise UserError(f"{source.key}: there is no file {source.path!r}; give {KINDS}")
    return place, kind == fs.FileType.Directory


def _files(source: Source, folder: Folder) -> list[str]:
    """The files of a folder that hold records. Raises UserError without any."""
    with _told(source):
        found = folder.files()
    files = [name for name in found if name.endswith(ENDINGS) and not name.startswith(("_", "."))]
    if not files:
        what = f"{', '.join(found[:3])}{' ...' if len(found) > 3 else ''}" if found else "nothing"
        raise UserError(f"{source.key}: {source.path!r} has no file in {', '.join(ENDINGS)}; there is {what} in it")
    if UNFINISHED in found and MANIFEST not in found:
        raise UserError(f"{source.key}: {source.path!r} is an artifact of a run that is not complete; let that run end")
    return files


@contextmanager
def _told(source: Source, file: str = "") -> Iterator[None]:
    """What a library says of a source that cannot be read, as UserError."""
    path = _shown(source, file)
    try:
        yield
    except OSError as error:
        raise UserError(f"{source.key}: cannot read {path!r}: {describe(error)}") from error
    except pa.ArrowException as error:
        raise UserError(f"{source.key}: {path}: {' '.join(str(error).split())}") from error


def _shown(source: Source, file: str) -> str:
    return str(Folder(source.path) / file) if file else source.path


def _records_of(source: Source, place: Folder, file: str = "") -> Iterator[Any]:
    """The records of one file, which is in the folder `place`, or `place` itself."""
    filesystem, path = place.filesystem_and_path(file)
    shown = _shown(source, file)
    with _told(source, file), filesystem.open_input_file(path) as stream:
        if path.endswith(".parquet"):
            for batch in pq.ParquetFile(stream).iter_batches(BATCH_ROWS):
                yield from map(_plain, batch.to_pylist())
        elif path.endswith(".csv"):
            reader = csv.open_csv(
                stream,
                csv.ReadOptions(block_size=CSV_BLOCK_BYTES),
                csv.ParseOptions(newlines_in_values=True),
                csv.ConvertOptions(default_column_type=pa.string(), null_values=[""], strings_can_be_null=True),
            )
            names = reader.schema.names
            if len(set(names)) < len(names):
                raise UserError(f"{source.key}: {shown}: two columns have one name in {names}; give each its own")
            for batch in reader:
                yield from batch.to_pylist()
        else:
            yield from _json(io.BufferedReader(stream), source.key, shown)


def _json(stream: io.BufferedReader, key: str, path: str) -> Iterator[Any]:
    """The records of a JSON list, or of JSON lines, of which one is in memory at a time."""
    first = next((line for line in stream if line.removeprefix(BYTE_ORDER_MARK).strip()), b"")
    stream.seek(0)
    if first.removeprefix(BYTE_ORDER_MARK).lstrip().startswith(b"["):
        try:
            yield from json.loads(_text(stream.read(), 0, key, path))
        except json.JSONDecodeError as error:
            raise UserError(
                f"{key}: {path}, line {error.lineno}: {error.msg} (the file starts as a JSON list)"
            ) from error
        except (ValueError, RecursionError) as error:
            raise UserError(f"{key}: {path}: {_reason(error)}") from error
        return
    start = 0
    for number, line in enumerate(stream, 1):
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
                raise UserError(f"{key}: {path}, line {number}: {_reason(error)}") from error
            yield record


def _text(data: bytes, start: int, key: str, path: str) -> str:
    """Bytes that begin at byte `start` of a file."""
    try:
        return data.decode("utf-8-sig" if start == 0 else "utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{key}: {path!r} is not UTF-8 at byte {start + error.start}; save it as UTF-8") from error


def _is_saved(folder: Folder) -> bool:
    """Whether `save_to_disk` wrote the folder."""
    return folder.exists("dataset_dict.json") or (folder.exists("dataset_info.json") and folder.exists("state.json"))


def _from_disk(source: Source, folder: Folder, scratch: Path) -> "Dataset | DatasetDict":
    from datasets import load_from_disk

    if folder.local is None:
        with _told(source):
            folder.download(scratch)
    try:
        return load_from_disk(str(folder.local or scratch))
    except Exception as error:  # its types are many: a file is not there, not JSON, not Arrow, of another version
        raise UserError(f"{source.key}: datasets cannot load {source.path!r}: {_reason(error)}") from error


def _from_hub(source: Source) -> "Dataset | DatasetDict":
    name, _, revision = source.path.removeprefix(HUB).partition("@")
    if name.count("/") != 1 or not all(name.split("/")):
        raise UserError(f"{source.key}: {source.path!r} names no dataset; give {HUB}OWNER/NAME")
    try:
        return _load_dataset(name, source.name, revision or None)
    except Exception as error:  # its types are many: not found, gated, no network, another configuration is needed
        raise UserError(
            f"{source.key}: Hugging Face does not give {source.path!r}"
            f"{f' with dataset_name {source.name!r}' if source.name else ''}: {_reason(error)}"
        ) from error


@lru_cache(maxsize=4)
def _load_dataset(name: str, config: str | None, revision: str | None) -> "Dataset | DatasetDict":
    """Once for the rows and the fingerprint."""
    from datasets import load_dataset

    return load_dataset(name, config, revision=revision)


def _split_of(loaded: "Dataset | DatasetDict", source: Source) -> "Dataset":
    """The split that is asked for; a dataset that does not name its split is any of them."""
    splits = dict(loaded) if isinstance(loaded, dict) else {str(loaded.split or source.split): loaded}
    if source.split not in splits:
        section = source.key.rpartition(".")[0]
        raise UserError(
            f"{section}.{source.split_key}: {source.path!r} has no split {source.split!r}; "
            f"it has {', '.join(map(repr, splits))}"
        )
    return splits[source.split]


def _rows(dataset: "Dataset") -> Iterator[dict[str, Any]]:
    for table in dataset.with_format("arrow").iter(batch_size=BATCH_ROWS):
        yield from map(_plain, table.to_pylist())


def _plain(value: Any) -> Any:
    """A value of Arrow as one of JSON."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if value == value else None  # what is missing in a column of numbers is often NaN
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)


def _digest(place: Folder, file: str = "") -> str:
    filesystem, path = place.filesystem_and_path(file)
    digest = hashlib.sha256()
    with filesystem.open_input_stream(path, compression=None) as stream:
        while chunk := stream.read(2**20):
            digest.update(chunk)
    return digest.hexdigest()[:16]


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
