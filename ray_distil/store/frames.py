"""The rows of a finished artifact as a pandas frame: what its manifest lists, and no shard that came later."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pyarrow as pa

from ray_distil.errors import UserError
from ray_distil.store.ahead import ahead
from ray_distil.store.manifest import MANIFEST, read_manifest
from ray_distil.store.schemas import REJECTS
from ray_distil.store.shards import REJECTS_FOLDER
from ray_distil.store.storage import Folder

if TYPE_CHECKING:
    import pandas


def frame(run: Folder, artifact: str, columns: Sequence[str] | None, rejects: bool) -> "pandas.DataFrame":
    """The accepted rows, or the rejected ones, all in memory. Raises UserError for an artifact that is not finished."""
    folder = run / artifact
    manifest = read_manifest(folder)
    if manifest is None:
        raise UserError(f"{artifact!r} of {run} is not finished, or is none; finished are {_finished(run)}")
    start = f"{REJECTS_FOLDER}/part-" if rejects else "part-"
    shards = [file for file in manifest.files if file.startswith(start)]
    if not shards and not rejects and manifest.rows_out:
        raise UserError(f"{artifact!r} of {run} holds no rows but other files: {', '.join(manifest.files[:3])}, ...")

    # Many shards at a time: each is a request where the run lies in an object store.
    chosen = list(columns) if columns is not None else None
    tables = list(ahead(lambda file: folder.read_table(file, chosen), shards))
    if not tables:
        return (REJECTS.empty_table() if rejects else pa.table({})).to_pandas()
    return pa.concat_tables(tables).to_pandas()


def _finished(run: Folder) -> str:
    names = [file.removesuffix(f"/{MANIFEST}") for file in run.files(recursive=True) if file.endswith(f"/{MANIFEST}")]
    return ", ".join(sorted(name for name in names if not name.startswith("superseded/"))) or "none"
