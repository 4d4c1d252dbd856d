"""What stands in front of an engine stays a few batches ahead of it, each engine has its share of the batches, and what
comes out of an engine is saved at once.
"""

import json
import math
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq

from tests.integration.cluster import PATIENCE
from tests.integration.respond import NULL_ENGINE
from tests.integration.respond import __file__ as RESPOND
from tests.null_engine import answered

JOB = """
import sys, time
from pathlib import Path
from ray_distil.runtime.session import start_ray
start_ray(2)
import ray.data

made = Path(sys.argv[1])

def read(batch):
    (made / str(batch["id"][0])).touch()
    return batch | {"prompt": ["words " * 200] * len(batch["id"])}

class Slow:
    def __call__(self, batch):
        time.sleep(0.25)
        return batch

rows = ray.data.range(20_000, override_num_blocks=50).map_batches(read, batch_size=None)
blocks = rows.repartition(target_num_rows_per_block=50)
answers = blocks.map_batches(Slow, batch_size=50, compute=ray.data.ActorPoolStrategy(size=1))
for number, _ in enumerate(answers.iter_batches(batch_size=50, prefetch_batches=0), 1):
    if number == 80:
        print("READ", len(list(made.iterdir())), flush=True)
        break
"""


def test_reading_waits_for_a_slow_engine(tmp_path: Path) -> None:
    """A fifth of the rows is answered, 20 seconds after the first: without a limit half are read by then."""
    command = [sys.executable, "-c", JOB, str(tmp_path)]
    told = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert told.returncode == 0, told.stderr
    (number,) = re.findall(r"^READ (\d+)$", told.stdout, re.MULTILINE)  # Ray has words of its own there
    assert 10 <= int(number) <= 16, told.stdout


NUM_ENGINES, BATCHES_AT_ONCE, BATCH_SIZE, NUM_ROWS = 3, 8, 8, 720
SECONDS = 12  # that an engine takes for a batch: 2 batches are answered in a second
SLOW_ENGINES = [
    "run.name=uneven",
    "run.max_shard_mb=null",  # shards stay as they were written, with the times at which they were
    "ray.num_cpus=4",
    "instructions.path=problems.jsonl",
    "teachers.slow=null",
    "long2short.enabled=false",
    f"teachers.direct.engine.concurrency={NUM_ENGINES}",
    f"teachers.direct.engine.max_concurrent_batches={BATCHES_AT_ONCE}",
    f"teachers.direct.engine.batch_size={BATCH_SIZE}",
    "teachers.direct.engine.num_cpus=0.1",
]


def respond(folder: Path, *arguments: str) -> None:
    command = [sys.executable, RESPOND, *arguments]
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=PATIENCE)
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_answers_of_slow_and_uneven_engines_are_saved_at_once(tmp_path: Path) -> None:
    """Some are rejected, some are cut, and few blocks have as many bytes as the next one."""
    # Without reference answers: nothing but the engines takes time.
    problems = [json.dumps({"instruction": f"How many are {k} and 4?"}) for k in range(NUM_ROWS)]
    (tmp_path / "problems.jsonl").write_text("\n".join(problems))
    log = tmp_path / "answered"
    respond(tmp_path, f"{NULL_ENGINE}{SECONDS},0,{log}", *SLOW_ENGINES)

    # Time and number of rows of each shard, accepted or rejected.
    shards = list((tmp_path / "runs" / "uneven" / "responses").rglob("part-*.parquet"))
    saved = [(shard.stat().st_mtime, pq.ParquetFile(shard).metadata.num_rows) for shard in shards]
    batches = [(at, number) for at, number, _ in answered(log)]

    def until(time: float, rows: list[tuple[float, int]]) -> int:
        return sum(number for at, number in rows if at <= time)

    assert until(math.inf, saved) == until(math.inf, batches) >= 0.9 * NUM_ROWS  # the others are held out
    unsaved = [until(time, batches) - until(time, saved) for time, _ in batches]
    assert max(unsaved) <= 2 * NUM_ENGINES * BATCHES_AT_ONCE * BATCH_SIZE, unsaved


def answer_by_engine(folder: Path, engine: str, *arguments: str) -> Counter[int]:
    """A run of the direct teacher alone; how many rows each engine has answered. engine: see NullEngine."""
    log = folder / "answered"
    alone = ["ray.num_cpus=4", "teachers.slow=null", "long2short.enabled=false", "teachers.direct.engine.num_cpus=0.1"]
    respond(folder, f"{NULL_ENGINE}{engine},{log}", *alone, *arguments)
    rows = Counter[int]()
    for _, num_rows, number in answered(log):
        rows[number] += num_rows
    return rows


def test_engines_share_few_rows_though_one_of_them_is_ready_first(tmp_path: Path) -> None:
    """They are ready after 2, 4, 6 and 8 seconds, and take 2 to 14 for a batch. All rows are less than one batch."""
    four = ["teachers.direct.engine.concurrency=4", "teachers.direct.engine.batch_size=128"]
    rows = answer_by_engine(tmp_path, "8,2", "instructions.num_train=64", *four)
    assert rows.total() == 64
    assert max(rows.values()) <= 32, rows


def test_a_pool_grows_while_its_engines_are_full(tmp_path: Path) -> None:
    """One engine would take 30 seconds for the 64 batches."""
    growing = [
        "teachers.direct.engine.concurrency=[1,3]",
        "teachers.direct.engine.batch_size=4",
        "teachers.direct.engine.max_concurrent_batches=4",
    ]
    rows = answer_by_engine(tmp_path, "2,0", "instructions.num_train=256", *growing)
    assert rows.total() == 256
    assert len(rows) > 1, "how far it grows depends on how fast an engine starts"
