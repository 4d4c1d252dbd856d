"""Whatever is killed, every row is there once, and says what it says in a run that nobody disturbs.

Each round is a run of the teacher, or of the rewriter behind a finished teacher, on a cluster of two raylets, on a disk
or on an S3 server. At a random moment one of these is killed with SIGKILL:

    driver       the run's process; the same command is started again, all else the run must survive by itself
    node         all processes of the node that has the engines; another node joins
    actor        the engine's actor
    vllm         the engine is vLLM and not a null engine: first its actor, and later its core, a process of its own

    make chaos ROUNDS=50

Some 15 seconds a round with a null engine, two minutes with vLLM, whose texts are those of the shared small run's slow
teacher. `make test` has seven rounds.
"""

import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest

from ray_distil.manifest import read_manifest
from ray_distil.storage import Folder
from tests.integration.cluster import LOOPBACK, Cluster, wait_until
from tests.integration.conftest import SMALL, SmallRun
from tests.integration.respond import NULL_ENGINE
from tests.integration.respond import __file__ as RESPOND
from tests.object_store import CREDENTIALS, ObjectStore

ROUNDS = int(os.environ.get("RAY_DISTIL_CHAOS_ROUNDS", "7"))
SEED = int(os.environ.get("RAY_DISTIL_CHAOS_SEED", "17"))
VICTIMS = ["driver", "driver", "node", "node", "actor", "vllm", "driver"]  # in turn; seven, so that places change
# Ray takes a node for dead after so many health checks in a row that fail, and not after its own 5 at 3 seconds each.
NOTICES_SOON = {"RAY_health_check_period_ms": "500", "RAY_health_check_failure_threshold": "3"}
COMMANDS = {"actor": ["NullEngine"], "vllm": ["vLLMEngineStageUDF", "EngineCore"]}  # all of a node: one in turn
STAGES = {"responses": ["long2short.enabled=false"], "rewrites": []}
# Batches so small, and an engine so slow, that the moment can fall between any two shards.
NUM_TRAIN = 32
SLOWLY = [
    "teachers.direct=null",
    "teachers.slow.engine.batch_size=4",
    "teachers.slow.engine.max_concurrent_batches=2",
    "teachers.slow.engine.resources={teacher: 1}",
    "run.max_shard_mb=null",  # shards stay as they were written, for all to be counted
]
NULL = [
    f"{NULL_ENGINE}0.3,0",
    *SLOWLY,
    f"instructions.num_train={NUM_TRAIN}",
    "instructions.num_eval=4",
    "teachers.slow.fraction=1.0",
]
VLLM = [
    *SMALL,
    *SLOWLY,
    "long2short.enabled=false",
    "teachers.slow.engine.engine_kwargs.max_num_seqs=4",
]
ENGINE_NODE = ["--num-cpus=2", '--resources={"teacher": 1}']
TEXTS = {
    "responses": ["response_id", "instruction_id", "response", "answer", "finish_reason", "num_generated_tokens"],
    "rewrites": ["rewrite_id", "response_id", "reasoning", "answer", "rewritten_tokens", "verdict"],
}
REJECTS = ["id", "stage", "reason"]
Rows = list[pd.DataFrame]


@dataclass(frozen=True)
class Kill:
    """SIGKILL to the driver, or to the processes of the engines' node that have `named` in their command.

    It falls so many seconds after so many shards; where there is none to kill yet, as soon as there is one.
    """

    named: str
    shards: int
    seconds: float


@dataclass(frozen=True)
class Round:
    """A run `on` a disk or a store, in which `artifact` is made and `victim` is killed."""

    name: str
    artifact: str
    on: str
    victim: str
    kills: list[Kill]

    @property
    def arguments(self) -> list[str]:
        return VLLM if self.victim == "vllm" else [*NULL, *STAGES[self.artifact]]


