"""A teacher by endpoint, on a real Ray, whose server fails in all its ways: each row ends right or with its reason.

The run lies in a bucket. Its key stands in the URI, the endpoint's in the environment; neither is found in any file.
"""

import itertools
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from ray_distil.store.manifest import Manifest, read_manifest
from ray_distil.store.storage import Folder
from tests.integration.cluster import PATIENCE, wait_until
from tests.integration.respond import __file__ as RESPOND
from tests.object_store import BUCKET, ObjectStore
from tests.unit.endpoint_server import EndpointServer

KEY = "sk-never-to-be-written"
STORE_KEY, STORE_SECRET = "AKIANEVERWRITTEN", "a-secret-never-written"
NUM_TRAIN = 60
AWAY_S = 120
FAULTS = {
    "http_400": ["400"] * 2,
    "http_429": ["429"],
    "http_500": ["500"] * 2,
    "timeout": ["hang"],
    "bad_reply": ["cut", "told", "json", "empty"],
}
NEVER_PASS = {"http_400"}  # whoever asks how often


def respond(folder: Path, storage: str, server: EndpointServer, *overrides: str) -> tuple[Manifest, str]:
    """A run of the direct teacher in a process whose folder is `folder`; its manifest, and what it printed."""
    settings = {"base_url": server.url, "model": "m", "api_key_env": "A_KEY", "stream": True, "timeout_s": 2}
    arguments = [
        f"instructions.num_train={NUM_TRAIN}",
        "teachers.direct.engine=null",
        f"teachers.direct.endpoint={json.dumps(settings)}",
        "teachers.slow=null",
        "long2short.enabled=false",
        f"run.storage_path={storage}",
        "run.name=faults",
        *overrides,
    ]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    made = subprocess.run(
        [sys.executable, RESPOND, *arguments],
        cwd=folder,
        env=kept | {"A_KEY": KEY},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert made.returncode == 0, made.stdout + made.stderr
    manifest = read_manifest(Folder.at(storage) / "faults" / "responses")
    assert manifest is not None
    assert manifest.rows_in == manifest.rows_out + manifest.rows_rejected > 0
    return manifest, made.stdout + made.stderr


def responses(storage: str, rejects: str = "") -> pd.DataFrame:
    """The rows of the responses, or of their rejects."""
    folder = Folder.at(storage) / "faults" / "responses"
    names = folder.files(f"{rejects}part-", ".parquet", recursive=True)
    return pd.concat([folder.read_table(name).to_pandas() for name in names])


def details(storage: str, reason: str) -> set[str]:
    """What is said of the rows that were rejected for this reason."""
    rejects = responses(storage, "_rejects/")
    return set(rejects[rejects.reason == reason].detail)


def files_below(folder: str | Path) -> list[str]:
    return [str(file) for file in Path(folder).rglob("*") if file.is_file()]


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ObjectStore, str]]:
    """A store, and the URI of a folder in it with the store's key."""
    with ObjectStore(tmp_path_factory.mktemp("s3") / "log") as store:
        plain = store.uri("runs")
        yield store, plain.replace(f"{BUCKET}/", f"{STORE_KEY}:{STORE_SECRET}@{BUCKET}/", 1)


def test_rows_end_right_or_rejected_and_no_key_is_in_a_file(bucket: tuple[ObjectStore, str], tmp_path: Path) -> None:
    storage = bucket[1]
    passing = [fault for reason, some in FAULTS.items() if reason not in NEVER_PASS for fault in some]
    with EndpointServer(*itertools.chain(*FAULTS.values())) as server:
        server.fault_of = lambda body: "error in 200" if body["seed"] % 10 == 0 else ""
        manifest, said = respond(tmp_path, storage, server, "teachers.direct.endpoint.max_retries=0")
        assert manifest.rows_in == NUM_TRAIN
        broken = [body for _, body in server.requests if body["seed"] % 10 == 0]
        seeds = {body["seed"] for body in broken}
        assert len(broken) == 2 * len(seeds) > 0

        # A row with a transient error is tried once more before the stage is whole; what is left is said.
        assert manifest.rejects == {"bad_reply": len(seeds), "http_400": 2}
        num_again = len(seeds) + len(passing)
        assert len(server.requests) == NUM_TRAIN + num_again
        assert f"{num_again} rows failed (" in said
        assert (
            f"{len(seeds)} rows failed (bad_reply {len(seeds)}: upstream failed): --retry-failed tries them again"
            in said
        )
        assert details(storage, "bad_reply") == {"upstream failed"}  # the server's own words

        assert {headers["Authorization"] for headers, _ in server.requests} == {f"Bearer {KEY}"}
        logs = re.findall(r"messages of engines and workers: (\S+)", said)
        assert logs
        files = {file: Path(file).read_bytes() for folder in (*logs, tmp_path) for file in files_below(folder)}
        run = Folder.at(storage)
        files |= {name: run.read_bytes(name) for name in run.files(recursive=True)}
        assert "faults/responses/_manifest.json" in files
        for key in (KEY, STORE_KEY, STORE_SECRET):
            assert key not in said
            assert [file for file, data in files.items() if key.encode() in data] == []

        # The same command asks for rows with transient errors, and for nothing else; with further tries the faults that pass
        # cost no row.
        server.fault_of = lambda body: ""
        server.requests.clear()
        server.faults.extend(passing)
        manifest, _ = respond(tmp_path, storage, server)
        assert manifest.rejects == {"http_400": 2}
        assert {body["seed"] for _, body in server.requests} == seeds
        assert len(server.requests) == len(seeds) + len(passing)

        # Whole, it asks for nothing.
        server.requests.clear()
        respond(tmp_path, storage, server)
        assert not server.requests
    made = responses(storage)
    assert set(made.response) == {"It is 5."}
    assert set(made.num_prompt_tokens) == {3}
    assert set(made.num_generated_tokens) == {5}


@pytest.mark.long
def test_an_endpoint_that_is_away_for_minutes_costs_no_row(tmp_path: Path) -> None:
    """And one row in fifty gets a 200 that is no reply, each time it is asked."""
    num_rows, storage = 400, str(tmp_path)

    def slow_and_malformed(body: dict[str, Any]) -> str:
        time.sleep(0.3)
        return "json" if body["seed"] % 50 == 0 else ""

    with EndpointServer() as server:
        server.fault_of = slow_and_malformed

        def leave() -> None:
            wait_until(lambda: len(server.requests) > num_rows // 2, "half of the rows are asked", pause=0.05)
            server.away(AWAY_S)

        leaving = threading.Thread(target=leave, daemon=True)
        leaving.start()
        overrides = [f"instructions.num_train={num_rows}", "teachers.direct.endpoint.max_concurrency=16"]
        manifest, _ = respond(tmp_path, storage, server, *overrides)
        assert server.server.turned_away > 0
        assert server.times[-1] > server.server.away_until > 0
        malformed = {body["seed"] for _, body in server.requests if body["seed"] % 50 == 0}
        assert malformed
        assert manifest.rows_in == num_rows
        assert manifest.rejects == {"bad_reply": len(malformed)}
        assert details(storage, "bad_reply") == {"not JSON: {not json"}
        assert set(responses(storage).response) == {"It is 5."}

        server.fault_of = lambda body: ""
        server.requests.clear()
        manifest, _ = respond(tmp_path, storage, server, *overrides)
        assert manifest.rejects == {}
        assert {body["seed"] for _, body in server.requests} == malformed  # nothing that is there is asked again
