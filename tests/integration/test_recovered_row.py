"""A row that failed for a moment and comes back: nothing behind it is made anew until the user asks, and then what was said.

The whole chain with a real training and a real engine; only the teacher is an endpoint of the test, so that it can fail.
"""

import itertools
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ray_distil.store.manifest import Manifest, read_manifest
from ray_distil.store.storage import Folder
from ray_distil.tiny import world
from tests.integration.cluster import PATIENCE
from tests.integration.conftest import ROOT
from tests.unit.endpoint_server import EndpointServer
from tools.tiny import texts

NUM_TRAIN = 110
STAGES = ("responses", "sft_examples", "packed", "checkpoint", "eval/fast/tiny")


@pytest.fixture
def job(tmp_path: Path) -> Callable[..., str]:
    """`jobs/distill.py` on a run in this folder; returns what it printed."""

    def distill(server: EndpointServer, *arguments: str) -> str:
        settings = {"base_url": server.url, "model": "m", "api_key_env": None, "max_retries": 0, "max_concurrency": 16}
        overrides = [
            f"instructions.num_train={NUM_TRAIN}",
            "instructions.num_eval=24",
            "teachers.direct.engine=null",
            f"teachers.direct.endpoint={json.dumps(settings)}",
            "teachers.slow=null",
            "long2short.enabled=false",
            "training.num_train_epochs=1",
            'evaluation.models=[{"name": "fast", "model_source": "student"}]',
            "evaluation.baseline=fast",
            f"run.storage_path={tmp_path}",
            "run.name=recovered",
        ]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        command = [sys.executable, str(ROOT / "jobs" / "distill.py"), *overrides, *arguments]
        made = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=PATIENCE)
        assert made.returncode == 0, made.stdout + made.stderr
        return made.stdout

    return distill


def manifests(folder: Path) -> dict[str, Manifest]:
    found = {name: read_manifest(Folder.at(folder / "recovered" / name)) for name in STAGES}
    return {name: manifest for name, manifest in found.items() if manifest is not None}


def files(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and time of change of the files of all stages."""
    every = [path for name in STAGES for path in (folder / "recovered" / name).rglob("*") if path.is_file()]
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in every}


@pytest.mark.long
def test_what_is_made_of_the_other_rows_stays_until_the_user_asks(job: Callable[..., str], tmp_path: Path) -> None:
    problems = list(itertools.islice(world.training_problems(50_000), NUM_TRAIN))
    answer = {problem.question: texts.short_response(problem) for problem in problems}
    unlucky = problems[7].question

    def question(body: dict[str, Any]) -> str:
        return str(body["messages"][-1]["content"]).removesuffix(world.SUFFIX)

    with EndpointServer() as server:
        server.message_of = lambda body: {"content": answer[question(body)]}
        server.fault_of = lambda body: "500" if question(body) == unlucky else ""
        said = job(server)
        assert "1 rows failed (http_500 1): --retry-failed tries them again" in said
        first = manifests(tmp_path)
        assert first.keys() == set(STAGES)
        assert (first["responses"].rows_out, first["responses"].rejects) == (NUM_TRAIN - 1, {"http_500": 1})

        # The row would succeed now. Nobody has asked for it: nothing is sent, nothing is made.
        server.fault_of = lambda body: ""
        before, num_requests = files(tmp_path), len(server.requests)
        said = job(server)
        assert (files(tmp_path), len(server.requests)) == (before, num_requests)
        (offer,) = re.findall(r"responses: 1 rows failed .* where one succeeds makes anew (.*)", said)

        # Asked for: one request, and what the line said.
        job(server, "--retry-failed")
        assert len(server.requests) == num_requests + 1
        assert question(server.requests[-1][1]) == unlucky
        second = manifests(tmp_path)
        remade = [name for name in STAGES if second[name].fingerprint != first[name].fingerprint or name == "responses"]
        assert remade == list(STAGES)
        for name in STAGES[1:]:
            manifest = first[name]
            assert f"{manifest.stage} ({manifest.rows_out:,} {manifest.unit})" in offer
        assert offer.count("(") == len(STAGES) - 1
        assert (second["responses"].rows_out, second["sft_examples"].rows_out) == (NUM_TRAIN, NUM_TRAIN)
        assert "failed" not in job(server)
