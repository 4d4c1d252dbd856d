"""Folders of a run, on a disk or in the object store of any pyarrow filesystem (s3://, gs://, abfs://).

A file appears whole or not at all. On a disk it is written under a temporary name and then renamed. An object store
shows an object only when its upload is complete. Where a store fails for a while, operations are tried again
(`patience.py`).
"""

import os
import re
import secrets
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from urllib.parse import unquote

import pyarrow as pa
from pyarrow import fs

from ray_distil.errors import DamagedFile, PlaceAway, UserError
from ray_distil.runtime.redaction import redacted
from ray_distil.store.ahead import do_all
from ray_distil.store.parquet_files import is_damage, opened, parquet
from ray_distil.store.patience import Patience, patient

RENAMING = {"local", "hdfs"}  # filesystems that show half-written files, but can rename; the others put whole objects
FLAT = {"s3", "gcs", "abfs"}  # filesystems in which a file needs no folder
TEMPORARY = ".tmp"
FETCHED_BYTES = 2**24  # of a request; by default Arrow asks for a MiB at a time
COPIED_BYTES = 5 * 10**9  # that S3 copies in one request; Arrow knows no copy in parts
ONE_SLASH = re.compile(r"([A-Za-z]\w+):/(?!/)")  # no drive of Windows
DELAYED = "allow_delayed_open"  # an option of Arrow's S3 client


@lru_cache(maxsize=16)
def _open(root: str) -> tuple[fs.FileSystem, str]:
    """The filesystem of a root and its path there. All folders of a bucket share one filesystem and its connections."""
    if root.startswith("s3://") and DELAYED not in root:
        root += f"{'&' if '?' in root else '?'}{DELAYED}=true"  # a small object is one request, not three
    filesystem, path = fs.FileSystem.from_uri(root)
    return filesystem, path


