"""The whole recipe in an object store, its driver killed while the teacher is at work: nothing is lost or made twice."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from ray_distil.manifest import read_manifest
from ray_distil.storage import Folder
from tests.integration.cluster import wait_until
from tests.integration.conftest import ROOT
from tests.integration.respond import __file__ as RESPOND
from tests.object_store import CREDENTIALS, ObjectStore

NUM_TRAIN = 48
ARGUMENTS = [
    "run.name=stored",
    "run.max_shard_mb=null",  # shards stay as they were written, for all to see
    f"instructions.num_train={NUM_TRAIN}",
    "instructions.num_eval=4",
    "teachers.direct=null",
    "teachers.slow.fraction=1.0",
    "teachers.slow.engine.batch_size=4",
    "teachers.slow.engine.engine_kwargs.max_num_seqs=4",
    "training.num_train_epochs=1",
    "training.num_workers=1",
    "evaluation.models=[{name: fast, model_source: student}]",
    "evaluation.baseline=fast",
]
COLUMNS = ["response_id", "response", "finish_reason", "num_generated_tokens"]


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectStore]:
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    with ObjectStore(tmp_path / "log") as made:
        yield made


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    command = [sys.executable, str(ROOT / "jobs" / "distill.py"), *arguments]
    return subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def rows(folder: Folder) -> pd.DataFrame:
    tables = [folder.read_table(file, COLUMNS).to_pandas() for file in folder.files("part-", ".parquet")]
    return pd.concat(tables).sort_values("response_id", ignore_index=True)


def test_a_killed_run_goes_on_in_the_store(store: ObjectStore, tmp_path: Path) -> None:
    arguments = [*ARGUMENTS, f"run.storage_path={store.uri('runs')}"]
    run = Folder.at(store.uri("runs")) / "stored"
    responses = run / "responses"
    driver = start(tmp_path, *arguments)
    wait_until(lambda: len(responses.files("part-")) >= 4 or driver.poll() is not None, "four shards are stored")
    driver.kill()
    driver.wait()
    saved = {file: responses.read_bytes(file) for file in responses.files("part-", ".parquet")}
    assert saved
    assert read_manifest(responses) is None

    again = start(tmp_path, *arguments)
    output, _ = again.communicate(timeout=400)
    assert again.returncode == 0, output
    manifest = read_manifest(responses)
    assert manifest is not None
    assert manifest.rows_in == manifest.rows_out + manifest.rows_rejected == NUM_TRAIN
    assert {file: responses.read_bytes(file) for file in saved} == saved
    made = rows(responses)
    assert made.response_id.is_unique
    for name in ("checkpoint/student/model.safetensors", "report/report.html", "config.yaml"):
        assert run.exists(name), name

    # The same on a disk, undisturbed; what is generated is equal to the letter.
    local = subprocess.Popen(
        [sys.executable, RESPOND, *ARGUMENTS, "long2short.enabled=false", f"run.storage_path={tmp_path}"], cwd=tmp_path
    )
    assert local.wait(timeout=400) == 0
    pd.testing.assert_frame_equal(made, rows(Folder.at(tmp_path / "stored" / "responses")))

    # Everything is there: no Ray is started, nothing is made.
    third = start(tmp_path, *arguments)
    output, _ = third.communicate(timeout=60)
    assert third.returncode == 0, output
    assert "messages of engines and workers" not in output
    assert output.count("complete:") == 7, output
