"""The rows of a finished artifact as a pandas frame: what its manifest lists, and no shard that came later."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pyarrow as pa

from ray_distil.errors import UserError
from ray_distil.store.ahead import ahead
from ray_distil.store.manifest import MANIFEST, read_manifest
from ray_distil.store.schemas import OF_ARTIFACTS, REJECTS
from ray_distil.store.shards import REJECTS_FOLDER
from ray_distil.store.storage import Folder

if TYPE_CHECKING:
    import pandas


def frame(run: Folder, artifact: str, columns: Sequence[str] | None, rejects: bool) -> "pandas.DataFrame":
    """The accepted rows, or the rejected ones, all in memory.

    Raises UserError for an artifact that is not finished or holds no rows, and for a column that it does not have.
    """
    folder = run / artifact
    manifest = read_manifest(folder)
    if manifest is None:
        raise UserError(f"{artifact!r} of {run} is not finished, or is none; finished are {_finished(run)}")
    schema = REJECTS if rejects else OF_ARTIFACTS.get(artifact.partition("/")[0])
    if schema is None:
        raise UserError(f"{artifact!r} of {run} holds no rows but other files: {', '.join(manifest.files[:3])}, ...")
    chosen = schema.names if columns is None else [columns] if isinstance(columns, str) else list(columns)
    if unknown := [column for column in chosen if column not in schema.names]:
        raise UserError(f"{artifact!r} has no column {unknown[0]!r}; its columns are {', '.join(schema.names)}")

    # Many shards at a time: each is a request where the run lies in an object store. Shards of earlier versions may lack
    # columns, which are then null.
    start = f"{REJECTS_FOLDER}/part-" if rejects else "part-"
    shards = [file for file in manifest.files if file.startswith(start)]
    tables = ahead(lambda file: folder.read_table(file, chosen), shards)
    empty = schema.empty_table().select(chosen)
    return pa.concat_tables([empty, *tables], promote_options="default").to_pandas()


def _finished(run: Folder) -> str:
    names = [file.removesuffix(f"/{MANIFEST}") for file in run.files(recursive=True) if file.endswith(f"/{MANIFEST}")]
    return ", ".join(sorted(name for name in names if not name.startswith("superseded/"))) or "none"
