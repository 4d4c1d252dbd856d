"""Whatever is killed while a student is trained, its losses and its weights are those of an undisturbed training.

Each round is a training by two workers, on a node each, in a run on a disk or on an S3 server. At a random moment one of
these is killed with SIGKILL:

    worker    one of the workers; Ray Train starts them again
    node      all processes of a worker's node; another node joins, and Ray Train starts the workers again
    driver    the run's process; the same command is started again

`make test-all` has all of it; how a training goes on, to the bit, is in `test_training_states.py`.
"""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from ray_distil.store.manifest import read_manifest
from ray_distil.store.storage import Folder
from ray_distil.train.states import STATES, last_state
from ray_distil.train.step_log import read_log
from tests.integration.cluster import LOOPBACK, PATIENCE, Cluster, wait_until
from tests.integration.test_chaos import NOTICES_SOON
from tests.integration.train_alone import NUM_EPOCHS, NUM_WORKERS
from tests.integration.train_alone import __file__ as TRAIN
from tests.object_store import ObjectStore, store_with_credentials

pytestmark = pytest.mark.long
SEED = 33
SAVE_STEPS = 4
NUM_ROUNDS = int(os.environ.get("RAY_DISTIL_TRAINING_ROUNDS", "10"))
VICTIMS = ["worker", "node", "driver"]
STUDENT_NODE = ["--num-cpus=1", '--resources={"student": 1}']
# All that is logged, but for the time it took; the held-out loss at the end of each epoch.
LOGGED = ("step", "epoch", "loss", "eval_loss", "learning_rate", "grad_norm", "num_learnt_tokens")
BEFORE = ("sft_examples", "packed")
WEIGHTS = "checkpoint/student/model.safetensors"
GOES_ON = "checkpoint: goes on from the training state of step "


@dataclass(frozen=True)
class Round:
    """`victim` is killed so many seconds after the state of `step`, or a later one, of a run `on` a disk or a store."""

    name: str
    on: str
    victim: str
    step: int
    seconds: float


