"""Whatever is killed, every row is there once, and says what it says in a run that nobody disturbs.

Each round is a run of the teacher, or of the rewriter behind a finished teacher, on a cluster of two raylets, on a disk
or on an S3 server. At a random moment one of these is killed with SIGKILL:

    driver       the run's process; the same command is started again, all else the run must survive by itself
    node         all processes of the node that has the engines; another node joins
    actor        the engine's actor
    vllm actor   the same where the engine is vLLM and not a null engine
    vllm core    its core, a process of its own

    make chaos ROUNDS=50

Some 15 seconds a round with a null engine, 90 with vLLM, whose texts are those of the shared small run's slow teacher.
`make test-cluster` has three rounds, for driver, node and actor. There an engine's own death is in `test_poison.py`, whose row kills
vLLM's core four times.
"""

import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
import pytest

from ray_distil.store.manifest import read_manifest
from ray_distil.store.storage import Folder
from tests.integration.cluster import LOOPBACK, PATIENCE, Cluster, wait_until
from tests.integration.conftest import SMALL, SmallRun
from tests.integration.respond import NULL_ENGINE
from tests.integration.respond import __file__ as RESPOND
from tests.object_store import ObjectStore, store_with_credentials

ROUNDS = int(os.environ.get("RAY_DISTIL_CHAOS_ROUNDS", "3"))
SEED = int(os.environ.get("RAY_DISTIL_CHAOS_SEED", "17"))
# Five rounds have each of them; seven, so that the place of each changes from turn to turn.
VICTIMS = ["driver", "node", "actor", "vllm actor", "vllm core", "driver", "node"]
# Ray takes a node for dead after so many health checks in a row that fail, and not after its own 5 at 3 seconds each.
NOTICES_SOON = {"RAY_health_check_period_ms": "500", "RAY_health_check_failure_threshold": "3"}
COMMANDS = {"actor": "NullEngine", "vllm actor": "vLLMEngineStageUDF", "vllm core": "EngineCore"}
STAGES = {"responses": ["long2short.enabled=false"], "rewrites": []}
# Batches so small, and an engine so slow, that the moment can fall between any two shards.
NUM_TRAIN = 32
SLOWLY = [
    "teachers.direct=null",
    "teachers.slow.engine.max_concurrent_batches=2",
    "teachers.slow.engine.resources={teacher: 1}",
    "run.max_shard_mb=null",  # shards stay as they were written, for all to be counted
]
NULL = [
    f"{NULL_ENGINE}0.6,0",
    *SLOWLY,
    "teachers.slow.engine.batch_size=4",
    f"instructions.num_train={NUM_TRAIN}",
    "instructions.num_eval=4",
    "teachers.slow.fraction=1.0",
]
VLLM = [
    *SMALL,
    *SLOWLY,
    "long2short.enabled=false",
    "teachers.slow.fraction=0.65",  # more than the small run asks, so that it is at work for long enough
    "teachers.slow.engine.batch_size=4",
    "teachers.slow.engine.engine_kwargs.max_num_seqs=2",
]
ENGINE_NODE = ["--num-cpus=2", '--resources={"teacher": 1}']
TEXTS = {
    "responses": ["response_id", "instruction_id", "response", "answer", "finish_reason", "num_generated_tokens"],
    "rewrites": ["rewrite_id", "response_id", "reasoning", "answer", "rewritten_tokens", "verdict"],
}
REJECTS = ["id", "stage", "reason"]
Rows = list[pd.DataFrame]


@dataclass(frozen=True)
class Round:
    """`victim` is killed so many seconds after so many shards of `artifact`, of a run `on` a disk or a store."""

    name: str
    artifact: str
    on: str
    victim: str
    shards: int
    seconds: float

    @property
    def has_vllm(self) -> bool:
        return self.victim.startswith("vllm")

    @property
    def arguments(self) -> list[str]:
        return VLLM if self.has_vllm else [*NULL, *STAGES[self.artifact]]

    def at_once(self) -> "Round":
        """The same, and its victim is killed as soon as there is one, which is never too late."""
        return replace(self, name=f"{self.name}-at-once", shards=0, seconds=0.0)


