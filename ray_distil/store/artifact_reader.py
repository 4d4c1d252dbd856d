"""Reads an artifact: its manifest, its rows, its rejects, and the ids that are done; its rows as a pandas frame."""

import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import pyarrow as pa

from ray_distil.errors import DamagedFile, UserError
from ray_distil.store import content
from ray_distil.store.ahead import HELD_BYTES, ahead
from ray_distil.store.ids import IdSet
from ray_distil.store.manifest import MANIFEST, STUDENT, Manifest, content_mark, read_manifest
from ray_distil.store.schemas import ARTIFACTS, REJECTS, conformed
from ray_distil.store.shards import REASON, REJECTS_FOLDER, read_shard
from ray_distil.store.storage import Folder

if TYPE_CHECKING:
    import pandas
    from ray.data import Dataset

FINGERPRINT = "_fingerprint"
ResultT = TypeVar("ResultT")
LISTINGS, LISTING_PAUSE_S = 20, 0.5  # of an artifact whose shards go while they are read
ROWS_PER_SHARD = 10_000  # rows of a table in memory that become one shard: tasks read in parallel, a shard each


class ArtifactReader:
    """One artifact of a run as it is in its folder, whole or not."""

    def __init__(
        self, run: Folder, name: str, schema: pa.Schema | None, fingerprint: str, counted: str | None = None
    ) -> None:
        """`name`: the artifact's folder in the run. An artifact without a schema holds other files (a checkpoint).

        `counted`: the column with the ids that go in and must come out, where it is not the first column. It may hold
        lists of ids.
        """
        self.run, self.name, self.folder, self.fingerprint = run, name, run / name, fingerprint
        self.schema = schema if schema is not None else pa.schema([])
        self.counted = counted or next(iter(self.schema.names), "")

    def manifest(self) -> Manifest | None:
        """The manifest, if the artifact is whole and has this fingerprint; else None."""
        manifest = read_manifest(self.folder)
        if manifest is None or manifest.fingerprint != self.fingerprint:
            return None
        return None if self.missing(manifest) else manifest

    def missing(self, manifest: Manifest) -> list[str]:
        """The files of a manifest that are not there."""
        present = set(self.folder.files(recursive=True))
        return [file for file in manifest.files if file not in present]

    def digest(self) -> str:
        """The digest of the accepted rows, read from all of them."""
        return self._content({})

    def is_begun(self) -> bool:
        """Whether what is there has this fingerprint."""
        return self._is_ours()

    def is_of_other_settings(self) -> bool:
        """Whether something is there that has another fingerprint."""
        return self._mark() not in (None, self.fingerprint)

    def is_complete(self) -> bool:
        return self.manifest() is not None

    def content(self) -> str:
        """`content_mark` of the artifact, once it is whole; before, its fingerprint."""
        manifest = self.manifest()
        return self.fingerprint if manifest is None else content_mark(manifest)

    def done_ids(self) -> IdSet:
        """Ids of the rows, accepted or rejected, that are in finished shards of this fingerprint."""
        return self._listed_again(lambda: IdSet(self._ids() if self._is_ours() else ()))

    def read(self, columns: list[str] | None = None) -> "Dataset":
        """The accepted rows as a Ray dataset.

        The dataset is made of file names, and tasks open the files. With the many small files of an artifact,
        read_parquet would take longer: it starts actors that read footers, and then merges the files into one block.
        """
        import ray.data

        files, schema = self._files(), self._schema_of("", columns)
        if not files:
            return ray.data.from_arrow(schema.empty_table())
        return ray.data.from_items(files, override_num_blocks=min(len(files), 200)).map_batches(
            read_shard, batch_size=1, fn_kwargs={"folder": self.folder, "schema": schema}
        )

    def tables(self, columns: list[str]) -> Iterator[pa.Table]:
        """The accepted rows in tables of up to ROWS_PER_SHARD rows. Large shards are in memory one table at a time."""
        return self._parts(self._files(), columns)

    def count(self, column: str, value: str | None = None) -> int:
        """The number of accepted rows; with `value`, of those whose `column` has this value."""
        return sum(
            table.num_rows if value is None else table.filter(pa.compute.equal(table[column], value)).num_rows
            for table in self._parts(self._files(), [column], narrow=True)
        )

    def read_table(self, columns: list[str] | None = None) -> pa.Table:
        """The accepted rows as a table in memory, sorted by id if `columns` include it."""
        key = self.schema.names[0]
        empty = self._schema_of("", columns).empty_table()
        table = pa.concat_tables([empty, *self._tables(self._files(), columns)], promote_options="default")
        return table.sort_by(key) if key in table.column_names else table

    def rejected(self) -> list[dict[str, Any]]:
        """The rejected rows, with their reason and the columns of the schema that were known."""
        rows = (
            row for table in self._tables(self._files(REJECTS_FOLDER), ["row", "reason"]) for row in table.to_pylist()
        )
        return [json.loads(row["row"]) | {REASON: row["reason"]} for row in rows]

    def first_details(self) -> dict[str, str]:
        """Reason of rejected rows -> the detail of one of them."""

        def read() -> dict[str, str]:
            details: dict[str, str] = {}
            for table in self._parts(self._files(REJECTS_FOLDER), ["reason", "detail"], narrow=True):
                for reason, detail in zip(table["reason"].to_pylist(), table["detail"].to_pylist(), strict=True):
                    details.setdefault(reason, detail or "")
            return details

        return self._listed_again(read)

    def shards(self) -> list[str]:
        """The names of the shards with accepted rows."""
        return self._files()

    def _mark(self) -> str | None:
        """The fingerprint of the shards in the folder; None where there is none."""
        try:
            return self.folder.read_text(FINGERPRINT).strip()
        except FileNotFoundError:
            return None

    def _is_ours(self) -> bool:
        return self._mark() == self.fingerprint

    def _listed_again(self, read: Callable[[], ResultT]) -> ResultT:
        """`read()`; once more where a shard goes meanwhile: tasks of a stopped run may still be merging shards."""
        for _ in range(LISTINGS):
            try:
                return read()
            except FileNotFoundError:
                time.sleep(LISTING_PAUSE_S)
        return read()

    def _files(self, inside: str = "") -> list[str]:
        """The names of the shards; of a whole artifact as its manifest lists them, so that no late shard is read."""
        manifest = read_manifest(self.folder)
        if manifest is not None and manifest.fingerprint == self.fingerprint:
            start = f"{inside}/part-" if inside else "part-"
            return [name for name in manifest.files if name.startswith(start)]
        return self._listed(inside)

    def _listed(self, inside: str) -> list[str]:
        """The names of the shards that are there."""
        names = (self.folder / inside if inside else self.folder).files("part-", ".parquet")
        return [f"{inside}/{name}" if inside else name for name in names]

    def _student_files(self) -> list[str]:
        """The files of the student, in an artifact without a schema; [] in any other."""
        if self.schema.names:
            return []
        return [name for name in self.folder.files(recursive=True) if name.startswith(f"{STUDENT}/")]

    def _ids(
        self, files: dict[str, list[str]] | None = None, digests: dict[str, bytes] | None = None
    ) -> Iterator[list[str]]:
        """The ids in these files ("" and REJECTS_FOLDER -> names); None: in all.

        `digests` gets the digest of each shard of accepted rows that has one in its metadata.
        """
        accepted, rejects = (self._files(), self._files(REJECTS_FOLDER)) if files is None else files.values()
        for table in self._parts(accepted, [self.counted], narrow=True, digests=digests):
            ids = table[self.counted].combine_chunks()
            yield (ids.flatten() if pa.types.is_list(ids.type) else ids).to_pylist()
        for table in self._parts(rejects, ["id"], narrow=True):
            yield table["id"].to_pylist()

    def _content(self, digests: dict[str, bytes]) -> str:
        """The digest of the accepted rows; "" without a schema. digests: accepted shard -> the digest in its metadata.

        A shard of an earlier version has none, and is read.
        """
        if not self.schema.names:
            return ""

        def of_shard(file: str) -> int:
            if file in digests:
                return int(digests[file], 16)
            return content.total(map(content.digest, self.folder.read_parts(file, None, ROWS_PER_SHARD)))

        return content.text(content.total(map(of_shard, self._files())))

    def _parts(
        self, files: list[str], columns: list[str], narrow: bool = False, digests: dict[str, bytes] | None = None
    ) -> Iterator[pa.Table]:
        """The rows of shards, many of which are read at a time. `narrow`: the columns hold no texts, e.g. ids alone.

        `digests` gets the digest of each shard that has one in its metadata; it needs `narrow`.
        """
        sizes = {} if narrow else self.folder.sizes(recursive=True)

        def read(file: str) -> Iterable[pa.Table]:
            schema = self._schema_of(file, columns)
            read_parts = self._intact(file, self.folder.read_parts(file, columns, ROWS_PER_SHARD))
            parts = (conformed(part, schema) for part in read_parts)
            if sizes.get(file, 0) > HELD_BYTES:
                return parts
            tables = list(parts)
            metadata = (tables[0].schema.metadata or {}) if tables else {}
            if digests is not None and content.KEY in metadata:
                digests[file] = metadata[content.KEY]
            return tables

        for tables in ahead(read, files, lambda file: sizes.get(file, 0)):
            yield from tables

    def _intact(self, file: str, parts: Iterable[pa.Table]) -> Iterator[pa.Table]:
        """The parts of a shard, as they are read."""
        try:
            yield from parts
        except DamagedFile as damage:
            self._set_aside(file, damage)

    def _set_aside(self, file: str, damage: DamagedFile) -> None:
        """Here: raises the damage. An artifact that is being made makes the rows of the shard again."""
        raise damage

    def _schema_of(self, file: str, columns: list[str] | None) -> pa.Schema:
        """The columns of a shard of accepted rows or of rejects; None: all."""
        schema = REJECTS if file.startswith(REJECTS_FOLDER) else self.schema
        return schema if columns is None else pa.schema([schema.field(name) for name in columns])

    def _tables(self, files: list[str], columns: list[str] | None = None) -> Iterator[pa.Table]:
        """The table of each shard, in the order of the files."""
        sizes = self.folder.sizes(recursive=True)

        def read(file: str) -> pa.Table:
            schema = self._schema_of(file, columns)
            try:
                return conformed(self.folder.read_table(file, schema.names), schema)
            except DamagedFile as damage:
                self._set_aside(file, damage)
                return schema.empty_table()

        return ahead(read, files, lambda file: sizes.get(file, 0))


