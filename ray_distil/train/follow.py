"""How the driver hears of each training step: rank 0 tells an actor, the driver asks it once a second."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ray_distil.runtime.progress import Teller

ASK_SECONDS = 1.0


class LastStep:
    """The newest step of a training, the tokens learnt so far, and lines for the console; an actor."""

    def __init__(self) -> None:
        self.starts: list[tuple[int, int]] = []  # of the workers: steps done by then, and in all
        self.state: dict[str, float] = {}
        self.num_tokens = 0
        self.lines: list[str] = []

    def begin(self, done: int, steps: int) -> None:
        """The workers have started, with so many steps behind them."""
        self.starts.append((done, steps))
        self.state = {}

    def add(self, state: dict[str, float], num_tokens: int) -> None:
        self.state, self.num_tokens = state, self.num_tokens + num_tokens

    def say(self, line: str) -> None:
        self.lines.append(line)

    def step(self) -> int:
        """The last one that was told, or was there when the workers started."""
        return int(self.state.get("step", self.starts[-1][0] if self.starts else 0))

    def get(self) -> tuple[list[tuple[int, int]], dict[str, float], int, list[str]]:
        return self.starts, self.state, self.num_tokens, self.lines


@contextmanager
def followed(tell: Teller, say: Callable[[str], None] = print) -> Iterator[Any]:
    """A handle that the training calls `add.remote` of; what it says is told on until the end."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    # On the driver's node: on another, which Ray would choose at random, it would keep a teacher from being let go.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    follower = ray.remote(num_cpus=0, scheduling_strategy=here)(LastStep).remote()
    over = threading.Event()

    def listen() -> None:
        told, tokens_told, num_starts, num_lines, held_out, last = 0, 0, 0, 0, "", False
        while not last:
            last = over.wait(ASK_SECONDS)
            try:
                starts, state, num_tokens, lines = ray.get(follower.get.remote())
            except ray.exceptions.RayError:  # a lost node or a Ray that ends: training says so itself
                return
            for line in lines[num_lines:]:
                say(line)
            num_lines = len(lines)
            if len(starts) > num_starts:
                told, steps = starts[-1]
                num_starts = len(starts)
                tell.expect(steps, done=told, unit="steps")
            step = int(state.get("step", told))
            if step != told:
                if "eval_loss" in state:
                    held_out = f", held out {state['eval_loss']:.4f}"
                tell.advance(step - told, num_tokens - tokens_told, f"loss {state['loss']:.4f}{held_out}")
                told, tokens_told = step, num_tokens

    thread = threading.Thread(target=listen, daemon=True)
    thread.start()
    try:
        yield follower
    finally:
        over.set()
        thread.join(2 * ASK_SECONDS)
        ray.kill(follower)
