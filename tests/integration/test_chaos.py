"""Whatever is killed, every row is there once, and says what it says in a run that nobody disturbs.

Each round is a run of teacher and rewriter on real engines, on a cluster of two raylets. At a random moment the
driver, the engine's actor, the engine's core process or the whole node of the engines is killed with SIGKILL. A killed
driver is started again by the same command; all else the run must survive by itself.

    RAY_DISTIL_CHAOS_ROUNDS=50 pytest -s tests/integration/test_chaos.py      (make chaos)
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

ROUNDS = int(os.environ.get("RAY_DISTIL_CHAOS_ROUNDS", "10"))
SEED = int(os.environ.get("RAY_DISTIL_CHAOS_SEED", "17"))
VICTIMS = ["driver", "actor", "core", "node"]
NUM_TRAIN = 40
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
    """A cluster on which runs are made and disturbed."""

    def __init__(self, cluster: Cluster, storage: Path) -> None:
        self.cluster, self.storage = cluster, storage
        self.node = cluster.add_node(*ENGINE_NODE)

    def start(self, name: str, *overrides: str) -> subprocess.Popen[str]:
        arguments = [*ARGUMENTS, *overrides, f"run.name={name}", f"run.storage_path={self.storage}"]
        return subprocess.Popen(
            [sys.executable, RESPOND, *arguments],
            cwd=self.storage,
            env=self.cluster.environment | {"RAY_ADDRESS": f"{LOOPBACK}:{self.cluster.port}"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def num_shards(self, name: str) -> int:
        return sum(len(list((self.storage / name / artifact).rglob("part-*.parquet"))) for artifact in TEXTS)

    def kill(self, victim: str, driver: subprocess.Popen[str]) -> bool:
        """Whether there was one to kill."""
        if victim == "driver":
            driver.kill()
            return driver.wait() == -signal.SIGKILL
        return self.cluster.kill(self.node, COMMANDS.get(victim, "")) > 0

    def disturbed(self, name: str, victim: str, shards: int, pause: float) -> tuple[bool, int]:
        """A run in which `victim` is killed `pause` seconds after so many shards; how many shards there were then."""
        overrides = [CORE_APART] if victim == "core" else []
        driver = self.start(name, *overrides)
        wait_until(lambda: self.num_shards(name) >= shards or driver.poll() is not None, f"{shards} shards")
        time.sleep(pause)
        # Between two stages there is no engine: then the next one is waited for.
        wait_until(lambda: driver.poll() is not None or self.kill(victim, driver), f"there is a {victim} to kill")
        killed, then = driver.returncode in (None, -signal.SIGKILL), self.num_shards(name)
        assert driver.returncode in (None, 0, -signal.SIGKILL), driver.communicate()[0]
        if victim == "node":
            self.node = self.cluster.add_node(*ENGINE_NODE)
        finish(self.start(name) if victim == "driver" else driver)
        return killed, then

    def rows(self, name: str) -> dict[str, pd.DataFrame]:
        """What the run holds, accepted and rejected, in the order of the ids."""
        found = {}
        for artifact, columns in TEXTS.items():
            folder = self.storage / name / artifact
            manifest = read_manifest(Folder.at(folder))
            assert manifest is not None
            assert manifest.rows_in == manifest.rows_out + manifest.rows_rejected
            found[artifact] = pd.read_parquet(folder)[columns]
            rejects = sorted((folder / "_rejects").glob("part-*.parquet"))
            found[f"{artifact}, rejected"] = pd.concat(
                [pd.DataFrame(columns=REJECTS), *(pd.read_parquet(file)[REJECTS] for file in rejects)]
            )
        return {name: table.sort_values(table.columns[0], ignore_index=True) for name, table in found.items()}


def finish(driver: subprocess.Popen[str]) -> None:
    output, _ = driver.communicate(timeout=300)
    assert driver.returncode == 0, output


@pytest.fixture(scope="module")
def chaos(tmp_path_factory: pytest.TempPathFactory):
    with Cluster(tmp_path_factory.mktemp("x"), "--num-cpus=2") as cluster:
        yield Chaos(cluster, tmp_path_factory.mktemp("runs"))


def test_no_row_is_lost_or_doubled_or_changed(chaos: Chaos) -> None:
    finish(chaos.start("undisturbed"))
    expected = chaos.rows("undisturbed")
    assert len(expected["responses"]) + len(expected["responses, rejected"]) == NUM_TRAIN
    total = chaos.num_shards("undisturbed")
    assert total > NUM_TRAIN / 4  # shards of batches, from both stages

    chosen = random.Random(SEED)
    kills = dict.fromkeys(VICTIMS, 0)
    for number in range(ROUNDS):
        victim, name = VICTIMS[number % len(VICTIMS)], f"round-{number}"
        started = time.monotonic()
        killed, then = chaos.disturbed(name, victim, chosen.randrange(total), chosen.uniform(0, 1))
        found = chaos.rows(name)
        for what, table in expected.items():
            pd.testing.assert_frame_equal(found[what], table)
        kills[victim] += killed
        print(f"{name}: {victim} killed at {then} of {total} shards, {time.monotonic() - started:.0f} s", flush=True)
    print("kills:", kills)
    assert min(kills.values()) > 0, f"some were over before anything was killed: {kills}"
