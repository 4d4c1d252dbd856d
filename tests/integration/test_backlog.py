"""What stands in front of an engine stays a few batches ahead of it, however many rows there are."""

import re
import subprocess
import sys
from pathlib import Path

from tests.integration.cluster import PATIENCE

JOB = """
import sys, time
from pathlib import Path
from ray_distil.runtime.session import start_ray
start_ray(2)
import ray.data

made = Path(sys.argv[1])

def read(batch):
    (made / str(batch["id"][0])).touch()
    return batch

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
