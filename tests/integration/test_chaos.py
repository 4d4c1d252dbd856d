"""Whatever is killed, every row is there once, and says what it says in a run that nobody disturbs.

Each round is a run of the teacher, or of the rewriter behind a finished teacher, on real engines, on a cluster of two
raylets, on a disk or on an S3 server. At a random moment the driver, the engine's actor, the engine's core process or
the whole node of the engines is killed with SIGKILL. A killed driver is started again by the same command; all else the
run must survive by itself.

    make chaos ROUNDS=50

Half a minute to a minute a round on two cores; `make test` has ten.
"""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from ray_distil.manifest import read_manifest
from ray_distil.storage import Folder
from tests.integration.cluster import LOOPBACK, Cluster, wait_until
from tests.integration.respond import __file__ as RESPOND
from tests.object_store import CREDENTIALS, ObjectStore

ROUNDS = int(os.environ.get("RAY_DISTIL_CHAOS_ROUNDS", "10"))
SEED = int(os.environ.get("RAY_DISTIL_CHAOS_SEED", "17"))
VICTIMS = ["driver", "actor", "core", "node"]
STAGES = {"responses": ["long2short.enabled=false"], "rewrites": []}
NUM_TRAIN = 32
# Batches so small, and an engine so slow, that the moment can fall between any two shards.
ARGUMENTS = [
    f"instructions.num_train={NUM_TRAIN}",
    "instructions.num_eval=4",
    "teachers.direct=null",
    "teachers.slow.fraction=1.0",
    "teachers.slow.engine.batch_size=4",
    "teachers.slow.engine.max_concurrent_batches=2",
    "teachers.slow.engine.engine_kwargs.max_num_seqs=4",
    "teachers.slow.engine.resources={teacher: 1}",
]
CORE_APART = 'teachers.slow.engine.env_vars.VLLM_ENABLE_V1_MULTIPROCESSING="1"'
ENGINE_NODE = ["--num-cpus=3", '--resources={"teacher": 1}']
COMMANDS = {"actor": "vLLMEngineStageUDF", "core": "EngineCore"}
TEXTS = {
    "responses": ["response_id", "instruction_id", "response", "answer", "finish_reason", "num_generated_tokens"],
    "rewrites": ["rewrite_id", "response_id", "reasoning", "answer", "rewritten_tokens", "verdict"],
}
REJECTS = ["id", "stage", "reason"]