def plan(number: int, chosen: random.Random, totals: dict[str, int]) -> Round:
    """The round of this number. `totals`: shards of an undisturbed run, by artifact."""
    victim = VICTIMS[number % len(VICTIMS)]
    artifact = "responses" if victim.startswith("vllm") else chosen.choice(list(STAGES))
    # Early in the run, so that there is a victim still; a shard takes about as long as the longest delay. vLLM's shards
    # come in bursts, the last soon behind the first.
    shards, seconds = chosen.randrange(totals[artifact] // 2), chosen.random() / 2
    if victim.startswith("vllm"):
        shards = min(shards, 1)
    return Round(f"round-{number}", artifact, ("disk", "store")[number % 2], victim, shards, seconds)


class Chaos:
    """A cluster on which runs are made and disturbed."""

    def __init__(self, cluster: Cluster, disk: Path, store: ObjectStore) -> None:
        self.cluster, self.disk = cluster, disk
        self.storage = {"disk": Folder.at(disk), "store": Folder.at(store.uri("runs"))}
        self.node = cluster.add_node(*ENGINE_NODE)

    def start(self, on: str, name: str, arguments: list[str]) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, RESPOND, *arguments, f"run.name={name}", f"run.storage_path={self.storage[on]}"],
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

    def disturb(self, planned: Round) -> tuple[bool, int]:
        """A run that is disturbed and goes on to its end; whether it was in time, and how many shards were there."""
        victim, run = planned.victim, self.storage[planned.on] / planned.name
        if planned.artifact == "rewrites":
            for before in ("instructions", "responses"):
                (run / before).upload(self.disk / "undisturbed" / before)
        driver = self.start(planned.on, planned.name, planned.arguments)
        wait_until(
            lambda: self.num_shards(run, planned.artifact) >= planned.shards or driver.poll() is not None,
            f"{planned.shards} shards",
            pause=0.2,
        )
        time.sleep(planned.seconds)
        # Until the engine starts there is none: then it is waited for.
        wait_until(
            lambda: driver.poll() is not None or self.kill(victim, driver), f"there is a {victim} to kill", pause=0.2
        )
        killed, then = driver.returncode in (None, -signal.SIGKILL), self.num_shards(run, planned.artifact)
        assert driver.returncode in (None, 0, -signal.SIGKILL), driver.communicate()[0]
        if victim == "node":
            self.node = self.cluster.add_node(*ENGINE_NODE)
        finish(self.start(planned.on, planned.name, planned.arguments) if victim == "driver" else driver)
        return killed, then


def finish(driver: subprocess.Popen[str]) -> None:
    output, _ = driver.communicate(timeout=PATIENCE)
    assert driver.returncode == 0, output


def rows(folder: Folder, artifact: str) -> Rows:
    """What an artifact holds, accepted and rejected, in the order of the ids."""
    manifest = read_manifest(folder)
    assert manifest is not None
    found = []
    for place, columns in ((folder, TEXTS[artifact]), (folder / "_rejects", REJECTS)):
        tables = [place.read_table(file, columns).to_pandas() for file in place.files("part-", ".parquet")]
        found.append(pd.concat([pd.DataFrame(columns=columns), *tables]).sort_values(columns[0], ignore_index=True))
    assert manifest.rows_in == manifest.rows_out + manifest.rows_rejected == sum(map(len, found)) > 0
    return found


def slow_rows(run: Path) -> Rows:
    """The slow teacher's rows of a run that has two teachers."""
    accepted, rejected = rows(Folder.at(run / "responses"), "responses")
    slow = set(pd.read_parquet(run / "responses", filters=[("teacher", "==", "slow")]).response_id)
    assert rejected.empty
    return [accepted[accepted.response_id.isin(slow)].reset_index(drop=True), rejected]


@pytest.fixture(scope="module")
def chaos(tmp_path_factory: pytest.TempPathFactory):
    logs = tmp_path_factory.mktemp("s3")
    with (
        store_with_credentials(logs / "log") as store,
        Cluster("--num-cpus=1", environment=NOTICES_SOON) as cluster,
    ):
        yield Chaos(cluster, tmp_path_factory.mktemp("runs"), store)


def test_no_row_is_lost_or_doubled_or_changed(chaos: Chaos, request: pytest.FixtureRequest) -> None:
    finish(chaos.start("disk", "undisturbed", NULL))
    undisturbed = chaos.storage["disk"] / "undisturbed"
    expected = {artifact: rows(undisturbed / artifact, artifact) for artifact in STAGES}
    totals = {artifact: chaos.num_shards(undisturbed, artifact) for artifact in STAGES}
    assert min(totals.values()) >= NUM_TRAIN / 4  # each batch is a shard
    assert all(not rejected.empty for _, rejected in expected.values())

    chosen = random.Random(SEED)
    num_in_time = dict.fromkeys(VICTIMS[:ROUNDS], 0)
    rounds = [plan(number, chosen, totals) for number in range(ROUNDS)]
    if any(planned.has_vllm for planned in rounds):
        small_run: SmallRun = request.getfixturevalue("small_run")
        of_vllm, rejected = slow_rows(small_run.folder)
    while rounds:
        planned, started = rounds.pop(0), time.monotonic()
        in_time, then = chaos.disturb(planned)
        found = rows(chaos.storage[planned.on] / planned.name / planned.artifact, planned.artifact)
        if planned.has_vllm:  # of its rows, those that the small run has
            found[0] = found[0][found[0].response_id.isin(of_vllm.response_id)].reset_index(drop=True)
        wanted = [of_vllm, rejected] if planned.has_vllm else expected[planned.artifact]
        for table, undisturbed_table in zip(found, wanted, strict=True):
            pd.testing.assert_frame_equal(table, undisturbed_table)
        num_in_time[planned.victim] += in_time
        print(
            f"{planned.name}: {planned.artifact} on {planned.on}, {planned.victim} "
            f"{'killed' if in_time else 'too late'} at {then} shards, {time.monotonic() - started:.0f} s",
            flush=True,
        )
        if not in_time and planned.seconds:
            rounds.insert(0, planned.at_once())
    print("rounds in time:", num_in_time)
    assert min(num_in_time.values()) > 0, f"some were over before anything was killed: {num_in_time}"
