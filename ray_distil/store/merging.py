"""Merges small shards: while a stage works as they come, and the rest when it is finished.

Each block of rows is a small shard of its own, so that finished rows are safe. An object store takes as long for a small
file as for a large one: 10 million rows in 156,000 files would take hours to list, to read and to remove.

A merge writes the large shard first, and removes the small ones when it is there. So Ray can retry either of the two
tasks. Where a run is stopped between them, rows are in two shards; `Artifact.finish` keeps one of the two.
"""

import json
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow as pa

from ray_distil.errors import StageError
from ray_distil.runtime.session import last_line, ray_is_there
from ray_distil.store.ahead import AT_ONCE, HELD_BYTES, ahead, do_all
from ray_distil.store.parquet_files import parquet
from ray_distil.store.schemas import REJECTS, conformed
from ray_distil.store.shards import REJECTS_FOLDER, check_attempt, write_rows
from ray_distil.store.storage import Folder

MERGED_ROWS = 1000  # rows that a merge reads of a shard at a time: some rows have thousands of tokens
MERGED_BYTES = 2**23  # of rows that a merge sorts together, uncompressed
SMALL_FILES = 400  # that lie side by side while a stage works
MERGES_AT_ONCE = 4
REMOVED_AT_ONCE = 4 * AT_ONCE  # files between two looks at whether another attempt has begun


class Merger:
    """Merges the small shards of a stage while its engines work: each `max_bytes`, or each SMALL_FILES files, by a Ray task.

    The tasks reserve no CPU, because engines and the stage's own tasks may have them all. Where a merge fails, the small
    shards stay as they are.
    """

    def __init__(self, folder: Folder, schema: pa.Schema, attempt: str, max_bytes: int) -> None:
        import ray

        self.folder, self.schema, self.attempt, self.max_bytes = folder, schema, attempt, max_bytes
        options = {"num_cpus": 0, "scheduling_strategy": "SPREAD"}
        self._merge, self._remove = (ray.remote(**options)(function) for function in (merge_shards, remove_shards))
        self._small: dict[str, dict[str, int]] = {}  # "" or REJECTS_FOLDER -> file -> bytes
        self._groups: deque[dict[str, int]] = deque()  # groups that wait for a task
        self._tasks: list[Any] = []

    def add(self, sizes: dict[str, int]) -> None:
        """Shards that were just written: name -> bytes. Raises StageError where another attempt has begun."""
        for file, size in sizes.items():
            if size > self.max_bytes / 2:
                continue
            group = self._small.setdefault(file.rpartition("/")[0], {})
            if sum(group.values()) + size > self.max_bytes:
                self._close(group)
            group[file] = size
            if len(group) == SMALL_FILES:
                self._close(group)
        self._work()

    def wait(self) -> None:
        """Wait until no task of a merge is left. Files that no task has taken yet stay small."""
        while self._groups or self._tasks:
            self._work(wait=True)

    def _close(self, group: dict[str, int]) -> None:
        if len(group) > 1:
            self._groups.append(dict(group))
        group.clear()

    def _work(self, wait: bool = False) -> None:
        """Take the results of tasks that have ended, and start tasks for groups that wait."""
        import ray

        if self._tasks:
            ended, self._tasks = ray.wait(
                self._tasks, num_returns=1 if wait else len(self._tasks), timeout=None if wait else 0
            )
            for task in ended:
                self._check(task)

        while self._groups and len(self._tasks) < MERGES_AT_ONCE:
            group = self._groups.popleft()
            merged = self._merge.remote(group, self.folder, self.schema, self.attempt)
            self._tasks.append(self._remove.remote(list(group), self.folder, self.attempt, merged))

    def _check(self, task: Any) -> None:
        import ray

        try:
            ray.get(task)
        except StageError:
            raise
        except Exception as error:  # noqa: BLE001  the rows are safe in their small shards
            print(f"{self.folder}: small shards are merged later: {last_line(error)}", file=sys.stderr)