class Chaos:
    """A cluster on which runs are made and disturbed, `on` a disk or an object store."""

    def __init__(self, cluster: Cluster, disk: Path, store: ObjectStore) -> None:
        self.cluster, self.disk = cluster, disk
        self.storage = {"disk": Folder.at(disk), "store": Folder.at(store.uri("runs"))}
        self.node = cluster.add_node(*ENGINE_NODE)

    def start(self, on: str, name: str, *overrides: str) -> subprocess.Popen[str]:
        arguments = [*ARGUMENTS, *overrides, f"run.name={name}", f"run.storage_path={self.storage[on]}"]
        return subprocess.Popen(
            [sys.executable, RESPOND, *arguments],
            cwd=self.disk,
            env=self.cluster.environment | {"RAY_ADDRESS": f"{LOOPBACK}:{self.cluster.port}"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def num_shards(self, run: Folder, artifact: str) -> int:
        return sum(file.endswith(".parquet") for file in (run / artifact).files(recursive=True))

    def kill(self, victim: str, driver: subprocess.Popen[str]) -> bool:
        """Whether there was one to kill."""
        if victim == "driver":
            driver.kill()
            return driver.wait() == -signal.SIGKILL
        return self.cluster.kill(self.node, COMMANDS.get(victim, "")) > 0

    def disturbed(
        self, on: str, name: str, artifact: str, victim: str, shards: int, seconds: float
    ) -> tuple[bool, int]:
        """A run in which `victim` is killed so long after so many shards; whether in time, and how many there were."""
        run = self.storage[on] / name
        if artifact == "rewrites":
            for before in ("instructions", "responses"):
                (run / before).upload(self.disk / "undisturbed" / before)
        overrides = [*STAGES[artifact], *([CORE_APART] if victim == "core" else [])]
        driver = self.start(on, name, *overrides)
        wait_until(lambda: self.num_shards(run, artifact) >= shards or driver.poll() is not None, f"{shards} shards")
        time.sleep(seconds)
        # Until the engine starts there is none: then it is waited for.
        wait_until(lambda: driver.poll() is not None or self.kill(victim, driver), f"there is a {victim} to kill")
        killed, then = driver.returncode in (None, -signal.SIGKILL), self.num_shards(run, artifact)
        assert driver.returncode in (None, 0, -signal.SIGKILL), driver.communicate()[0]
        if victim == "node":
            self.node = self.cluster.add_node(*ENGINE_NODE)
        finish(self.start(on, name, *overrides) if victim == "driver" else driver)
        return killed, then

    def rows(self, on: str, name: str, artifact: str) -> list[pd.DataFrame]:
        """What an artifact holds, accepted and rejected, in the order of the ids."""
        folder = self.storage[on] / name / artifact
        manifest = read_manifest(folder)
        assert manifest is not None
        assert manifest.rows_in == manifest.rows_out + manifest.rows_rejected == NUM_TRAIN
        found = []
        for place, columns in ((folder, TEXTS[artifact]), (folder / "_rejects", REJECTS)):
            tables = [place.read_table(file, columns).to_pandas() for file in place.files("part-", ".parquet")]
            found.append(pd.concat([pd.DataFrame(columns=columns), *tables]).sort_values(columns[0], ignore_index=True))
        return found


def finish(driver: subprocess.Popen[str]) -> None:
    output, _ = driver.communicate(timeout=300)
    assert driver.returncode == 0, output


@pytest.fixture(scope="module")
def chaos(tmp_path_factory: pytest.TempPathFactory):
    logs = tmp_path_factory.mktemp("s3")
    with pytest.MonkeyPatch.context() as environment, ObjectStore(logs / "log") as store:
        for name, value in CREDENTIALS.items():
            environment.setenv(name, value)
        with Cluster(tmp_path_factory.mktemp("x"), "--num-cpus=2") as cluster:
            yield Chaos(cluster, tmp_path_factory.mktemp("runs"), store)


def test_no_row_is_lost_or_doubled_or_changed(chaos: Chaos) -> None:
    finish(chaos.start("disk", "undisturbed", "run.max_shard_mb=null"))  # its shards are counted
    expected = {artifact: chaos.rows("disk", "undisturbed", artifact) for artifact in STAGES}
    totals = {artifact: chaos.num_shards(chaos.storage["disk"] / "undisturbed", artifact) for artifact in STAGES}
    assert min(totals.values()) >= NUM_TRAIN / 4  # each batch is a shard

    chosen = random.Random(SEED)
    kills = dict.fromkeys(VICTIMS[:ROUNDS], 0)
    for number in range(ROUNDS):
        artifact = chosen.choice(list(STAGES))
        victim, name = VICTIMS[number % len(VICTIMS)], f"round-{number}"
        on = "store" if number // len(VICTIMS) % 2 else "disk"
        started = time.monotonic()
        shards, delay = chosen.randrange(totals[artifact] // 2), chosen.random() / 2  # a shard takes about as long
        killed, then = chaos.disturbed(on, name, artifact, victim, shards, delay)
        for found, table in zip(chaos.rows(on, name, artifact), expected[artifact], strict=True):
            pd.testing.assert_frame_equal(found, table)
        kills[victim] += killed
        seconds = time.monotonic() - started
        print(
            f"{name}: {artifact} on {on}, {victim} killed at {then} of {totals[artifact]} shards, {seconds:.0f} s",
            flush=True,
        )
    print("kills:", kills)
    assert min(kills.values()) > 0, f"some were over before anything was killed: {kills}"