@dataclass(frozen=True)
class Folder:
    """A folder by its absolute path or URI. It may not exist; a write creates it. Files are named relative to it."""

    uri: str

    @classmethod
    def at(cls, where: str | Path, base: Path | None = None) -> "Folder":
        """The folder of a path or URI; a relative path starts at `base`, else at the working directory.

        Raises UserError for a URI that no pyarrow filesystem takes.
        """
        text = str(where)
        if text.startswith("file://"):  # as Ray, Spark and pyarrow write paths
            text = unquote(text.removeprefix("file://").removeprefix("localhost"))

        # Addresses that name nothing.
        if one_slash := ONE_SLASH.match(text):
            right = text.replace(":/", ":///" if one_slash[1] == "file" else "://", 1)
            raise UserError(f"{text!r} has one slash behind its colon; give {right}")
        if "://" in text and not text.partition("://")[2].strip("/"):
            raise UserError(f"{text!r} names no bucket; give e.g. {text.rstrip('/')}//BUCKET/PATH")
        if "://" not in text:
            return cls(str((base or Path.cwd()) / Path(text).expanduser()))

        folder = cls(text)
        try:
            folder.filesystem_and_path()
        except OSError as error:
            remedy = "check the name, the network, and AWS_REGION or AWS_ENDPOINT_URL of a store like S3"
            raise PlaceAway(f"{redacted(text)!r} cannot be reached ({describe(error)}); {remedy}") from error
        except (pa.ArrowException, ValueError) as error:
            kinds = "s3://BUCKET/PATH, gs://BUCKET/PATH, abfs://CONTAINER@ACCOUNT.dfs.core.windows.net/PATH or a path"
            raise UserError(
                f"{redacted(text)!r} is no place that pyarrow can open ({redacted(str(error))}); give {kinds}"
            ) from error
        return folder

    def __str__(self) -> str:
        """The URI without keys, fit to be shown."""
        return redacted(self.uri)

    def __truediv__(self, name: str) -> "Folder":
        place, mark, options = self.uri.partition("?")  # the options of a URI stand behind its path
        return Folder(f"{place.rstrip('/')}/{name}{mark}{options}")

    @property
    def name(self) -> str:
        return self.uri.partition("?")[0].rstrip("/").rpartition("/")[2]

    @property
    def local(self) -> Path | None:
        """The path of a folder on a disk; None for one in an object store."""
        return None if "://" in self.uri else Path(self.uri)

    @patient
    def exists(self, file: str = "") -> bool:
        """Whether the file, or this folder itself, is there."""
        filesystem, path = self.filesystem_and_path(file)
        return bool(filesystem.get_file_info(path).type != fs.FileType.NotFound)

    @patient
    def is_folder(self) -> bool:
        """Whether this folder is there, and no file."""
        filesystem, path = self.filesystem_and_path()
        return bool(filesystem.get_file_info(path).type == fs.FileType.Directory)

    @patient
    def modified(self, file: str) -> float | None:
        """When a file was written, in seconds since 1970 by the clock of its disk or store; None where it is not there."""
        filesystem, path = self.filesystem_and_path(file)
        nanoseconds = filesystem.get_file_info(path).mtime_ns
        return None if nanoseconds is None else nanoseconds / 1e9

    def files(self, prefix: str = "", suffix: str = "", recursive: bool = False) -> list[str]:
        """Names of the files, sorted; with `recursive` those in folders below too, as "below/name"."""
        return list(self.sizes(prefix, suffix, recursive))

    @patient
    def sizes(self, prefix: str = "", suffix: str = "", recursive: bool = False) -> dict[str, int]:
        """Name -> bytes of each file; the arguments are those of `files`."""
        filesystem, path = self.filesystem_and_path()
        infos = filesystem.get_file_info(fs.FileSelector(path, recursive=recursive, allow_not_found=True))
        below = len(path.rstrip("/")) + 1
        files = {info.path[below:]: info.size for info in infos if info.type == fs.FileType.File}
        return {n: size for n, size in sorted(files.items()) if n.startswith(prefix) and n.endswith(suffix)}

    @patient
    def read_bytes(self, file: str) -> bytes:
        """Raises FileNotFoundError, also where the path leads through a file."""
        filesystem, path = self.filesystem_and_path(file)
        try:
            with filesystem.open_input_stream(path) as stream:
                return bytes(stream.read())
        except NotADirectoryError as error:
            raise FileNotFoundError(*error.args) from error

    def read_text(self, file: str) -> str:
        return self.read_bytes(file).decode("utf-8")

    @patient
    def read_table(self, file: str, columns: list[str] | None = None) -> pa.Table:
        """A Parquet file as a table; names of folders (year=2024) add no columns. Raises DamagedFile."""
        filesystem, path = self.filesystem_and_path(file)
        with self._readable_parquet(file), filesystem.open_input_file(path) as source:
            return opened(source).read(columns=columns)

    def read_parts(self, file: str, columns: list[str] | None, num_rows: int) -> Iterator[pa.Table]:
        """A Parquet file as tables of up to `num_rows` rows. One table is in memory at a time. Raises DamagedFile."""
        filesystem, path = self.filesystem_and_path(file)
        patience, num_read = Patience(self), 0
        while True:
            try:
                with self._readable_parquet(file), filesystem.open_input_file(path) as source:
                    batches = opened(source).iter_batches(num_rows, columns=columns)
                    for batch in islice(batches, num_read, None):
                        num_read += 1
                        yield pa.Table.from_batches([batch])
                return
            except OSError as error:
                patience.wait(error)

    @contextmanager
    def _readable_parquet(self, file: str) -> Iterator[None]:
        """Reading a Parquet file: raises DamagedFile where its bytes are not those of one."""
        try:
            yield
        except (pa.ArrowInvalid, OSError) as error:
            if not is_damage(error):
                raise
            if self.local is None and self._is_intact(file):
                raise OSError(f"NETWORK_CONNECTION: {self / file} was read incompletely: {error}") from error
            raise DamagedFile(
                f"{self / file} is damaged, as a node that loses its power leaves files ({str(error)[:200]}); remove it, "
                "and the same command makes its rows again"
            ) from error

    def _is_intact(self, file: str) -> bool:
        """Whether a Parquet file can be read by now, all of it."""
        try:
            opened(pa.BufferReader(self.read_bytes(file))).read()
        except (pa.ArrowInvalid, OSError) as error:
            if not is_damage(error):
                raise
            return False
        return True

    @patient
    def num_rows(self, file: str) -> int:
        """The rows of a Parquet file, by its footer. Raises DamagedFile."""
        filesystem, path = self.filesystem_and_path(file)
        with self._readable_parquet(file), filesystem.open_input_file(path) as source:
            return int(opened(source).metadata.num_rows)

    def write_text(self, file: str, text: str) -> None:
        self.write_bytes(file, text.encode("utf-8"))

    def write_table(self, file: str, table: pa.Table, check: Callable[[], None] | None = None) -> None:
        """Write a Parquet file. `check` is called right before the file appears; if it raises, there is no file."""
        self.write_bytes(file, parquet([table]), check)

    @patient
    def write_bytes(self, file: str, data: bytes | pa.Buffer, check: Callable[[], None] | None = None) -> None:
        """Write a file. `check` is called right before the file appears; if it raises, there is no file."""
        filesystem, path = self.filesystem_and_path(file)
        if filesystem.type_name not in FLAT:
            filesystem.create_dir(path.rpartition("/")[0], recursive=True)
        if filesystem.type_name not in RENAMING:
            if check is not None:
                check()
            with filesystem.open_output_stream(path) as stream:
                stream.write(data)
            return

        written = f"{path}.{secrets.token_hex(4)}{TEMPORARY}"  # a thread may write the same file beside this one
        try:
            with filesystem.open_output_stream(written) as stream:
                stream.write(data)
            if self.local is not None:
                _flush(written)
            if check is not None:
                check()
            filesystem.move(written, path)
        except BaseException:
            with suppress(OSError):
                filesystem.delete_file(written)
            raise
        if self.local is not None:
            _flush(path.rpartition("/")[0])

    @patient
    def remove(self, file: str) -> None:
        """Remove a file, if it is there."""
        filesystem, path = self.filesystem_and_path(file)
        try:
            filesystem.delete_file(path)
        except FileNotFoundError:
            return

    @patient
    def remove_all(self) -> None:
        """Remove this folder and what is in it, if it is there."""
        filesystem, path = self.filesystem_and_path()
        if self.exists():
            filesystem.delete_dir(path)

    def move_to(self, target: "Folder") -> None:
        """Rename this folder on the same filesystem. In an object store, the store itself copies each object."""
        filesystem, path = self.filesystem_and_path()
        new = target.filesystem_and_path()[1]
        if filesystem.type_name in RENAMING:
            filesystem.create_dir(new.rpartition("/")[0], recursive=True)
            filesystem.move(path, new)
            return
        sizes = self.sizes(recursive=True)
        for marks in (False, True):  # what says of a folder that it is whole comes last
            names = [name for name in sizes if name.startswith("_") == marks]
            do_all(lambda name: self._copy(f"{path}/{name}", f"{new}/{name}", sizes[name]), names)
        self.remove_all()

    @patient
    def _copy(self, path: str, new: str, size: int) -> None:
        """Copy a file within an object store: by the store itself, or in parts through this process where it is too large."""
        filesystem = self.filesystem_and_path()[0]
        if size <= COPIED_BYTES:
            filesystem.copy_file(path, new)
            return
        with filesystem.open_input_stream(path) as source, filesystem.open_output_stream(new) as target:
            while part := source.read(FETCHED_BYTES):
                target.write(part)

    def copy_from(self, source: "Folder") -> None:
        """Copy the files of another folder, of this filesystem or another one, into this one."""
        source_filesystem, path = source.filesystem_and_path()
        filesystem, target_path = self.filesystem_and_path()
        if filesystem.type_name not in FLAT:
            filesystem.create_dir(target_path, recursive=True)
        fs.copy_files(path, target_path, source_filesystem=source_filesystem, destination_filesystem=filesystem)

    @contextmanager
    def writable(self) -> Iterator[Path]:
        """A folder on the disk, for programs that can write only there: this folder, or a temporary one, which is
        uploaded when the block ends.
        """
        if self.local is not None:
            self.local.mkdir(parents=True, exist_ok=True)
            yield self.local
            return
        with tempfile.TemporaryDirectory(prefix="ray_distil-") as staging:
            yield Path(staging)
            self.upload(Path(staging))

    def upload(self, source: Path) -> None:
        """Copy the files of a folder of the disk into this one."""
        filesystem, path = self.filesystem_and_path()
        filesystem.create_dir(path, recursive=True)
        fs.copy_files(str(source), path, source_filesystem=fs.LocalFileSystem(), destination_filesystem=filesystem)

    def download(self, target: Path, keep: Callable[[str], bool] = lambda name: True) -> None:
        """Copy the files for whose names `keep` is true into a folder on the disk."""
        names = [name for name in self.files(recursive=True) if keep(name)]
        for name in names:
            (target / name).parent.mkdir(parents=True, exist_ok=True)
        do_all(lambda name: self.fetch(name, target / name), names)

    @patient
    def fetch(self, file: str, target: Path) -> None:
        """Copy one file to the disk."""
        filesystem, path = self.filesystem_and_path(file)
        fs.copy_files(path, str(target), filesystem, fs.LocalFileSystem(), chunk_size=FETCHED_BYTES)

    @patient
    def state(self) -> list[tuple[str, int, str]]:
        """Path, size and time of change of each file. They change when the content of the folder changes."""
        filesystem, path = self.filesystem_and_path()
        infos = filesystem.get_file_info(fs.FileSelector(path, recursive=True, allow_not_found=True))
        return sorted((info.path, info.size, str(info.mtime)) for info in infos if info.type == fs.FileType.File)

    def filesystem_and_path(self, file: str = "") -> tuple[fs.FileSystem, str]:
        """The filesystem, and the path of `file` or of this folder in it, as pyarrow's functions take them."""
        if self.local is not None:
            filesystem, path = _open("file:///")[0], self.uri
        else:
            place, mark, options = self.uri.partition("?")
            scheme, _, rest = place.partition("://")
            authority, _, below = rest.partition("/")
            filesystem, bucket = _open(f"{scheme}://{authority}{mark}{options}")
            path = "/".join(part for part in (bucket.rstrip("/"), below.rstrip("/")) if part)
        return filesystem, f"{path}/{file}" if file else path


def _flush(path: str) -> None:
    """Bring a file, or the names in a folder, to the disk. Else a node that loses its power leaves files of 0 bytes."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def describe(error: OSError) -> str:
    """An object store's error in one line."""
    return redacted(" ".join(str(error).split()))
