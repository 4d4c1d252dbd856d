"""One small run of the whole recipe, with real engines and real training, shared by the tests that look at it."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BATCH_SIZE = 32
# Small enough for a minute or two, large enough that gates reject something.
SMALL = [
    "run.name=small",
    "run.max_shard_mb=null",  # shards stay as they were written, for all to see
    "instructions.num_train=120",
    "instructions.num_eval=12",
    "training.num_train_epochs=1",
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

    def distill(self, *arguments: str, timeout: float = 600) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(ROOT / "jobs" / "distill.py"), *arguments]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        return subprocess.run(
            command, cwd=self.storage, capture_output=True, text=True, timeout=timeout, env=environment
        )

    def make(self, *overrides: str) -> subprocess.CompletedProcess[str]:
        result = self.distill(*SMALL, f"run.storage_path={self.storage}", *overrides)
        assert result.returncode == 0, result.stdout + result.stderr
        return result


@pytest.fixture(scope="session")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> SmallRun:
    run = SmallRun(tmp_path_factory.mktemp("runs"))
    run.make()
    return run
