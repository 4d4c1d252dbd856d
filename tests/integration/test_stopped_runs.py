"""Runs that are stopped: what was saved stays, and what was not is made, by one teacher after the other.

Other configurations are in `test_reuse.py`.
"""

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from ray_distil.store.manifest import read_manifest
from ray_distil.store.storage import Folder
from tests.integration.cluster import PATIENCE

NUM_TRAIN = 96
RESPOND = Path(__file__).parent / "respond.py"
# Batches so small that many are saved before the end, by engines that take their time for each of them.
SLOWLY = [
    "run.name=stopped",
    "run.max_shard_mb=null",  # shards stay as they were written, for all to see
    f"instructions.num_train={NUM_TRAIN}",
    "run.parallel_engines=false",
    "long2short.enabled=false",
    *(
        f"teachers.{name}.engine.{setting}"
        for name in ("direct", "slow")
        for setting in ("batch_size=8", "max_concurrent_batches=2")
    ),
]


class Job:
    """A run of respond.py in a folder; all processes that come of it carry a mark in their environment."""

    def __init__(self, folder: Path, start: int = 0) -> None:
        """`start`: seconds until an engine is ready."""
        self.mark = f"RAY_DISTIL_TEST={uuid.uuid4().hex}"
        name, _, value = self.mark.partition("=")
        environment = {key: v for key, v in os.environ.items() if not key.startswith("RAY_")} | {name: value}
        self.responses = folder / "runs" / "stopped" / "responses"
        self.process = subprocess.Popen(
            [sys.executable, str(RESPOND), f"--null-engine=0.6,{start}", *SLOWLY],
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            # A shell that puts the tests into the background has them, and what they start, ignore Ctrl-C.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    def wait_for_shards(self, number: int) -> None:
        self._wait(lambda: len(list(self.responses.glob("part-*.parquet"))) >= number)

    def wait_for_process(self, named: str) -> None:
        self._wait(lambda: any(named in command for command in self._alive()))

    def _wait(self, happened: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 240
        while not happened():
            assert self.process.poll() is None, self.process.communicate()[0]
            assert time.monotonic() < deadline, "it did not happen in four minutes"
            time.sleep(0.05)

    def stop(self, how: signal.Signals) -> tuple[int, str]:
        self.process.send_signal(how)
        output, _ = self.process.communicate(timeout=60)
        return self.process.returncode, output

    def finish(self) -> None:
        output, _ = self.process.communicate(timeout=PATIENCE)
        assert self.process.returncode == 0, output

    def left(self, seconds: float) -> list[str]:
        """Commands of the job's processes that are still there after `seconds`."""
        deadline = time.monotonic() + seconds
        while (found := self._alive()) and time.monotonic() < deadline:
            time.sleep(0.2)
        return found

    def _alive(self) -> list[str]:
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                if self.mark.encode() in (process / "environ").read_bytes():
                    found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
            except OSError:  # it ended, or is another user's
                continue
        return [command for command in found if command]


def shards(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.glob("part-*.parquet")}


def test_what_is_saved_stays_and_the_same_command_makes_the_rest(tmp_path: Path) -> None:
    # Ctrl-C while the engine starts: a message, the exit code of an interrupted program, and nothing that lives on.
    interrupted = Job(tmp_path, start=3)
    interrupted.wait_for_process("NullEngine")
    code, output = interrupted.stop(signal.SIGINT)
    assert code == 130
    assert "run the same command again to go on" in output.splitlines()[-1]
    assert interrupted.left(30) == []
    assert shards(interrupted.responses) == {}

    # SIGKILL, when a part is saved.
    killed = Job(tmp_path)
    killed.wait_for_shards(3)
    code, _ = killed.stop(signal.SIGKILL)
    assert code == -signal.SIGKILL
    saved = shards(killed.responses)
    assert len(saved) >= 3
    assert read_manifest(Folder.at(killed.responses)) is None

    # The same command again finishes, with every saved shard as it was.
    Job(tmp_path).finish()
    folder = killed.responses
    made = shards(folder)
    assert saved.items() <= made.items()
    manifest = read_manifest(Folder.at(folder))
    assert manifest is not None
    assert manifest.rows_in == manifest.rows_out + manifest.rows_rejected > NUM_TRAIN
    assert manifest.rows_rejected > 0
    ids = [*pd.read_parquet(folder).response_id, *pd.read_parquet(folder / "_rejects").id]
    assert len(set(ids)) == len(ids) == manifest.rows_in

    # One engine at a time: the second teacher's begins when the first one's rows are all there.
    written: dict[str, list[int]] = {"direct": [], "slow": []}
    for file in folder.glob("part-*.parquet"):
        (teacher,) = set(pd.read_parquet(file).teacher)
        written[teacher].append(file.stat().st_mtime_ns)
    assert max(written["direct"]) < min(written["slow"])
