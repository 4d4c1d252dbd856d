"""One small run of the whole recipe, with real engines and real training, shared by the tests that look at it."""

import fcntl
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

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
# The first makes the small run; files that need it come later. Then the longest first, so that workers end together.
LONGEST = [
    "test_chain",
    "test_poison",
    "test_vllm_reference",
    "test_cluster_run",
    "test_published_commands",
    "test_chaos",
    "test_engine_sizes",
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def place(item: pytest.Item) -> int:
        name = item.path.stem
        return LONGEST.index(name) if name in LONGEST else len(LONGEST)

    items.sort(key=place)


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
    """A folder of this test run that all of pytest-xdist's workers have."""
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