def plan(number: int, chosen: random.Random, totals: dict[str, int]) -> Round:
    """The round of this number. `totals`: shards of an undisturbed run, by artifact, and of vLLM's."""
    victim = VICTIMS[number % len(VICTIMS)]
    on = ("disk", "store")[number % 2]
    artifact = "responses" if victim == "vllm" else chosen.choice(list(STAGES))
    total = totals["vllm" if victim == "vllm" else artifact]
    kills, shards = [], 0
    for named in COMMANDS.get(victim, [victim]):
        shards += chosen.randrange(total // 2) if not kills else chosen.randrange(1, total // 4)
        kills.append(Kill(named, shards, chosen.random() / 2))  # a shard takes about as long
    return Round(f"round-{number}", artifact, on, victim, kills)


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

    def kill(self, named: str, driver: subprocess.Popen[str]) -> bool:
        """Whether there was one to kill."""
        if named == "driver":
            driver.kill()
            return driver.wait() == -signal.SIGKILL
        return self.cluster.kill(self.node, "" if named == "node" else named) > 0

    def disturb(self, planned: Round) -> list[int]:
        """A run that is disturbed and goes on to its end; how many shards were there at each kill that was in time."""
        run, then = self.storage[planned.on] / planned.name, []
        if planned.artifact == "rewrites":
            for before in ("instructions", "responses"):
                (run / before).upload(self.disk / "undisturbed" / before)
        driver = self.start(planned.on, planned.name, planned.arguments)
        for kill in planned.kills:
            wait_until(
                lambda kill=kill: self.num_shards(run, planned.artifact) >= kill.shards or driver.poll() is not None,
                f"{kill.shards} shards",
                pause=0.2,
            )
            time.sleep(kill.seconds)
            wait_until(
                lambda kill=kill: driver.poll() is not None or self.kill(kill.named, driver),
                f"there is a {kill.named} to kill",
                pause=0.2,
            )
            assert driver.returncode in (None, 0, -signal.SIGKILL), driver.communicate()[0]
            if driver.returncode != 0:
                then.append(self.num_shards(run, planned.artifact))
        if planned.victim == "node":
            self.node = self.cluster.add_node(*ENGINE_NODE)
        finish(self.start(planned.on, planned.name, planned.arguments) if planned.victim == "driver" else driver)
        return then


def finish(driver: subprocess.Popen[str]) -> None:
    output, _ = driver.communicate(timeout=600)
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
    with pytest.MonkeyPatch.context() as environment, ObjectStore(logs / "log") as store:
        for name, value in CREDENTIALS.items():
            environment.setenv(name, value)
        with Cluster("--num-cpus=1", environment=NOTICES_SOON) as cluster:
            yield Chaos(cluster, tmp_path_factory.mktemp("runs"), store)


def test_no_row_is_lost_or_doubled_or_changed(chaos: Chaos, small_run: SmallRun) -> None:
    finish(chaos.start("disk", "undisturbed", NULL))
    undisturbed = chaos.storage["disk"] / "undisturbed"
    expected = {artifact: rows(undisturbed / artifact, artifact) for artifact in STAGES}
    totals = {artifact: chaos.num_shards(undisturbed, artifact) for artifact in STAGES}
    assert min(totals.values()) >= NUM_TRAIN / 4  # each batch is a shard
    assert all(not rejected.empty for _, rejected in expected.values())
    expected["vllm"] = slow_rows(small_run.folder)
    totals["vllm"] = len(expected["vllm"][0]) // 4

    chosen = random.Random(SEED)
    num_in_time = dict.fromkeys(VICTIMS[:ROUNDS], 0)
    for number in range(ROUNDS):
        planned, started = plan(number, chosen, totals), time.monotonic()
        then = chaos.disturb(planned)
        found = rows(chaos.storage[planned.on] / planned.name / planned.artifact, planned.artifact)
        wanted = "vllm" if planned.victim == "vllm" else planned.artifact
        for table, undisturbed_table in zip(found, expected[wanted], strict=True):
            pd.testing.assert_frame_equal(table, undisturbed_table)
        num_in_time[planned.victim] += len(then) == len(planned.kills)
        print(
            f"{planned.name}: {planned.artifact} on {planned.on}, {planned.victim} killed at "
            f"{then} of {totals[wanted]} shards, {time.monotonic() - started:.0f} s",
            flush=True,
        )
    print("rounds in time:", num_in_time)
    assert min(num_in_time.values()) > 0, f"some were over before anything was killed: {num_in_time}"
