"""What a training tells the driver arrives there, to its last step, on a real Ray."""

import time

import ray

from ray_distil.follow import followed
from ray_distil.progress import Teller


class Heard(Teller):
    def __init__(self) -> None:
        self.totals: list[tuple[int, str | None]] = []
        self.told: list[tuple[int, int, str]] = []

    def expect(self, total: int, done: int = 0, unit: str | None = None) -> None:
        self.totals.append((total, unit))

    def advance(self, rows: int, tokens: int = 0, note: str = "") -> None:
        self.told.append((rows, tokens, note))


def test_every_step_is_told_once() -> None:
    heard = Heard()
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
    try:
        with followed(heard) as follower:
            for step in range(1, 8):
                ray.get(follower.add.remote({"step": step, "steps": 7, "loss": 1 / step}, 100))
                time.sleep(0.5)
    finally:
        ray.shutdown()
    assert heard.totals == [(7, "steps")]
    assert len(heard.told) > 1, "nothing was told while it went on"
    assert sum(rows for rows, _, _ in heard.told) == 7
    assert sum(tokens for _, tokens, _ in heard.told) == 700
    assert heard.told[-1][2] == "loss 0.1429"
