"""One small run of the whole recipe, with real engines and real training, shared by the tests that look at it."""

import fcntl
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from ray_distil.runtime.session import start_ray
from tests.integration.cluster import PATIENCE

ROOT = Path(__file__).resolve().parents[2]
BATCH_SIZE = 32
# Small enough for a minute or two, large enough that gates reject something and the fast student learns to answer.
SMALL = [
    "run.name=small",
    "run.max_shard_mb=null",  # shards stay as they were written, for all to see
    "instructions.num_train=120",
    "instructions.num_eval=24",
    "teachers.slow.fraction=0.25",
    "training.num_train_epochs=10",
    "training.train_micro_batch_size_per_gpu=1",
    f"teachers.direct.engine.batch_size={BATCH_SIZE}",
    f"teachers.slow.engine.batch_size={BATCH_SIZE}",
]


@dataclass
class SmallRun:
    """A folder in which `jobs/distill.py` makes and remakes runs."""

    storage: Path

    @property
    def folder(self) -> Path:
        return self.storage / "small"

    def distill(self, *arguments: str, timeout: float = PATIENCE) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(ROOT / "jobs" / "distill.py"), *arguments]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        return subprocess.run(
            command, cwd=self.storage, capture_output=True, text=True, timeout=timeout, env=environment
        )

    def make(self, *overrides: str) -> subprocess.CompletedProcess[str]:
        result = self.distill(*SMALL, f"run.storage_path={self.storage}", *overrides)
        assert result.returncode == 0, result.stdout + result.stderr
        return result


def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of this test run that all of pytest-xdist's workers have; `.ci/run` names one for all its test runs."""
    if folder := os.environ.get("RAY_DISTIL_TESTS_SHARE"):
        return Path(folder)
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


@pytest.fixture(scope="session")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> SmallRun:
    run = SmallRun(shared_folder(tmp_path_factory) / "shared")
    run.storage.mkdir(exist_ok=True)
    with open(run.storage / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the first worker makes it, the others wait
        if not (run.folder / "report" / "report.json").exists():
            run.make()
    return run


@pytest.fixture(scope="module")
def local_ray() -> Iterator[None]:
    """A Ray of two CPUs in this process, for all tests of a file.

    Started in a thread that ends, as the thread of an evaluation does that begins before the stages beside it.
    """
    import ray

    starting = threading.Thread(target=start_ray, args=(2,))
    starting.start()
    starting.join()
    assert ray.is_initialized()
    yield
    ray.shutdown()
