"""Artifacts: Parquet shards, rejects beside them, and a manifest written last.

    ARTIFACT/part-<hash>.parquet            rows that went on, in the artifact's schema
    ARTIFACT/_rejects/part-<hash>.parquet   rows that did not, with stage and reason
    ARTIFACT/_fingerprint                   the fingerprint of the shards, written first
    ARTIFACT/_made_of.json                  the settings and inputs of the fingerprint, for readers
    ARTIFACT/_asked.json                    only for generated texts: the mark of each part's settings (`reuse.py`)
    ARTIFACT/_attempt                       which attempt may write here
    ARTIFACT/_damaged/                      shards that could not be read, and whose rows were made again
    ARTIFACT/_manifest.json                 counts, written last: without it the artifact is not whole

Names that begin with "_" are left out by pandas, pyarrow, DuckDB and Ray, so the folder reads as one table.

The shards of a stopped run stay: `done_ids` are the ids in finished shards, and only the other rows are made again.
Tasks of a killed driver can go on for seconds. A new attempt takes over the artifact, so that these tasks cannot write
rows that are being made again. A row that such a task was writing at that very moment may be there twice; `finish`
keeps one of the two. While a stage works, each block is a small shard of its own, so that finished rows are safe; small
shards are merged up to a set size (`merging.py`). Shards of another fingerprint are moved to RUN/superseded/: an
artifact never mixes two configurations, and nothing that was paid for is deleted.

Ray Data's own row checkpoint is as exact where a driver is killed (tests/benchmarks/LOG.md). It is not used for three
reasons: it has one output, while a stage has accepted and rejected rows; it has no fingerprint; and it does not make
rows with a transient error, such as a timeout, again.
"""

import itertools
import json
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ray_distil.errors import DamagedFile, StageError
from ray_distil.runtime.progress import Teller
from ray_distil.store.artifact_reader import FINGERPRINT, LISTING_PAUSE_S, ROWS_PER_SHARD, ArtifactReader
from ray_distil.store.ids import Keys, count_ids, keys_of
from ray_distil.store.manifest import MANIFEST, Manifest, versions, write_manifest
from ray_distil.store.merging import Merger, merge_all
from ray_distil.store.shards import ATTEMPT, REJECTS_FOLDER, Written, check_attempt, count, write_block, write_shard
from ray_distil.store.storage import TEMPORARY, Folder
from ray_distil.store.superseded import ASKED, MADE_OF, earlier_making, supersede

if TYPE_CHECKING:
    from ray.data import Dataset

DAMAGED = "_damaged"  # shards that a node without power has left
ROUNDS = 8  # of counting, dropping and merging, at most
DROPPED = "num_doubled_rows_dropped"  # in a manifest's summary


