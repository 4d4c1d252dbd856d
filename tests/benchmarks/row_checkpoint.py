"""Ray Data's row checkpoint against our shards: a driver is killed at work, and the same command begins again at once.

    python -m tests.benchmarks.row_checkpoint --trials 10

On a cluster that outlives the driver, as after `ray job stop` or a lost head process: tasks of the killed driver can
still write while the new one is at work. For each way: rows lost, rows doubled, rows made again, and the seconds of
the second run, over all trials.
"""

import argparse
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ray_distil.store.artifact import Artifact
from ray_distil.store.schemas import INSTRUCTIONS, stable_id
from ray_distil.store.shards import table_of
from ray_distil.store.storage import Folder
from tests.integration.cluster import LOOPBACK, Cluster, wait_until

NUM_ROWS, BATCH_SIZE, ROW_SECONDS = 480, 8, 0.05
IDS = [stable_id("row", number) for number in range(NUM_ROWS)]


def slow(table: pa.Table, log: str) -> pa.Table:
    """An engine that takes its time, and writes down which rows it has made."""
    time.sleep(ROW_SECONDS * table.num_rows)
    with open(f"{log}/{stable_id(time.time_ns(), random.random())}", "w") as file:
        file.write("\n".join(table["instruction_id"].to_pylist()))
    return table


def rows_of(ids: list[str]) -> pa.Table:
    rows = [{"instruction_id": i, "instruction": i, "source": "s", "split": "train"} for i in ids]
    return table_of(rows, INSTRUCTIONS)


def child(way: str, folder: str) -> None:
    import ray
    import ray.data

    ray.init(log_to_driver=False)
    how = {"batch_size": BATCH_SIZE, "batch_format": "pyarrow", "fn_kwargs": {"log": f"{folder}/log"}}
    if way == "checkpoint":
        from ray.data.checkpoint import CheckpointConfig

        context = ray.data.DataContext.get_current()
        context.checkpoint_config = CheckpointConfig(
            "instruction_id", f"{folder}/ids", delete_checkpoint_on_success=False
        )
        source = ray.data.read_parquet(f"{folder}/in").repartition(target_num_rows_per_block=BATCH_SIZE)
        source.map_batches(slow, **how).write_parquet(f"{folder}/made")
        return
    artifact = Artifact(Folder.at(folder), "made", INSTRUCTIONS, "mark")
    artifact.start()
    done = artifact.done_ids()
    source = ray.data.from_arrow(rows_of([i for i in IDS if i not in done]))
    blocks = source.repartition(target_num_rows_per_block=BATCH_SIZE)
    artifact.write([blocks.map_batches(slow, **how)], "stage")
    artifact.finish("stage", "rows", NUM_ROWS, 0)


def ids_in(folder: Path) -> Counter[str]:
    found: Counter[str] = Counter()
    for file in folder.glob("*.parquet"):
        found.update(pq.ParquetFile(file).read(["instruction_id"])["instruction_id"].to_pylist())
    return found


def trial(cluster: Cluster, way: str, seed: int) -> Counter[str]:
    """Lost, doubled and repeated rows of one killed and one finished run, and its seconds."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = Path(name)
        for part in ("in", "log", "made"):
            (folder / part).mkdir()
        pq.write_table(rows_of(IDS), folder / "in" / "rows.parquet", row_group_size=BATCH_SIZE)
        command = [sys.executable, "-m", __spec__.name, "--child", way, name]
        environment = cluster.environment | {"RAY_ADDRESS": f"{LOOPBACK}:{cluster.port}"}
        quiet = {"env": environment, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        chosen = random.Random(seed)
        number = chosen.randint(3, NUM_ROWS // BATCH_SIZE // 2)
        driver = subprocess.Popen(command, **quiet)
        wait_until(lambda: len(list((folder / "made").glob("*.parquet"))) >= number, "shards are there")
        time.sleep(chosen.random() * 0.4)
        driver.kill()
        driver.wait()
        started = time.monotonic()
        subprocess.run(command, **quiet, check=True)
        seconds = time.monotonic() - started
        time.sleep(3)  # what is still written comes now
        found = ids_in(folder / "made")
        made = Counter(i for file in (folder / "log").iterdir() for i in file.read_text().split("\n"))
        return Counter(
            lost=len(set(IDS) - set(found)),
            doubled=found.total() - len(found),
            again=made.total() - len(made),
            seconds=round(seconds),
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=10)
    parser.add_argument("--child", nargs=2, help="one driver: its way and folder")
    chosen = parser.parse_args()
    if chosen.child:
        child(*chosen.child)
        return
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, Cluster(Path(folder), "--num-cpus=4") as c:
        for way in ("checkpoint", "shards"):
            found = [trial(c, way, seed) for seed in range(chosen.trials)]
            total = sum(found, Counter())
            with_fault = sum(bool(f["lost"] or f["doubled"]) for f in found)
            print(
                f"{way:10}: {chosen.trials} trials of {NUM_ROWS} rows: {total['lost']} lost, {total['doubled']} doubled "
                f"(in {with_fault} trials), {total['again']} made again, {total['seconds'] / chosen.trials:.0f} s to resume",
                flush=True,
            )


if __name__ == "__main__":
    main()
