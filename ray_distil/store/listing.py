"""The files of a folder with their times, and the rows in Parquet files by their footers. Nothing is locked or written.

Others may write, merge and remove files meanwhile: a file that is gone between the listing and its reading counts nothing.
"""

from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from ray_distil.store.ahead import ahead
from ray_distil.store.patience import patient
from ray_distil.store.storage import Folder


class StoredFile(NamedTuple):
    name: str  # relative to the folder
    size: int  # bytes
    changed: float  # seconds since 1970, by the clock of the disk or store


@patient
def stored_files(folder: Folder, recursive: bool = True) -> list[StoredFile]:
    """The files of a folder, sorted by name; [] where there is no such folder."""
    filesystem, path = folder.filesystem_and_path()
    infos = filesystem.get_file_info(fs.FileSelector(path, recursive=recursive, allow_not_found=True))
    below = len(path.rstrip("/")) + 1
    return sorted(
        StoredFile(info.path[below:], info.size or 0, info.mtime.timestamp() if info.mtime else 0.0)
        for info in infos
        if info.type == fs.FileType.File
    )


def newest(files: list[StoredFile]) -> float | None:
    """The time of the newest file; None without files."""
    return max((file.changed for file in files), default=None)


def is_shard(name: str) -> bool:
    return name.rpartition("/")[2].startswith("part-") and name.endswith(".parquet")


def rows_by_file(folder: Folder, names: list[str]) -> dict[str, int | None]:
    """Rows of each Parquet file that is there; None for a file that is no whole Parquet file. Reads footers alone."""

    @patient
    def rows_of(folder: Folder, name: str) -> list[int | None]:
        filesystem, path = folder.filesystem_and_path(name)
        try:
            with filesystem.open_input_file(path) as source:
                return [pq.read_metadata(source).num_rows]
        except FileNotFoundError:
            return []
        except (pa.ArrowInvalid, OSError) as error:
            if isinstance(error, OSError) and "thrift" not in str(error):  # what a broken footer holds
                raise
            return [None]

    counts = ahead(lambda name: rows_of(folder, name), names)
    return {name: count for name, of_file in zip(names, counts, strict=True) for count in of_file}
