"""The files of a folder with their times, and the rows in Parquet files by their footers. Nothing is locked or written.

Others may write, merge and remove files meanwhile: a file that is gone between the listing and its reading counts nothing.
"""

from typing import NamedTuple

from pyarrow import fs

from ray_distil.errors import DamagedFile
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

    def rows_of(name: str) -> list[int | None]:
        try:
            return [folder.num_rows(name)]
        except FileNotFoundError:
            return []
        except DamagedFile:
            return [None]

    counts = ahead(rows_of, names)
    return {name: count for name, of_file in zip(names, counts, strict=True) for count in of_file}
