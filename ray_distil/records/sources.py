"""Reads records from a file, a folder or a hub, one by one, as values of JSON.

    problems.json, problems.jsonl    a JSON list, or one JSON object a line; all files may be compressed (.gz ...)
    problems.csv                     a header row; every value is text, an empty one is null
    problems.parquet
    FOLDER                           such files in it and below, in the order of their names; only one split, where
                                     the names tell splits (`files.py`). Or a folder written by `Dataset.save_to_disk`
                                     of Hugging Face's datasets
    s3://BUCKET/...                  all of these in an object store (gs://, abfs:// too)
    hf://datasets/OWNER/NAME         a dataset of the hub; @REVISION may follow

Raises UserError, naming the key of the configuration, for a source that cannot be read.
"""

import difflib
import hashlib
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from pyarrow import fs

from ray_distil.errors import NoSuchFile, PlaceAway, UserError
from ray_distil.records.conversations import without_system
from ray_distil.records.files import BATCH_ROWS, FORMATS, plain, reason, records_of
from ray_distil.records.folders import Chosen, choose, missing_parts
from ray_distil.store.manifest import MANIFEST
from ray_distil.store.schemas import stable_id
from ray_distil.store.storage import Folder, describe

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

HUB = "hf://datasets/"
KINDS = "a JSON list, JSONL, CSV or Parquet file, a folder of them, or hf://datasets/OWNER/NAME"
UNFINISHED = "_attempt"  # file in each artifact of a run; without a manifest beside it, the artifact is not complete


@dataclass(frozen=True)
class Source:
    """`key`: the configuration's key for the path. `columns`: our name of a column -> its name in the source.

    `drop_system`: system turns are removed from the records.
    """

    path: str
    key: str
    split: str = "train"
    split_key: str = "dataset_split"
    name: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    drop_system: bool = False

    @property
    def is_on_hub(self) -> bool:
        return self.path.startswith(HUB)

    @property
    def label(self) -> str:
        """The last part of the source's path; for a hub's dataset OWNER/NAME."""
        if self.is_on_hub:
            return self.path.removeprefix(HUB)
        return Folder(self.path).name if "://" in self.path else Path(self.path).absolute().name


def records(source: Source, may_be_empty: bool = False) -> Iterator[Any]:
    """The records in their order. Raises UserError, naming the key, the file and the line.

    Also raises UserError, after the last record, for a column of `columns` that no record has.
    """
    columns_seen: dict[str, None] = {}
    is_empty = True

    for record in _read(source):
        is_empty = False
        if source.columns and isinstance(record, dict):
            columns_seen |= dict.fromkeys(record)
            renamed = {ours: _look_up(record, theirs) for ours, theirs in source.columns.items()}
            columns_seen |= {source.columns[ours]: None for ours, value in renamed.items() if value is not None}
            record = record | renamed
        yield without_system(record) if source.drop_system and isinstance(record, dict) else record

    # Mistakes that show only at the end.
    if is_empty and may_be_empty:
        return
    if is_empty:
        raise UserError(f"{source.key}: {source.path!r} is empty; it needs at least one record")
    for ours, theirs in source.columns.items():
        if theirs not in columns_seen:
            near = difflib.get_close_matches(theirs, columns_seen, n=1, cutoff=0.5)
            raise UserError(
                f"{source.key.rpartition('.')[0]}.columns.{ours}: no record of {source.path!r} has {theirs!r}; "
                + (f"did you mean {near[0]!r}? " if near else "")
                + f"There are: {', '.join(columns_seen)}"
            )


def _look_up(record: dict[str, Any], name: str) -> Any:
    """The value of a column. A dotted name leads inside a column: reward_model.ground_truth, messages.0.info."""
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
    """A hash of the source's content: by the digest of a file, or of each file of a folder; for a dataset of the hub by
    the fingerprint that the datasets library gives.
    """
    if source.is_on_hub:
        dataset = _split_of(_from_hub(source), source)
        return stable_id(source.path, source.name or "", source.split, dataset._fingerprint)
    place, is_folder = _place(source)
    with _readable_errors(source):
        if not is_folder:
            return _digest(place)
        saved = _is_saved(place)
        files = place.files(recursive=True) if saved else _files(source, place)
        parts = [f"{file} {_digest(place, file)}" for file in files]
        return stable_id(*parts, *([source.split] if saved else []))


def check(source: Source) -> None:
    """Raises UserError where the file or folder does not exist. A hub is not asked."""
    if not source.is_on_hub:
        _place(source)


def absence(source: Source) -> str:
    """Why a source is not read for a plan; "" for a file or folder that exists.

    Raises UserError for a path that no place can have.
    """
    if source.is_on_hub:
        return f"{source.path!r} is on the hub, and not read"
    try:
        _place(source)
    except PlaceAway as error:
        return str(error)
    except NoSuchFile:
        return f"{source.path!r} not there yet"
    return ""


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
    """`(place, is_folder)` of a source. Raises UserError where neither a file nor a folder exists."""
    try:
        place = Folder.at(source.path)
        filesystem, path = place.filesystem_and_path()
        kind = filesystem.get_file_info(path).type
    except UserError as error:
        raise type(error)(f"{source.key}: {error}") from error
    except OSError as error:
        raise PlaceAway(f"{source.key}: {source.path!r} cannot be reached: {describe(error)}") from error
    if kind == fs.FileType.NotFound:
        raise NoSuchFile(f"{source.key}: there is no file {source.path!r}; give {KINDS}")
    return place, kind == fs.FileType.Directory


