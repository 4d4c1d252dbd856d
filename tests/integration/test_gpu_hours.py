"""GPU-hours of a run: what this job's actors and placement groups hold, on a Ray with pretended GPUs."""

import subprocess
import sys

from tests.integration.cluster import PATIENCE

JOB = """
import time
import ray
from ray.util.placement_group import placement_group, remove_placement_group
from ray_distil.runtime import gpu_hours, metrics
from ray_distil.runtime.gpu_hours import gpus_held

ray.init(num_cpus=2, num_gpus=7, log_to_driver=False, include_dashboard=False)
assert gpus_held() == 0

class Engine:
    def ready(self):
        return True

def start(**options):
    engine = ray.remote(Engine).options(num_cpus=0, num_gpus=2, **options).remote()
    ray.get(engine.ready.remote())
    return engine

def until(number):
    while gpus_held() != number:
        time.sleep(0.05)

alone = start()
assert gpus_held() == 2
group = placement_group([{"CPU": 0.5, "GPU": 2}, {"GPU": 1}])
ray.get(group.ready())
inside = start(placement_group=group)
assert gpus_held() == 5, "an actor in a placement group holds GPUs of the group"
never = placement_group([{"GPU": 6}])  # waits: costs nothing
time.sleep(0.5)
assert gpus_held() == 5

# five GPUs, two seconds, 3 dollars an hour
counts = {}
metrics.count = lambda name, number, **tags: counts.setdefault((name, tags["run"]), []).append(number)
gpu_hours.PERIOD_S = 0.1
look, looks = gpu_hours.gpus_held, []

def held_after_a_flicker():
    looks.append(1)
    if len(looks) < 5:
        raise RuntimeError("the head does not answer")
    return look()

gpu_hours.gpus_held = held_after_a_flicker
began = time.monotonic()
with gpu_hours.counted("small", 3.0):
    time.sleep(2)
most = 5 * (time.monotonic() - began)
seconds = sum(counts["distil_gpu_hours", "small"]) * 3600
assert most / 2 < seconds <= most, (seconds, most)
assert abs(sum(counts["distil_gpu_usd", "small"]) - 3 * seconds / 3600) < 1e-9

ray.kill(alone)
until(3)
remove_placement_group(never)
remove_placement_group(group)
until(0)
ray.shutdown()
"""


def test_gpus_that_engines_and_workers_hold_are_counted() -> None:
    done = subprocess.run([sys.executable, "-c", JOB], capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stderr
