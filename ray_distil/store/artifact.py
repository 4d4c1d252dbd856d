"""Artifacts: Parquet shards, rejects beside them, and a manifest written last.

    ARTIFACT/part-<hash>.parquet            rows that went on, in the artifact's schema
    ARTIFACT/_rejects/part-<hash>.parquet   rows that did not, with stage and reason
    ARTIFACT/_fingerprint                   what the shards are made of, written first
    ARTIFACT/_asked.json                    of texts: what each part of them was asked with (`reuse.py`)
    ARTIFACT/_attempt                       which attempt may write here
    ARTIFACT/_manifest.json                 counts, written last: without it the artifact is not whole

Names that begin with "_" are left out by pandas, pyarrow, DuckDB and Ray, so the folder reads as one table.

What a stopped run has written stays: `done_ids` are the ids in finished shards, and only the others are made again.
Tasks of a killed driver can go on for seconds; a new attempt takes the artifact from them, so that they write no row
that is being made again. What one of them had begun to write in that very moment may be there twice; `finish` leaves
one of each, and makes shards of a set size of the many small ones, one a block, in which nothing finished was at risk.
Shards of another fingerprint are moved to RUN/superseded/, so that one artifact never mixes two configurations and
nothing that was paid for is deleted.

Ray Data's own row checkpoint is as exact where a driver is killed (tests/benchmarks/LOG.md). It is not used because it
knows one output, where ours are accepted and rejected rows; it knows no fingerprint, and no rows with transient
errors, such as a timeout, which must be made again.
"""

import json
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ray_distil.runtime.progress import Teller
from ray_distil.runtime.session import ray_is_there
from ray_distil.store.artifact_reader import FINGERPRINT, ROWS_PER_SHARD, ArtifactReader
from ray_distil.store.ids import Keys, count_ids, keys_of
from ray_distil.store.manifest import MANIFEST, Manifest, versions, write_manifest
from ray_distil.store.shards import (
    ATTEMPT,
    REJECTS_FOLDER,
    StageError,
    Written,
    count,
    merge_batch,
    merge_shards,
    remove_batch,
    write_block,
    write_shard,
)
from ray_distil.store.storage import TEMPORARY, Folder

if TYPE_CHECKING:
    from ray.data import Dataset

ASKED = "_asked.json"
SUPERSEDED = "superseded"
DROPPED = "num_doubled_rows_dropped"  # in a manifest's summary


