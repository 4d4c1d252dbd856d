"""A run on an object store that is far away, and for half a minute answers nothing but "503 SlowDown"."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ray_distil.store.manifest import read_manifest
from ray_distil.store.storage import Folder
from tests.integration.cluster import PATIENCE
from tests.integration.respond import NULL_ENGINE
from tests.integration.respond import __file__ as RESPOND
from tests.null_engine import answered
from tests.object_store import CREDENTIALS
from tests.slow_store import SlowStore

pytestmark = pytest.mark.long
NUM_ROWS, BUSY_S = 360, 30


def test_half_a_minute_of_503_starts_no_engine_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    problems = [json.dumps({"instruction": f"How many are {k} and 4?"}) for k in range(NUM_ROWS)]
    (tmp_path / "problems.jsonl").write_text("\n".join(problems))
    log = tmp_path / "answered"
    with SlowStore() as store:
        store.set(latency=0.02)
        run = Folder.at(store.uri("runs")) / "far"
        arguments = [
            f"{NULL_ENGINE}4,0,{log}",
            f"run.storage_path={store.uri('runs')}",
            "run.name=far",
            "instructions.path=problems.jsonl",
            "teachers.slow=null",
            "long2short.enabled=false",
            "teachers.direct.engine.concurrency=2",
            "teachers.direct.engine.batch_size=4",
            "teachers.direct.engine.max_concurrent_batches=4",
            "teachers.direct.engine.num_cpus=0.1",
        ]
        with open(tmp_path / "output", "wb") as output:
            job = subprocess.Popen(
                [sys.executable, RESPOND, *arguments], cwd=tmp_path, stdout=output, stderr=output, env=os.environ.copy()
            )
        deadline = time.monotonic() + PATIENCE
        while not log.exists() or len(answered(log)) < 20:
            assert job.poll() is None, (tmp_path / "output").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.5)
        store.set(busy_s=BUSY_S)
        assert job.wait(PATIENCE) == 0, (tmp_path / "output").read_text()
        manifest = read_manifest(run / "responses")
        assert manifest is not None
        batches = answered(log)
        assert manifest.rows_in == manifest.rows_out + manifest.rows_rejected == sum(rows for _, rows, _ in batches)
        assert batches[-1][0] - batches[0][0] > BUSY_S
        assert {engine for _, _, engine in batches} == {1, 2}
        assert "begins again" not in (tmp_path / "output").read_text()