def plan(number: int, chosen: random.Random, num_steps: int) -> Round:
    # In the first third and half a second, so that there is a victim still on a machine of many times this speed.
    step = SAVE_STEPS * chosen.randint(1, num_steps // SAVE_STEPS // 3)
    return Round(f"round-{number}", ("disk", "store")[number % 2], VICTIMS[number % 3], step, chosen.random() / 2)


class Trainings:
    """A cluster with a node a worker, on which a student is trained."""

    def __init__(self, cluster: Cluster, disk: Path, store: ObjectStore) -> None:
        self.cluster, self.disk = cluster, disk
        self.storage = {"disk": Folder.at(disk), "store": Folder.at(store.uri("runs"))}
        self.nodes = [cluster.add_node(*STUDENT_NODE) for _ in range(NUM_WORKERS)]

    def start(self, on: str, name: str, *overrides: str) -> subprocess.Popen[str]:
        where = [f"run.name={name}", f"run.storage_path={self.storage[on]}", f"training.save_steps={SAVE_STEPS}"]
        return subprocess.Popen(
            [sys.executable, TRAIN, *where, *overrides],
            cwd=self.disk,
            env=self.cluster.environment | {"RAY_ADDRESS": f"{LOOPBACK}:{self.cluster.port}"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def kill(self, victim: str, driver: subprocess.Popen[str], chosen: random.Random) -> None:
        if victim == "driver":
            driver.kill()
            assert driver.wait() == -signal.SIGKILL
            return
        node = chosen.choice(self.nodes)
        assert self.cluster.kill(node, "RayTrainWorker" if victim == "worker" else "") > 0
        if victim == "node":
            self.nodes.remove(node)
            self.nodes.append(self.cluster.add_node(*STUDENT_NODE))

    def disturbed(self, planned: Round, chosen: random.Random) -> str:
        """A training that is disturbed and goes on to its end; returns what it said."""
        run = self.storage[planned.on] / planned.name
        for before in BEFORE:
            (run / before).upload(self.disk / "undisturbed" / before)
        driver = self.start(planned.on, planned.name)
        states = run / "checkpoint" / STATES

        def is_saved() -> bool:
            assert driver.poll() is None, driver.communicate()[0]
            newest = last_state(states)
            return newest is not None and newest.step >= planned.step

        wait_until(is_saved, f"the state of step {planned.step} is saved", pause=0.05)
        time.sleep(planned.seconds)
        self.kill(planned.victim, driver, chosen)
        if planned.victim == "driver":
            driver = self.start(planned.on, planned.name)
        return finish(driver)


def finish(driver: subprocess.Popen[str]) -> str:
    output, _ = driver.communicate(timeout=PATIENCE)
    assert driver.returncode == 0, output
    return output


Losses = list[tuple[float | None, ...]]


def losses(run: Folder) -> Losses:
    return [tuple(line.get(name) for name in LOGGED) for line in read_log(run / "checkpoint")]


@pytest.fixture(scope="module")
def trainings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trainings]:
    logs = tmp_path_factory.mktemp("s3")
    with (
        store_with_credentials(logs / "log") as store,
        Cluster("--num-cpus=1", environment=NOTICES_SOON) as cluster,
    ):
        yield Trainings(cluster, tmp_path_factory.mktemp("runs"), store)


@pytest.fixture(scope="module")
def undisturbed(trainings: Trainings) -> tuple[Losses, bytes]:
    output = finish(trainings.start("disk", "undisturbed", "training.save_steps=null"))
    run = trainings.storage["disk"] / "undisturbed"
    assert GOES_ON not in output
    assert not (run / "checkpoint" / STATES).exists()
    made = losses(run)
    assert [line[0] for line in made] == list(range(1, len(made) + 1))
    assert [line[1] for line in made if line[LOGGED.index("eval_loss")] is not None] == list(range(1, NUM_EPOCHS + 1))
    manifest = read_manifest(run / "checkpoint")
    assert manifest is not None
    assert 0 < manifest.summary["num_held_out"] < manifest.rows_out
    return made, run.read_bytes(WEIGHTS)


def check(trainings: Trainings, numbers: range, undisturbed: tuple[Losses, bytes]) -> None:
    wanted, weights = undisturbed
    chosen = random.Random(f"{SEED}/{numbers}")
    for number in numbers:
        planned, started = plan(number, chosen, len(wanted)), time.monotonic()
        output = trainings.disturbed(planned, chosen)
        run = trainings.storage[planned.on] / planned.name
        (went_on,) = (line for line in output.splitlines() if line.startswith(GOES_ON))
        assert int(went_on.removeprefix(GOES_ON)) >= planned.step
        assert losses(run) == wanted
        assert run.read_bytes(WEIGHTS) == weights
        assert not (run / "checkpoint" / STATES).exists(), "states stay no longer than they are needed"
        print(f"{planned}: {went_on}, {time.monotonic() - started:.0f} s", flush=True)


def test_a_disturbed_training_is_the_undisturbed_one(trainings: Trainings, undisturbed: tuple[Losses, bytes]) -> None:
    check(trainings, range(NUM_ROUNDS), undisturbed)


def test_what_a_worker_raises_itself_ends_the_training_at_once(trainings: Trainings) -> None:
    for before in BEFORE:
        (trainings.storage["disk"] / "diverged" / before).upload(trainings.disk / "undisturbed" / before)
    driver = trainings.start("disk", "diverged", "training.learning_rate=1.0e+30")
    output, _ = driver.communicate(timeout=PATIENCE)
    assert driver.returncode == 1, output
    assert "failed: checkpoint: a training worker failed: the loss is nan; lower training.learning_rate" in output
    assert "failed after step" not in output, "it was tried again"
