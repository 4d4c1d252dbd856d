"""A teacher by endpoint, on a real Ray, whose server fails in all its ways: each row ends right or with its reason."""

import itertools
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd

from ray_distil.manifest import Manifest, read_manifest
from ray_distil.storage import Folder
from tests.integration.cluster import PATIENCE
from tests.integration.respond import __file__ as RESPOND
from tests.unit.endpoint_server import EndpointServer

KEY = "sk-never-to-be-written"
NUM_TRAIN = 60
FAULTS = {
    "http_400": ["400"] * 2,
    "http_401": ["401"] * 3,  # repeats the key
    "http_429": ["429"],
    "http_500": ["500"] * 2,
    "timeout": ["hang"],
    "bad_reply": ["cut", "told", "json", "empty"],
}
NEVER_PASS = {"http_400", "http_401"}  # whoever asks how often
FAULTS_AGAIN = len(FAULTS["http_401"])  # the key may be a good one by then


def respond(folder: Path, server: EndpointServer, *overrides: str) -> tuple[Manifest, str]:
    """A run of the direct teacher; its manifest, and what it printed."""
    settings = {"base_url": server.url, "model": "m", "api_key_env": "A_KEY", "stream": True, "timeout_s": 2}
    arguments = [
        f"instructions.num_train={NUM_TRAIN}",
        "teachers.direct.engine=null",
        f"teachers.direct.endpoint={json.dumps(settings)}",
        "teachers.slow=null",
        "long2short.enabled=false",
        f"run.storage_path={folder}",
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
    manifest = read_manifest(Folder.at(folder / "faults" / "responses"))
    assert manifest is not None
    assert manifest.rows_in == manifest.rows_out + manifest.rows_rejected == NUM_TRAIN
    return manifest, made.stdout + made.stderr


def test_rows_end_right_or_rejected_and_the_key_is_nowhere(tmp_path: Path) -> None:
    passing = [fault for reason, some in FAULTS.items() if reason not in NEVER_PASS for fault in some]
    with EndpointServer(*itertools.chain(*FAULTS.values())) as server:
        server.fault_of = lambda body: "error in 200" if body["seed"] % 10 == 0 else ""
        manifest, said = respond(tmp_path, server, "teachers.direct.endpoint.max_retries=0")
        broken = [body for _, body in server.requests if body["seed"] % 10 == 0]
        seeds = {body["seed"] for body in broken}
        assert len(broken) == 2 * len(seeds) > 0

        # What failed for what may pass is tried once more before the stage is whole; what is left is said.
        assert manifest.rejects == {"bad_reply": len(seeds), "http_400": 2}
        num_again = len(seeds) + len(passing) + FAULTS_AGAIN
        assert len(server.requests) == NUM_TRAIN + num_again
        assert f"{num_again} rows failed (" in said
        assert f"{len(seeds)} rows failed (bad_reply {len(seeds)}): the same command tries them again" in said
        rejects = pd.read_parquet(tmp_path / "faults" / "responses" / "_rejects").query("reason == 'bad_reply'")
        assert set(rejects.detail) == {"upstream failed"}  # the server's own words

        assert {headers["Authorization"] for headers, _ in server.requests} == {f"Bearer {KEY}"}
        logs = re.findall(r"messages of engines and workers: (\S+)", said)
        assert logs
        assert KEY not in said
        for file in [file for folder in (*logs, tmp_path) for file in Path(folder).rglob("*") if file.is_file()]:
            assert KEY.encode() not in file.read_bytes(), file

        # The same command asks for what may have passed, and for nothing else; with further tries the faults that pass
        # cost no row.
        server.fault_of = lambda body: ""
        server.requests.clear()
        server.faults.extend(passing)
        manifest, _ = respond(tmp_path, server)
        assert manifest.rejects == {"http_400": 2}
        assert {body["seed"] for _, body in server.requests} == seeds
        assert len(server.requests) == len(seeds) + len(passing)

        # Whole, it asks for nothing.
        server.requests.clear()
        respond(tmp_path, server)
        assert not server.requests
    made = pd.read_parquet(tmp_path / "faults" / "responses")
    assert set(made.response) == {"It is 5."}
    assert set(made.num_prompt_tokens) == {3}
    assert set(made.num_generated_tokens) == {5}
