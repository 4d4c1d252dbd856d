"""What is different in a submitted job: where relative run folders lie, and who sets the workers' environment."""

import json
import os
from pathlib import Path

import pytest

from ray_distil import cli
from ray_distil.config import SUBMITTED, load
from ray_distil.session import WORKER_ENV, worker_env


def test_a_relative_run_folder_starts_at_the_home_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    config = load(None, [])
    assert config.run_folder.local == Path.cwd() / "runs" / "tiny"
    monkeypatch.setenv(SUBMITTED, "{}")
    assert config.run_folder.local == Path.home() / "runs" / "tiny"
    assert load(None, ["run.storage_path=/shared"]).run_folder.uri == "/shared/tiny"


def test_what_the_job_sets_itself_is_left_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(SUBMITTED, raising=False)
    assert worker_env() == WORKER_ENV
    name = next(iter(WORKER_ENV))
    monkeypatch.setenv(SUBMITTED, json.dumps({"runtime_env": {"env_vars": {name: "other"}}}))
    assert worker_env() == {key: value for key, value in WORKER_ENV.items() if key != name}


def test_a_stopped_job_ends_as_an_interrupted_one(capsys: pytest.CaptureFixture[str]) -> None:
    def job() -> None:
        os.kill(os.getpid(), 15)  # as `ray job stop` does
        raise AssertionError("the job went on")

    assert cli.guarded(job, lambda: None) == 143
    assert "run the same command again to go on" in capsys.readouterr().err
