"""What the driver hears of a Ray: the figures of a training, to its last step, and what a stage waits for."""

import re
import time
from typing import Any

import pytest
import ray

from ray_distil.runner import waiting
from ray_distil.runtime.progress import Teller
from ray_distil.train import follow
from ray_distil.train.follow import followed
from tests.integration.cluster import wait_until


@pytest.mark.usefixtures("local_ray")
def test_what_is_waited_for_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "EACH_SECONDS", 0.5)
    assert waiting.unmet() == ""
    started = time.monotonic()
    said: list[str] = []
    with waiting.announced("checkpoint", lambda: time.monotonic() - started, said.append):
        never = ray.remote(num_cpus=8, num_gpus=1)(int).remote()  # a class: an actor
        group = ray.util.placement_group([{"CPU": 4}] * 3)
        line = wait_until(
            lambda: next((line for line in said if "GPU: 1" in line and "CPU: 4" in line), ""), "both are waited for"
        )
    ray.kill(never)
    ray.util.remove_placement_group(group)
    assert re.fullmatch(r"checkpoint: waits for .*; this Ray has CPU 2, GPU 0", line)
    assert "1 x {CPU: 8, GPU: 1}" in line
    assert "3 x {CPU: 4}" in line


class Heard(Teller):
    def __init__(self) -> None:
        self.totals: list[tuple[int, int, str | None]] = []
        self.told: list[tuple[int, int, str]] = []
        self.lines: list[str] = []
        self.num_steps: list[int] = []  # shown, over time

    def expect(self, total: int, done: int = 0, unit: str | None = None) -> None:
        self.totals.append((total, done, unit))

        self.num_steps.append(done)

    def line(self, text: str) -> None:
        self.lines.append(text)

    def advance(self, rows: int, tokens: int = 0, note: str = "") -> None:
        self.told.append((rows, tokens, note))
        self.num_steps.append(self.num_steps[-1] + rows)


def line_of(step: int) -> dict[str, Any]:
    line = {"step": step, "num_steps": 7, "loss": 1 / step, "grad_norm": 0.5, "num_learnt_tokens": 100}
    return line | ({"eval_loss": 0.25} if step == 1 else {})


def train(heard: Heard, said: list[str]) -> None:
    """Seven steps, of which every second is logged; stopped after the fifth, they go on from the fourth."""
    with followed(heard, said.append) as follower:
        for done, steps in ((0, range(1, 6)), (4, range(5, 8))):
            ray.get(follower.begin.remote(done, 7))
            ray.get(follower.say.remote(f"{done} steps are there"))
            for step in steps:
                ray.get(follower.add.remote(line_of(step), step % 2 == 1))
                time.sleep(0.5)


@pytest.mark.usefixtures("local_ray")
def test_every_step_is_told_once_and_again_after_a_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    heard, seldom = Heard(), Heard()
    said: list[str] = []
    monkeypatch.setattr(follow, "LINE_SECONDS", 0.0)
    train(heard, said)
    monkeypatch.setattr(follow, "LINE_SECONDS", 3600.0)
    train(seldom, [])
    assert heard.totals == [(7, 0, "steps"), (7, 4, "steps")]
    assert len(heard.told) > 1, "nothing was told while it went on"
    assert said == ["0 steps are there", "4 steps are there"]
    assert heard.num_steps[-1] == 7
    assert sum(tokens for _, tokens, _ in heard.told) == 800
    assert heard.told[-1][2] == "loss 0.1429, held out 0.2500"
    assert heard.lines[0] == "step 1 of 7, loss 1.0000, held out 0.2500, norm 0.5"
    assert heard.lines[-1] == "step 7 of 7, loss 0.1429, norm 0.5"
    assert not any(line.startswith(("step 2 ", "step 4 ", "step 6 ")) for line in heard.lines), "they are not logged"
    assert [line.split(",")[0] for line in seldom.lines] == ["step 1 of 7", "step 7 of 7"]


@pytest.mark.usefixtures("local_ray")
def test_ray_outlives_the_thread_that_has_started_it() -> None:
    assert ray.get(ray.remote(lambda: 7).remote(), timeout=60) == 7