class Artifact(ArtifactReader):
    """One artifact of a run: one folder, one schema, one fingerprint. Begun, written shard by shard, finished."""

    def __init__(
        self, run: Folder, name: str, schema: pa.Schema | None, fingerprint: str, counted: str | None = None
    ) -> None:
        """The arguments are those of ArtifactReader."""
        super().__init__(run, name, schema, fingerprint, counted)
        self.attempt = ""
        self.replaced: Folder | None = None  # folder in superseded/ with the shards of other settings or inputs
        self._counted_files: dict[str, list[str]] | None = None  # "" or REJECTS_FOLDER -> shards; None: not counted yet
        self._digests: dict[str, bytes] = {}  # accepted shard -> digest of its rows, as it was read last
        self.content_before: str | None = None  # digest of rows whose manifest, of an earlier version, has none
        self.made_of: dict[str, Any] = {}  # settings and inputs of the fingerprint, for readers
        self.num_failed_before = 0  # rows in superseded shards that had failed, or cannot be used again
        self.tell = Teller()

    def start(self, resume: bool = True, marks: dict[str, tuple[str, str]] | None = None) -> None:
        """Make the folder ready for shards, and move shards of another fingerprint to RUN/superseded/.

        Without `resume` the shards of a stopped run are deleted, for a stage that makes all its rows again. `marks`:
        part of the artifact -> marks of the settings that change its texts (`reuse.Reuse`).
        """
        if self.folder.exists() and not self._is_ours():
            self.replaced = supersede(self.run, self.name, self._mark())
        if not resume:
            self.folder.remove_all()
        self.attempt, self._counted_files = secrets.token_hex(8), None
        self.folder.write_text(ATTEMPT, self.attempt)  # first, so that tasks of an earlier attempt write nothing more
        self.folder.remove(MANIFEST)
        for leftover in self.folder.files(suffix=TEMPORARY, recursive=True):
            self.folder.remove(leftover)
        if self.made_of:  # before the fingerprint: what has one, and no settings, is of an earlier version
            self.folder.write_text(MADE_OF, json.dumps(self.made_of, ensure_ascii=False, indent=1) + "\n")
        self.folder.write_text(FINGERPRINT, self.fingerprint + "\n")
        if marks is not None:
            self.folder.write_text(ASKED, json.dumps(marks, sort_keys=True) + "\n")

    def earlier_making(self) -> Folder | None:
        """The artifact of this fingerprint in RUN/superseded/, if it can come back: a whole one, or a stopped training."""
        return None if self._is_ours() else earlier_making(self.run, self.name, self.fingerprint, not self.schema.names)

    def bring_back(self, old: Folder) -> None:
        """Move an earlier making back from RUN/superseded/; what is there now goes there instead."""
        if self.folder.exists():
            self.replaced = supersede(self.run, self.name, self._mark())
        old.move_to(self.folder)

    def forget_rejects(self, again: Callable[[str], bool]) -> Counter[str]:
        """Remove rejected rows whose reason `again` accepts: they will be made again. Returns how many, by reason."""
        return self._listed_again(lambda: self._forget_rejects(again))

    def _forget_rejects(self, again: Callable[[str], bool]) -> Counter[str]:
        forgotten: Counter[str] = Counter()
        files = self._files(REJECTS_FOLDER)
        reasons = zip(files, self._tables(files, ["reason"]), strict=True)
        affected = [file for file, table in reasons if any(map(again, table["reason"].to_pylist()))]
        for file, table in zip(affected, self._tables(affected), strict=True):
            reasons_of_file = table["reason"].to_pylist()
            forgotten.update(filter(again, reasons_of_file))
            self._replace(file, table, [not again(reason) for reason in reasons_of_file])
        return forgotten

    def _set_aside(self, file: str, damage: DamagedFile) -> None:
        """Keep the bytes of a damaged shard of an artifact that is being made; its rows are missing then, and made again.

        Raises the damage where the rows are counted already.
        """
        if not self.attempt or self._counted_files is not None:
            raise damage
        with suppress(FileNotFoundError):
            self.folder.write_bytes(f"{DAMAGED}/{file.rpartition('/')[2]}", self.folder.read_bytes(file))
            self.folder.remove(file)
        self.tell.line(f"{self.folder / file} is damaged; it lies in {DAMAGED}/, and its rows are made again")

    def _files(self, inside: str = "") -> list[str]:
        """The shards that are counted; before, those that are there, whatever a manifest of another attempt says."""
        if self._counted_files is not None:
            return self._counted_files[inside]
        return self._listed(inside) if self.attempt else super()._files(inside)

    def is_taken(self) -> bool:
        """Whether another attempt has begun since this one."""
        return self.folder.read_text(ATTEMPT) != self.attempt

    def write(self, parts: list["Dataset"], stage: str, parallel: bool = True) -> None:
        """`written`, to its end."""
        for _ in self.written(parts, stage, parallel):
            pass

    def written(
        self, parts: list["Dataset"], stage: str, parallel: bool = True, max_shard_bytes: int | None = None
    ) -> Iterator["Written"]:
        """Run the datasets (schema `with_rejects`), and write each block as a shard as soon as the block is made.

        Blocks must come as the engine made them (`map_batches` with batch_size=None): by default Ray gathers 1,024 rows
        before it saves the first one. The datasets are joined (`union`) after the write: an operator after a join gets
        no CPU until all engines before it are done, and nothing would be saved until then.

        The loop takes each block of counts when it asks for it, and none ahead (`prefetch_batches=0`): of blocks that are
        taken ahead Ray Data holds the writer back by comparing their bytes, and the counts of a block with a reject have
        more bytes than those of its neighbours.

        With `parallel` all datasets run at once. Else they run one by one, and an engine ends before the next engine
        starts. With `max_shard_bytes` small shards are merged meanwhile. Yields the counts of each shard.
        """
        arguments = {"folder": self.folder, "schema": self.schema, "stage": stage, "attempt": self.attempt}
        written = [
            part.map_batches(write_block, batch_size=None, batch_format="pyarrow", fn_kwargs=arguments)
            for part in parts
        ]
        if parallel and len(written) > 1:
            written = [written[0].union(*written[1:])]

        merger = None
        if max_shard_bytes is not None:
            merger = Merger(self.folder, self.schema, self.attempt, max_shard_bytes)
        try:
            for shards in written:
                for counts in shards.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
                    for shard in counts.to_pylist():
                        count(shard, self.run.name, stage)
                        self.tell.advance(shard["rows_out"] + shard["rows_rejected"], shard["num_generated_tokens"])
                        if merger is not None:
                            merger.add(json.loads(shard["files"]))
                        yield shard
        finally:
            if merger is not None:
                merger.wait()  # whoever reads the shards next finds each row in one file

    def write_table(self, table: pa.Table, stage: str) -> None:
        """Write a table in memory (schema `with_rejects`) as shards, without Ray."""
        for start in range(0, table.num_rows, ROWS_PER_SHARD):
            rows = table.slice(start, ROWS_PER_SHARD)
            counts = write_block(rows, self.folder, self.schema, stage, self.attempt).to_pylist()[0]
            count(counts, self.run.name, stage)

    def finish(
        self,
        stage: str,
        unit: str,
        rows_in: int,
        seconds: float,
        summarise: Callable[[], dict[str, Any]] = dict,
        max_shard_bytes: int | None = None,
        tokens: str | None = None,
    ) -> Manifest:
        """Count the rows in the shards, merge small shards up to `max_shard_bytes`, and write the manifest.

        `summarise` returns the manifest's `summary`; it is called when each row is there once. `tokens`: the column
        with the number of tokens of a text; the manifest gets its sum over the rejected rows, by reason.

        Raises StageError where rows are missing, where one shard has a row twice, or where another attempt has begun.
        Where two shards have the same row, one of the two is dropped: a task of a stopped run wrote it while it was
        being made again.
        """
        with self._own_attempt(stage):
            num_ids, doubled, num_dropped = self._settle(max_shard_bytes)
            if self.schema.names and (len(doubled) or num_ids != rows_in):
                raise StageError(
                    f"{stage}: {rows_in} rows went in, {num_ids} came out or were rejected, {len(doubled)} of them more "
                    f"than once; {self.folder} is not marked complete. Run the same command again to make the missing "
                    "ones" + (f"; first remove {self.folder}." if len(doubled) else ".")
                )

            # With its manifest, the artifact is complete.
            rejects, rejected_tokens = self._count_rejects(tokens)
            extra = {DROPPED: num_dropped} if num_dropped else {}
            manifest = Manifest(
                artifact=self.name,
                stage=stage,
                fingerprint=self.fingerprint,
                unit=unit,
                rows_in=rows_in,
                rows_out=rows_in - rejects.total(),
                rows_rejected=rejects.total(),
                rejects=dict(sorted(rejects.items())),
                seconds=round(seconds, 2),
                files=[*self._files(), *self._files(REJECTS_FOLDER), *self._student_files()],
                summary=summarise() | extra,
                versions=versions(),
                content=self._new_content(),
                made_of=self.made_of,
                rejected_tokens={reason: number for reason, number in sorted(rejected_tokens.items()) if number},
            )
            return write_manifest(self.folder, manifest, lambda: check_attempt(self.folder, self.attempt))

    @contextmanager
    def _own_attempt(self, stage: str) -> Iterator[None]:
        """Within the block, a shard that is gone is a StageError: of another attempt where one has begun."""
        try:
            yield
        except FileNotFoundError as error:
            check_attempt(self.folder, self.attempt)
            raise StageError(f"{stage}: {error}; run the same command again to make the rows of lost shards") from error

    def _count_rejects(self, tokens: str | None) -> tuple[Counter[str], Counter[str]]:
        """Rejected rows, and the sum of their column `tokens`, by reason."""
        rejects, rejected_tokens = Counter[str](), Counter[str]()
        columns = ["reason", "row"] if tokens else ["reason"]
        for table in self._parts(self._files(REJECTS_FOLDER), columns, narrow=not tokens):
            rejects.update(table["reason"].to_pylist())
            for row in table.to_pylist() if tokens else ():
                rejected_tokens[row["reason"]] += json.loads(row["row"]).get(tokens) or 0
        return rejects, rejected_tokens

    def _settle(self, max_shard_bytes: int | None) -> tuple[int, Keys, int]:
        """Drop doubled rows and merge small shards, until the shards that are counted are those that are there.

        Returns the number of different ids, the ids that are still there more than once, and how many rows were dropped.
        From here on the artifact's files are those that were counted: a shard that comes later is no part of it.
        """
        num_dropped, is_merged = 0, False
        self._digests = {}
        for last in [False] * (ROUNDS - 1) + [True]:
            self._counted_files = None
            files = {inside: self._files(inside) for inside in ("", REJECTS_FOLDER)}
            try:
                num_ids, doubled = count_ids(self._ids(files, self._digests))
                changed = self._drop(doubled) if len(doubled) else 0
            except FileNotFoundError:  # a task of a stopped run has merged shards meanwhile
                if last:
                    raise
                time.sleep(LISTING_PAUSE_S)
                continue

            # After a change, the shards are counted again.
            num_dropped += changed
            if changed and not last:
                continue
            if max_shard_bytes is not None and not is_merged and not last:
                is_merged = True
                if merge_all(self.folder, self.schema, self.attempt, itertools.chain(*files.values()), max_shard_bytes):
                    continue

            self._counted_files = files
            return num_ids, doubled, num_dropped
        raise AssertionError

    def _new_content(self) -> str:
        """The digest of the rows; "" where an artifact of an earlier version, without one, still has the same rows."""
        digest = self._content(self._digests)
        return "" if digest == self.content_before else digest

    def _drop(self, doubled: Keys) -> int:
        """Keep each doubled row in one shard, accepted before rejected; returns how many went.

        It is the largest shard with the row: where a merge was stopped, its small shards go whole, and tasks of the
        stopped run may still be removing them.
        """
        if self.counted != next(iter(self.schema.names), ""):
            return 0  # a row with a list of ids cannot lose one of them; each attempt makes such rows anew
        doubled_keys, saved_keys, num_dropped = set(doubled.tolist()), set[int](), 0
        sizes = self.folder.sizes(recursive=True)

        # Which files have such a row: their ids alone are read.
        affected: list[str] = []
        for column, files in ((self.counted, self._files()), ("id", self._files(REJECTS_FOLDER))):
            ids = ((file, table.column(0)) for file, table in zip(files, self._tables(files, [column]), strict=True))
            with_doubles = [file for file, column in ids if not doubled_keys.isdisjoint(_keys(column))]
            affected += sorted(with_doubles, key=lambda file: -sizes.get(file, 0))

        # The rows of the files that come first stay. What is left of a file may get the name of one that comes later.
        rest_files = set[str]()
        for file, table in zip(affected, self._tables(affected), strict=True):
            if file in rest_files:
                num_dropped += table.num_rows
                continue
            keys = _keys(table.column(0))
            repeated = saved_keys.intersection(keys)
            saved_keys |= doubled_keys.intersection(keys)
            rest_files |= self._replace(file, table, [key not in repeated for key in keys]).keys()
            num_dropped += sum(key in repeated for key in keys)
        return num_dropped

    def _replace(self, file: str, table: pa.Table, keep: list[bool]) -> dict[str, int]:
        """Keep only these rows of a shard. Returns the file that it writes for them: name -> bytes.

        If it is stopped midway, rows are there twice.
        """
        if all(keep):
            return {}
        rest, written = table.filter(pa.array(keep)), dict[str, int]()
        if rest.num_rows:
            inside = f"{REJECTS_FOLDER}/" if file.startswith(REJECTS_FOLDER) else ""
            written = write_shard(self.folder, rest, self.attempt, inside)
        if file not in written:
            self.folder.remove(file)
        return written


def _keys(ids: pa.ChunkedArray) -> list[int]:
    return list(keys_of(ids.to_pylist()).tolist())
