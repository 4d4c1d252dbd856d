"""A stage that waits for what is not there says what it asks for and what there is."""

import re
import subprocess
import sys

from tests.integration.cluster import PATIENCE

JOB = """
import time
import ray
from ray_distil.runner import waiting
from ray_distil.runtime.session import start_ray

waiting.EACH_SECONDS = 0.5
start_ray(2)
assert waiting.unmet() == ""
started = time.monotonic()
said = []
with waiting.announced("checkpoint", lambda: time.monotonic() - started, said.append):
    never = ray.remote(num_cpus=8, num_gpus=1)(int).remote()
    group = ray.util.placement_group([{"CPU": 4}] * 3)
    while not any("GPU: 1" in line and "CPU: 4" in line for line in said):
        time.sleep(0.2)
print(said[-1])
ray.shutdown()
"""


def test_what_is_waited_for_is_said() -> None:
    made = subprocess.run([sys.executable, "-c", JOB], capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert made.returncode == 0, made.stderr
    said = made.stdout.splitlines()[-1]
    assert re.fullmatch(r"checkpoint: waits for .*; this Ray has CPU 2, GPU 0", said)
    assert "1 x {CPU: 8, GPU: 1}" in said
    assert "3 x {CPU: 4}" in said
