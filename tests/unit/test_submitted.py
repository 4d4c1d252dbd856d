"""What is different in a submitted job: where relative run folders lie, and who sets the workers' environment."""

import json
from pathlib import Path
from typing import Any

import pytest

from ray_distil.config import load
from ray_distil.runtime.session import SUBMITTED, WORKER_ENV, start_ray, worker_env


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


@pytest.mark.parametrize("address", [None, "10.0.0.1:6379"])
def test_only_a_cluster_that_is_named_is_joined(monkeypatch: pytest.MonkeyPatch, address: str | None) -> None:
    """Ray by itself joins what `ray start` left on the machine."""
    asked: dict[str, Any] = {}

    def init(**options: Any) -> None:
        asked.update(options)
        raise ConnectionError

    monkeypatch.setattr("ray.init", init)
    monkeypatch.delenv(SUBMITTED, raising=False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if address is not None:
        monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(ConnectionError):
        start_ray(2)
    assert (asked["address"], asked["num_cpus"]) == (("local", 2) if address is None else (None, None))