def _files(source: Source, folder: Folder) -> list[str]:
    """The files of a folder that hold records of the split. Raises UserError without any."""
    with _readable_errors(source):
        files = folder.files()
        chosen_files = choose(folder, source.split, source.name)
    if UNFINISHED in files and MANIFEST not in files:
        raise UserError(f"{source.key}: {source.path!r} is an artifact of a run that is not complete; let that run end")
    if problem := _wrong_choice(source, chosen_files):
        raise UserError(problem)
    return chosen_files.files


def _wrong_choice(source: Source, chosen_files: Chosen) -> str:
    """Why the files of a folder cannot be the source; "" if they can."""
    section = source.key.rpartition(".")[0]
    if not chosen_files.is_known:
        configurations = ", ".join(map(repr, chosen_files.configurations)) or "none"
        return (
            f"{section}.dataset_name: nothing in {source.path!r} is named {source.name!r}; there are {configurations}"
        )

    # Parts that are missing.
    if missing := missing_parts(chosen_files.files):
        return (
            f"{source.key}: {source.path!r} lacks {', '.join(missing[:3])}{' and more' if len(missing) > 3 else ''}, as the "
            "names of its other files say; download them, or give the others names without -of-"
        )

    # No file is left.
    if not chosen_files.files and chosen_files.splits:
        splits = ", ".join(map(repr, chosen_files.splits))
        return (
            f"{section}.{source.split_key}: {source.path!r} has no file of the split {source.split!r}; it has {splits}"
        )
    if not chosen_files.files:
        names = chosen_files.left_out
        present = f"{', '.join(names[:3])}{' ...' if len(names) > 3 else ''}" if names else "nothing"
        return f"{source.key}: {source.path!r} has no file in {', '.join(FORMATS)}; there is {present} in it"
    return ""


def left_out(source: Source) -> list[str]:
    """The files of a folder that are not read: files of another split, and files without records."""
    if source.is_on_hub:
        return []
    place, is_folder = _place(source)
    return choose(place, source.split, source.name).left_out if is_folder and not _is_saved(place) else []


@contextmanager
def _readable_errors(source: Source, file: str = "") -> Iterator[None]:
    """Turns a library's error about a source that cannot be read into a UserError."""
    path = _path_of(source, file)
    try:
        yield
    except OSError as error:
        raise UserError(f"{source.key}: cannot read {path!r}: {describe(error)}") from error
    except pa.ArrowException as error:
        raise UserError(f"{source.key}: {path}: {' '.join(str(error).split())}") from error


def _path_of(source: Source, file: str) -> str:
    return str(Folder(source.path) / file) if file else source.path


def _records_of(source: Source, place: Folder, file: str = "") -> Iterator[Any]:
    with _readable_errors(source, file):
        yield from records_of(place, file, source.key, _path_of(source, file))


def _is_saved(folder: Folder) -> bool:
    """Whether `save_to_disk` wrote the folder."""
    return folder.exists("dataset_dict.json") or (folder.exists("dataset_info.json") and folder.exists("state.json"))


def _from_disk(source: Source, folder: Folder, scratch: Path) -> "Dataset | DatasetDict":
    from datasets import load_from_disk

    if folder.local is None:
        with _readable_errors(source):
            folder.download(scratch)
    try:
        return load_from_disk(str(folder.local or scratch))
    except Exception as error:  # its types are many: a file is not there, not JSON, not Arrow, of another version
        raise UserError(f"{source.key}: datasets cannot load {source.path!r}: {reason(error)}") from error


def _from_hub(source: Source) -> "Dataset | DatasetDict":
    name, _, revision = source.path.removeprefix(HUB).partition("@")
    if name.count("/") != 1 or not all(name.split("/")):
        raise UserError(f"{source.key}: {source.path!r} names no dataset; give {HUB}OWNER/NAME")
    try:
        return _load_dataset(name, source.name, revision or None)
    except Exception as error:  # its types are many: not found, gated, no network, another configuration is needed
        raise UserError(
            f"{source.key}: Hugging Face does not give {source.path!r}"
            f"{f' with dataset_name {source.name!r}' if source.name else ''}: {reason(error)}"
        ) from error


@lru_cache(maxsize=4)
def _load_dataset(name: str, config: str | None, revision: str | None) -> "Dataset | DatasetDict":
    """The dataset, cached: the rows and the fingerprint need it."""
    from datasets import load_dataset

    return load_dataset(name, config, revision=revision)


def _split_of(loaded: "Dataset | DatasetDict", source: Source) -> "Dataset":
    """The split of the source. A dataset that does not name its split counts as any split."""
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
        yield from map(plain, table.to_pylist())


def _digest(place: Folder, file: str = "") -> str:
    filesystem, path = place.filesystem_and_path(file)
    digest = hashlib.sha256()
    with filesystem.open_input_stream(path, compression=None) as stream:
        while chunk := stream.read(2**20):
            digest.update(chunk)
    return digest.hexdigest()[:16]
