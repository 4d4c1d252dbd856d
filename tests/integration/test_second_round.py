"""A teacher that waits for the other one, on a real Ray whose driver is killed: each row is there once, and none is asked again."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from ray_distil import read_rows
from ray_distil.store.manifest import read_manifest
from ray_distil.store.storage import Folder
from tests.integration.cluster import PATIENCE
from tests.integration.respond import NULL_ENGINE
from tests.integration.respond import __file__ as RESPOND

SETTINGS = [
    "instructions.num_train=240", "teachers.direct.num_samples=4", "teachers.slow.pass_rate=[0, 0.5]", "teachers.slow.fraction=1",
    "teachers.slow.engine.batch_size=4", "teachers.slow.engine.max_concurrent_batches=2", "run.max_shard_mb=null",
]  # fmt: skip


def command(folder: Path, name: str) -> list[str]:
    engine = f"{NULL_ENGINE}0.3,0,{folder / f'{name}.log'}"
    return [sys.executable, RESPOND, engine, f"run.name={name}", *SETTINGS]


def respond(folder: Path, name: str) -> None:
    ended = subprocess.run(
        command(folder, name), cwd=folder, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr


def rows(run: Path, artifact: str) -> dict[str, dict[str, Any]]:
    read = read_rows(str(run), artifact).to_dict("records")
    key = f"{artifact.removesuffix('s')}_id"
    assert len({row[key] for row in read}) == len(read)
    return {row[key]: row for row in read}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("second")
    respond(folder, "whole")
    return folder


def test_a_kill_while_the_second_teacher_answers_changes_nothing(undisturbed: Path) -> None:
    run = undisturbed / "runs" / "killed"
    driver = subprocess.Popen(
        command(undisturbed, "killed"), cwd=undisturbed, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline, before = time.monotonic() + PATIENCE, set[Path]()
    while driver.poll() is None and time.monotonic() < deadline:
        shards = set((run / "responses").glob("part-*.parquet")) - before
        if any(b"</think>" in shard.read_bytes() for shard in shards):
            os.kill(driver.pid, signal.SIGKILL)
            break
        before |= shards
        time.sleep(0.02)
    assert driver.wait() == -signal.SIGKILL, "it was killed while the slow teacher answered"
    assert read_manifest(Folder.at(run / "responses")) is None
    respond(undisturbed, "killed")

    whole, again = undisturbed / "runs" / "whole", run
    assert rows(again, "responses") == rows(whole, "responses")
    assert rows(again, "rewrites") == rows(whole, "rewrites")
    manifests = [read_manifest(Folder.at(place / "responses")) for place in (whole, again)]
    assert manifests[0] is not None
    assert manifests[1] is not None
    assert manifests[0].rejects == manifests[1].rejects
    assert manifests[0].rows_in == manifests[1].rows_in == manifests[1].rows_out + manifests[1].rows_rejected
    assert 4 * 240 < manifests[0].rows_in < 4 * 240 + 200


def test_the_slow_teacher_has_only_what_the_direct_one_does_not_solve(undisturbed: Path) -> None:
    responses = rows(undisturbed / "runs" / "whole", "responses").values()
    right = [row["instruction_id"] for row in responses if row["teacher"] == "direct" and row["verdict"] == "accepted"]
    slow = {row["instruction_id"] for row in responses if row["teacher"] == "slow"}
    assert len(slow) > 20
    assert all(right.count(problem) <= 2 for problem in slow)
