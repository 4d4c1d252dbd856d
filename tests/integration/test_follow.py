"""What a training tells the driver arrives there, to its last step, on a real Ray."""

import time

import ray

from ray_distil.runtime.progress import Teller
from ray_distil.train.follow import followed


class Heard(Teller):
    def __init__(self) -> None:
        self.totals: list[tuple[int, int, str | None]] = []
        self.told: list[tuple[int, int, str]] = []
        self.num_steps: list[int] = []  # shown, over time

    def expect(self, total: int, done: int = 0, unit: str | None = None) -> None:
        self.totals.append((total, done, unit))

        self.num_steps.append(done)

    def advance(self, rows: int, tokens: int = 0, note: str = "") -> None:
        self.told.append((rows, tokens, note))
        self.num_steps.append(self.num_steps[-1] + rows)


def test_every_step_is_told_once_and_again_after_a_stop() -> None:
    heard = Heard()
    said: list[str] = []
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
    try:
        with followed(heard, said.append) as follower:
            for done, steps in ((0, range(1, 6)), (4, range(5, 8))):
                ray.get(follower.begin.remote(done, 7))
                ray.get(follower.say.remote(f"{done} steps are there"))
                for step in steps:
                    ray.get(follower.add.remote({"step": step, "steps": 7, "loss": 1 / step}, 100))
                    time.sleep(0.5)
    finally:
        ray.shutdown()
    assert heard.totals == [(7, 0, "steps"), (7, 4, "steps")]
    assert len(heard.told) > 1, "nothing was told while it went on"
    assert said == ["0 steps are there", "4 steps are there"]
    assert heard.num_steps[-1] == 7
    assert sum(tokens for _, tokens, _ in heard.told) == 800
    assert heard.told[-1][2] == "loss 0.1429"
