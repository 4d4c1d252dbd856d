"""Workers that are killed while they merge shards: Ray does their work again, and nothing is lost or doubled."""

import itertools
import os
import signal
import threading
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pyarrow as pa
import pytest

from ray_distil.store import merging, schemas
from ray_distil.store.artifact import Artifact
from ray_distil.store.shards import reject, table_of
from ray_distil.store.storage import Folder

NUM_SHARDS = 600
NUM_KILLS = 3
SMALL_FILES = 20


def kill_workers(killed: dict[str, list[int]], over: threading.Event) -> None:
    """SIGKILL to this process's Ray workers that do a task in `killed`, up to NUM_KILLS of each."""
    workers: list[int] = []
    for look in itertools.count():
        if over.is_set():
            return
        if look % 20 == 0:  # to look for new processes takes long
            workers = [process.pid for process in psutil.Process().children(recursive=True)]
        for pid in workers:
            command = command_of(pid)
            for task, pids in killed.items():
                if task in command and pid not in pids and len(pids) < NUM_KILLS:
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                        pids.append(pid)
                        time.sleep(0.3)
        time.sleep(0.005)


def command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    except OSError:  # it ended
        return ""


@pytest.mark.usefixtures("local_ray")
def test_workers_that_are_lost_while_shards_are_merged(tmp_path: Path) -> None:
    target = Artifact(Folder.at(tmp_path), "instructions", schemas.INSTRUCTIONS, "made of this")
    target.start()
    rows = [
        {"instruction_id": f"{number:016x}", "instruction": f"do {number}", "source": "test", "split": "train"}
        for number in range(NUM_SHARDS)
    ]
    for row in rows:
        target.write_table(table_of([row], schemas.INSTRUCTIONS), "instructions")
    most = 20 * max(target.folder.sizes("part-").values())

    killed: dict[str, list[int]] = {"merge_batch": []}
    over = threading.Event()
    killer = threading.Thread(target=kill_workers, args=(killed, over))
    killer.start()
    try:
        manifest = target.finish("instructions", "rows", NUM_SHARDS, 1.0, max_shard_bytes=most)
    finally:
        over.set()
        killer.join()
    assert all(killed.values()), killed
    assert manifest.rows_out == NUM_SHARDS
    assert manifest.files == target.folder.files("part-", ".parquet")
    assert len(manifest.files) < NUM_SHARDS / 10
    assert target.read_table()["instruction_id"].to_pylist() == [row["instruction_id"] for row in rows]


@pytest.mark.usefixtures("local_ray")
def test_workers_that_are_lost_while_a_stage_works_and_its_shards_are_merged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each block is a row, every third one is rejected. Before the stage is finished, few files are left."""
    import ray.data

    monkeypatch.setattr(merging, "SMALL_FILES", SMALL_FILES)
    target = Artifact(Folder.at(tmp_path), "instructions", schemas.INSTRUCTIONS, "made of this")
    target.start()

    def rows(batch: dict[str, list[int]]) -> pa.Table:
        (number,) = batch["id"]
        row = {"instruction_id": f"{number:016x}", "instruction": f"do {number}", "source": "test", "split": "train"}
        return table_of([row if number % 3 else reject(row, "empty")], schemas.INSTRUCTIONS)

    blocks = ray.data.range(NUM_SHARDS, override_num_blocks=NUM_SHARDS).map_batches(rows, batch_size=None)
    killed: dict[str, list[int]] = {"merge_shards": [], "remove_shards": []}
    over = threading.Event()
    killer = threading.Thread(target=kill_workers, args=(killed, over))
    killer.start()
    try:
        counts = list(target.written([blocks], "instructions", max_shard_bytes=2**20))
    finally:
        over.set()
        killer.join()
    assert all(killed.values()), killed
    assert sum(shard["rows_out"] + shard["rows_rejected"] for shard in counts) == NUM_SHARDS
    assert len(target.folder.files(suffix=".parquet", recursive=True)) <= NUM_SHARDS / SMALL_FILES + 2 * SMALL_FILES
    assert len(target.done_ids()) == NUM_SHARDS
    manifest = target.finish("instructions", "rows", NUM_SHARDS, 1.0, max_shard_bytes=2**20)
    assert (manifest.rows_out, manifest.rejects) == (NUM_SHARDS * 2 // 3, {"empty": NUM_SHARDS // 3})
    assert manifest.summary == {}
    assert len(manifest.files) == 2