def merge_all(folder: Folder, schema: pa.Schema, attempt: str, files: Iterable[str], max_bytes: int) -> bool:
    """Merge those of the shards `files` that are small into shards of up to `max_bytes`. Returns whether there were any.

    `files` must have no row twice: of rows that one shard has twice, nobody can say which of them was meant to stay.
    Ray does it, if it runs, where there are several groups or more than HELD_BYTES. No small shard is removed before all
    groups are merged, so that Ray can do the task of a lost worker again.
    """
    groups: list[dict[str, int]] = []
    shards = set(files)
    for inside in ("", f"{REJECTS_FOLDER}/"):
        sizes = (folder / inside.rstrip("/") if inside else folder).sizes("part-", ".parquet")
        named_sizes = {inside + name: size for name, size in sizes.items()}
        groups += small_groups({name: size for name, size in named_sizes.items() if name in shards}, max_bytes)

    is_large = len(groups) > 1 or sum(size for group in groups for size in group.values()) > HELD_BYTES
    if is_large and ray_is_there():
        import ray.data

        blocks = ray.data.from_items(list(map(json.dumps, groups)), override_num_blocks=min(len(groups), 200))
        arguments = {"folder": folder, "schema": schema, "attempt": attempt}
        blocks.map_batches(merge_batch, batch_size=1, fn_kwargs=arguments).materialize()
    else:
        for group in groups:
            merge_shards(group, folder, schema, attempt)
            pa.default_memory_pool().release_unused()
    remove_shards([file for group in groups for file in group], folder, attempt)
    return bool(groups)


def small_groups(sizes: dict[str, int], max_bytes: int) -> Iterator[dict[str, int]]:
    """Groups of two or more files, in the order of their names, each together no larger than `max_bytes`.

    Files of more than half of it stay alone. Both `sizes` and a group: name -> bytes.
    """
    group: dict[str, int] = {}
    total = 0
    for file, size in sorted(sizes.items()):
        if size > max_bytes / 2:
            continue
        if total + size > max_bytes:
            if len(group) > 1:
                yield group
            group, total = {}, 0
        group[file] = size
        total += size
    if len(group) > 1:
        yield group


def merge_shards(sizes: dict[str, int], folder: Folder, schema: pa.Schema, attempt: str) -> None:
    """Merge several shards into one. The old shards stay, so that a retry writes the same file.

    `sizes`: name of each shard -> bytes; all of them are reject shards, or none. `schema`: of accepted rows.
    """
    inside, _, _ = next(iter(sizes)).rpartition("/")
    ids: list[pa.Array] = []

    def read(file: str) -> Iterable[pa.Table]:
        parts = (conformed(part, REJECTS if inside else schema) for part in folder.read_parts(file, None, MERGED_ROWS))
        return parts if sizes[file] > HELD_BYTES else list(parts)

    def sorted_tables() -> Iterator[pa.Table]:
        for table in _together(part for parts in ahead(read, sizes, sizes.__getitem__) for part in parts):
            ids.extend(table.column(0).chunks)
            yield table

    shard = parquet(sorted_tables(), with_content=not inside)
    write_rows(folder, f"{inside}/" if inside else "", pa.chunked_array(ids), shard, attempt)


def _together(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """The tables joined into tables of about MERGED_BYTES, each sorted by id."""
    waiting: list[pa.Table] = []
    size = 0
    for table in tables:
        waiting.append(table)
        size += table.nbytes
        if size > MERGED_BYTES:
            yield pa.concat_tables(waiting).sort_by(table.column_names[0])
            waiting, size = [], 0
    if waiting:
        yield pa.concat_tables(waiting).sort_by(waiting[0].column_names[0])


def merge_batch(batch: dict[str, Any], folder: Folder, schema: pa.Schema, attempt: str) -> dict[str, Any]:
    """`merge_shards` for a batch of groups of shards, each as JSON: name -> bytes."""
    for group in batch["item"]:
        merge_shards(json.loads(group), folder, schema, attempt)
    return batch


def remove_shards(files: list[str], folder: Folder, attempt: str, merged: None = None) -> None:
    """Remove the shards, those that are still there. `merged`: the result of the merge, for which Ray waits.

    Raises StageError where another attempt has begun: it may have made shards of these names again.
    """
    for start in range(0, len(files), REMOVED_AT_ONCE):
        check_attempt(folder, attempt)
        do_all(folder.remove, files[start : start + REMOVED_AT_ONCE])