def finished(run: Folder, artifact: str) -> ArtifactReader | None:
    """An artifact of a run by the settings with which it was made; None where it is not whole."""
    manifest = read_manifest(run / artifact)
    if manifest is None:
        return None
    reader = ArtifactReader(run, artifact, ARTIFACTS[artifact].schema, manifest.fingerprint)
    return reader if reader.is_complete() else None


def frame(run: Folder, artifact: str, columns: Sequence[str] | None, rejects: bool) -> "pandas.DataFrame":
    """The accepted rows, or the rejected ones, all in memory: what the manifest lists, and no shard that came later.

    Raises UserError for an artifact that is not finished or holds no rows, and for a column that it does not have.
    """
    folder = run / artifact
    manifest = read_manifest(folder)
    if manifest is None:
        raise UserError(f"{artifact!r} of {run} is not finished, or is none; finished are {_finished(run)}")
    kind = ARTIFACTS.get(artifact.partition("/")[0])
    schema = REJECTS if rejects else kind.schema if kind is not None else None
    if schema is None:
        raise UserError(f"{artifact!r} of {run} holds no rows but other files: {', '.join(manifest.files[:3])}, ...")
    names = schema.names if columns is None else [columns] if isinstance(columns, str) else list(columns)
    if unknown := [column for column in names if column not in schema.names]:
        raise UserError(f"{artifact!r} has no column {unknown[0]!r}; its columns are {', '.join(schema.names)}")

    # Many shards at a time: each is a request where the run lies in an object store. Shards of earlier versions may lack
    # columns, which are then null.
    start = f"{REJECTS_FOLDER}/part-" if rejects else "part-"
    shards = [file for file in manifest.files if file.startswith(start)]
    tables = ahead(lambda file: folder.read_table(file, names), shards)
    empty = schema.empty_table().select(names)
    rows: pandas.DataFrame = pa.concat_tables([empty, *tables], promote_options="default").to_pandas()
    return rows


def _finished(run: Folder) -> str:
    names = [file.removesuffix(f"/{MANIFEST}") for file in run.files(recursive=True) if file.endswith(f"/{MANIFEST}")]
    return ", ".join(sorted(name for name in names if not name.startswith("superseded/"))) or "none"
