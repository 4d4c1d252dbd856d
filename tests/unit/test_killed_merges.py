"""A stage whose driver is killed while its shards are merged, again and again, and whose tasks live on for a while.

What a task of the killed driver had still to do happens at a random moment of the next attempt: a shard appears late, as
an upload does that was checked before; or small shards are removed late. In the end each row is there once, the manifest
says what is there, and the stage has needed few starts.
"""

import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from ray_distil.errors import StageError
from ray_distil.store import artifact as artifacts
from ray_distil.store.artifact import Artifact
from ray_distil.store.merging import merge_shards
from ray_distil.store.shards import REJECTS_FOLDER, reject, table_of
from ray_distil.store.storage import Folder

SCHEMA = pa.schema([pa.field("response_id", pa.string()), pa.field("text", pa.string())])
SHARD_BYTES = 2**20
STARTS = 8


class Killed(BaseException):
    """The driver is killed here."""


class World:
    """A stage of a few rows, and the tasks that a killed attempt has left."""

    def __init__(self, run: Folder, late: str, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
        """`late`: what the killed attempt's task does late: "merge", "block", "remove", or "" for nothing."""
        self.run, self.late, self.monkeypatch, self.dice = run, late, monkeypatch, random.Random(seed)
        self.ids = [f"{self.dice.getrandbits(64):016x}" for _ in range(self.dice.randrange(2, 14))]
        self.pending: list[Callable[[], None]] = []
        self.is_killed = False

    def artifact(self) -> Artifact:
        return Artifact(self.run, "responses", SCHEMA, "f" * 16)

    def let_tasks_work(self) -> None:
        """Tasks that were left do some of their work, or not."""
        while self.pending and self.dice.random() < 0.4:
            self.pending.pop(0)()

    def uploads_of(self, work: Callable[[], Any]) -> list[Callable[[], None]]:
        """The writes of `work`, checked now and done later."""
        uploads: list[Callable[[], None]] = []
        write = Folder.write_bytes

        def check_only(folder: Folder, file: str, data: Any, check: Callable[[], None] | None = None) -> None:
            if check is not None:
                check()
            uploads.append(lambda: write(folder, file, data))

        with self.monkeypatch.context() as patched:
            patched.setattr(Folder, "write_bytes", check_only)
            work()
        return uploads

    def rows(self, ids: list[str]) -> pa.Table:
        kinds = [self.dice.random() for _ in ids]
        rows = [{"response_id": row_id, "text": "text"} for row_id in ids]
        rejects = {0: "timeout", 1: "no_answer"}
        return table_of(
            [
                reject(row, rejects[int(kind / 0.15)]) if kind < 0.3 else row
                for row, kind in zip(rows, kinds, strict=True)
            ],
            SCHEMA,
        )

    def merge(self, target: Artifact, own: set[str]) -> None:
        """The tasks of a merge, in the midst of which the first attempts are killed."""
        for inside in ("", f"{REJECTS_FOLDER}/"):
            sizes = {name: size for name, size in target.folder.sizes(suffix=".parquet", recursive=True).items()}
            group = {name: size for name, size in sizes.items() if name in own and name.startswith(f"{inside}part-")}
            if len(group) < 2:
                continue
            is_last = not self.is_killed and self.dice.random() < 0.5
            self.is_killed |= is_last
            if is_last and self.late == "merge":
                self.pending += self.uploads_of(
                    lambda group=group: merge_shards(group, target.folder, target.schema, target.attempt)
                )
                raise Killed
            merge_shards(group, target.folder, target.schema, target.attempt)
            names = list(group)
            kept = self.dice.randrange(len(names)) if is_last else len(names)
            for name in names[:kept]:
                target.folder.remove(name)
            if is_last:
                if self.late == "remove":
                    self.pending += [lambda name=name: target.folder.remove(name) for name in names[kept:]]
                raise Killed

    def attempt(self) -> Any:
        """One start of the stage, until it is finished or killed."""
        target, own = self.artifact(), set[str]()
        target.start()
        self.let_tasks_work()
        target.forget_rejects(lambda reason: reason == "timeout")
        self.let_tasks_work()
        done = target.done_ids()
        missing = [row_id for row_id in self.ids if row_id not in done]
        self.dice.shuffle(missing)
        while missing:
            number = self.dice.randrange(1, 4)
            block, missing = self.rows(missing[:number]), missing[number:]
            if self.late == "block" and not self.is_killed and self.dice.random() < 0.2:
                self.is_killed = True
                self.pending += self.uploads_of(lambda block=block: target.write_table(block, "responses"))
                raise Killed
            before = set(target.folder.files(recursive=True))
            target.write_table(block, "responses")
            own |= set(target.folder.files(recursive=True)) - before
            self.let_tasks_work()
            if self.dice.random() < 0.6:
                self.merge(target, own)

        # In the midst of the end, too.
        real_count, real_merge = artifacts.count_ids, artifacts.merge_all

        def count_then_work(parts: Any) -> Any:
            counted = real_count(parts)
            self.let_tasks_work()
            return counted

        def merge_then_work(*arguments: Any) -> bool:
            self.let_tasks_work()
            merged = real_merge(*arguments)
            self.let_tasks_work()
            return merged

        with self.monkeypatch.context() as patched:
            patched.setattr(artifacts, "count_ids", count_then_work)
            patched.setattr(artifacts, "merge_all", merge_then_work)
            return target.finish("responses", "rows", len(self.ids), 1.0, max_shard_bytes=SHARD_BYTES)


@pytest.mark.parametrize("late", ["", "merge", "block", "remove"])
def test_each_row_is_there_once_whenever_the_driver_was_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, late: str
) -> None:
    monkeypatch.setattr(artifacts, "LISTING_PAUSE_S", 0)
    ends: Counter[str] = Counter()
    for seed in range(60):
        world = World(Folder.at(tmp_path / str(seed)), late, monkeypatch, seed)
        manifest = None
        for _ in range(STARTS):
            try:
                manifest = world.attempt()
                break
            except Killed:
                ends["killed"] += 1
            except StageError:  # rows are missing: the same command makes them
                ends["missing"] += 1
        assert manifest is not None, seed
        while world.pending and late != "remove":  # after the end
            world.pending.pop(0)()

        reader = world.artifact()
        assert reader.is_complete(), seed
        accepted = [row_id for table in reader.tables(["response_id"]) for row_id in table["response_id"].to_pylist()]
        rejected = [row["response_id"] for row in reader.rejected()]
        assert sorted(accepted + rejected) == sorted(world.ids), seed
        assert (manifest.rows_out, manifest.rows_rejected) == (len(accepted), len(rejected)), seed
    assert ends["killed"] > 10
    assert ends["missing"] <= (0 if late != "remove" else 6), ends