class Artifact(ArtifactReader):
    """One artifact of a run: one folder, one schema, one fingerprint. Begun, written shard by shard, finished."""

    def __init__(
        self, run: Folder, name: str, schema: pa.Schema | None, fingerprint: str, counted: str | None = None
    ) -> None:
        """As of an ArtifactReader."""
        super().__init__(run, name, schema, fingerprint, counted)
        self.attempt = ""
        self.replaced: Folder | None = None  # where an earlier making of other settings or inputs went
        self.num_failed_before = 0  # rows of an earlier making that could not be used
        self.tell = Teller()

    def start(self, resume: bool = True, asked: dict[str, tuple[str, str]] | None = None) -> None:
        """Make the folder ready for shards; those of another fingerprint go to RUN/superseded/.

        Without `resume` the shards of a stopped run go as well, for a stage that makes all its rows again. `asked`: part
        of the artifact -> what changes its texts (`reuse.Reuse`).
        """
        if self.folder.exists() and not self._is_ours():
            old = f"{self.name.replace('/', '-')}-{self._mark() or 'unknown'}-{int(time.time())}"
            self.replaced = self.run / SUPERSEDED / old
            self.folder.move_to(self.replaced)
        if not resume:
            self.folder.remove_all()
        self.folder.remove(MANIFEST)
        for leftover in self.folder.files(suffix=TEMPORARY, recursive=True):
            self.folder.remove(leftover)
        self.folder.write_text(FINGERPRINT, self.fingerprint + "\n")
        if asked is not None:
            self.folder.write_text(ASKED, json.dumps(asked, sort_keys=True) + "\n")
        self.attempt = secrets.token_hex(8)
        self.folder.write_text(ATTEMPT, self.attempt)

    def forget_rejects(self, again: Callable[[str], bool]) -> Counter[str]:
        """Rows that were rejected for a reason of which `again` is true are to be made again; how many, by reason."""
        forgotten: Counter[str] = Counter()
        for file in self._files(REJECTS_FOLDER):
            table = self.folder.read_table(file)
            reasons = table["reason"].to_pylist()
            forgotten.update(reason for reason in reasons if again(reason))
            self._replace(file, table, [not again(reason) for reason in reasons])
        return forgotten

    def is_taken(self) -> bool:
        """Whether another attempt has begun since this one."""
        return self.folder.read_text(ATTEMPT) != self.attempt

    def write(self, parts: list["Dataset"], stage: str, parallel: bool = True) -> None:
        """`written`, to its end."""
        for _ in self.written(parts, stage, parallel):
            pass

    def written(self, parts: list["Dataset"], stage: str, parallel: bool = True) -> Iterator["Written"]:
        """Run the datasets (schema `with_rejects`), and write each block as a shard as soon as it is there.

        Blocks must come as the engine made them (`map_batches` with batch_size=None): Ray's default gathers 1,024 rows
        before the first row is saved. Datasets are joined behind the write, not before it: an operator behind a join
        gets no CPU until all engines in front of it are done, and nothing would be saved until then.

        `parallel`: all datasets at once; else one after the other, so that one's engine is gone before the next one
        starts. Yields what each shard holds.
        """
        how = {"folder": self.folder, "schema": self.schema, "stage": stage, "attempt": self.attempt}
        written = [
            part.map_batches(write_block, batch_size=None, batch_format="pyarrow", fn_kwargs=how) for part in parts
        ]
        if parallel and len(written) > 1:
            written = [written[0].union(*written[1:])]
        for shards in written:
            for shard in shards.iter_rows():
                count(shard, self.run.name, stage)
                self.tell.advance(shard["rows_out"] + shard["rows_rejected"], shard["num_generated_tokens"])
                yield shard

    def write_table(self, table: pa.Table, stage: str) -> None:
        """Write a table (schema `with_rejects`) that is in memory, without Ray."""
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
        """Count what is in the shards, merge small ones up to `max_shard_bytes`, and write the manifest.

        summarise: what else the manifest has, read when each row is there once. tokens: the column with the tokens of
        a text, of which the manifest has the sums of the rejected rows by reason.

        Raises StageError where rows are missing, or where one shard has a row twice. A row that two shards have stays
        in one of them: a task of a stopped run wrote it while it was being made again.
        """
        num_ids, doubled = count_ids(self._ids())
        num_dropped = self._drop(doubled) if len(doubled) else 0
        if num_dropped:
            num_ids, doubled = count_ids(self._ids())
        if self.schema.names and (len(doubled) or num_ids != rows_in):
            raise StageError(
                f"{stage}: {rows_in} rows went in, {num_ids} came out or were rejected, {len(doubled)} of them more "
                f"than once; {self.folder} is not marked complete. Run the same command again to make the missing ones"
                + (f"; first remove {self.folder}." if len(doubled) else ".")
            )
        if max_shard_bytes is not None:
            self._merge(max_shard_bytes)
        rejects, rejected_tokens = Counter[str](), Counter[str]()
        for table in self._parts(self._files(REJECTS_FOLDER), ["reason", "row"] if tokens else ["reason"]):
            rejects.update(table["reason"].to_pylist())
            for row in table.to_pylist() if tokens else ():
                rejected_tokens[row["reason"]] += json.loads(row["row"]).get(tokens) or 0
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
            files=[*self._files(), *self._files(REJECTS_FOLDER), *self._others()],
            summary=summarise() | ({DROPPED: num_dropped} if num_dropped else {}),
            versions=versions(),
            rejected_tokens={reason: number for reason, number in sorted(rejected_tokens.items()) if number},
        )
        return write_manifest(self.folder, manifest)

    def _drop(self, doubled: Keys) -> int:
        """Leave each of these rows to the first shard that has it, accepted before rejected; returns how many went."""
        if self.counted != next(iter(self.schema.names), ""):
            return 0  # ids in lists: rows of several of them cannot be taken apart, and are made anew by each attempt
        suspect, kept, num_dropped = set(doubled.tolist()), set[int](), 0
        for file in self._files() + self._files(REJECTS_FOLDER):
            table = self.folder.read_table(file)
            keys = keys_of(table.column(0).to_pylist()).tolist()
            here = suspect.intersection(keys)
            again = kept & here
            kept |= here
            num_dropped += self._replace(file, table, [key not in again for key in keys])
        return num_dropped

    def _replace(self, file: str, table: pa.Table, keep: list[bool]) -> int:
        """Leave only these rows of a shard; returns how many went. Stopped in between, rows are there twice."""
        if all(keep):
            return 0
        rest = table.filter(pa.array(keep))
        if rest.num_rows:
            inside = f"{REJECTS_FOLDER}/" if file.startswith(REJECTS_FOLDER) else ""
            write_shard(self.folder, rest, self.attempt, inside)
        self.folder.remove(file)
        return table.num_rows - rest.num_rows

    def _merge(self, most_bytes: int) -> None:
        """Make shards of up to so many bytes out of small ones, by Ray where it is there and worth it.

        None is removed before all are merged, so that Ray may do again what a lost worker had begun. Stopped in
        between, rows are there twice.
        """
        groups = list(small_groups(self.folder.sizes("part-", ".parquet"), most_bytes))
        rejects = small_groups((self.folder / REJECTS_FOLDER).sizes("part-", ".parquet"), most_bytes)
        groups += [[f"{REJECTS_FOLDER}/{name}" for name in group] for group in rejects]
        if len(groups) > 1 and ray_is_there():
            import ray.data

            blocks = ray.data.from_items(groups, override_num_blocks=min(len(groups), 200))
            how = {"folder": self.folder, "attempt": self.attempt}
            merged = blocks.map_batches(merge_batch, batch_size=1, fn_kwargs=how).materialize()
            merged.map_batches(remove_batch, batch_size=1, fn_kwargs={"folder": self.folder}).materialize()
            return
        for group in groups:
            merge_shards(group, self.folder, self.attempt)
            pa.default_memory_pool().release_unused()
        remove_batch({"item": groups}, self.folder)


def small_groups(sizes: dict[str, int], most_bytes: int) -> Iterator[list[str]]:
    """Files that are together no larger than so many bytes, in the order of their names; none that is alone."""
    group: list[str] = []
    total = 0
    for file, size in sorted(sizes.items()):
        if group and total + size > most_bytes:
            if len(group) > 1:
                yield group
            group, total = [], 0
        group.append(file)
        total += size
    if len(group) > 1:
        yield group
