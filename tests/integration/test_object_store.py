"""The whole recipe in an object store, on a real S3 server, with nothing of the run on the disk."""

import subprocess
from pathlib import Path

import pytest

from ray_distil.manifest import read_manifest
from ray_distil.storage import Folder
from tests.integration.conftest import SmallRun
from tests.object_store import CREDENTIALS, ObjectStore

ARGUMENTS = [
    "run.name=stored",
    "instructions.num_train=40",
    "instructions.num_eval=4",
    "teachers.direct=null",
    "teachers.slow.fraction=1.0",
    "training.num_train_epochs=1",
    "training.num_workers=1",
    "evaluation.models=[{name: fast, model_source: student}]",
    "evaluation.baseline=fast",
]
STAGES = ["instructions", "responses", "rewrites", "sft_examples", "packed", "checkpoint", "eval/fast"]


def test_a_run_lives_in_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    with ObjectStore(tmp_path / "log") as store:
        arguments = [*ARGUMENTS, f"run.storage_path={store.uri('runs')}"]
        run, here = Folder.at(store.uri("runs")) / "stored", SmallRun(tmp_path)

        def distill(*arguments: str) -> subprocess.CompletedProcess[str]:
            result = here.distill(*arguments)
            assert result.returncode == 0, result.stdout + result.stderr
            return result

        distill(*arguments)
        for stage in STAGES:
            manifest = read_manifest(run / stage)
            assert manifest is not None, stage
            assert manifest.rows_in == manifest.rows_out + manifest.rows_rejected > 0
        for name in ("checkpoint/student/model.safetensors", "report/report.html", "config.yaml"):
            assert run.exists(name), name
        assert sorted(path.name for path in tmp_path.iterdir()) == ["log"]

        again = distill(*arguments)
        assert again.stdout.count("complete:") == len(STAGES)
        assert "messages of engines and workers" not in again.stdout  # no Ray was started
        assert "evaluation/fast" in distill("--status", str(run)).stdout
