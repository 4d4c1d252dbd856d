"""How the driver hears of each training step: rank 0 tells an actor, the driver asks it once a second."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ray_distil.progress import Teller

ASK_SECONDS = 1.0


class LastStep:
    """The newest step of a training, and the tokens learnt so far; an actor."""

    def __init__(self) -> None:
        self.state: dict[str, float] = {}
        self.num_tokens = 0

    def add(self, state: dict[str, float], num_tokens: int) -> None:
        self.state, self.num_tokens = state, self.num_tokens + num_tokens

    def get(self) -> tuple[dict[str, float], int]:
        return self.state, self.num_tokens


@contextmanager
def followed(tell: Teller) -> Iterator[Any]:
    """A handle that the training calls `add.remote` of; what it says is told on until the end."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    # On the driver's node: on another, which Ray would choose at random, it would keep a teacher from being let go.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    follower = ray.remote(num_cpus=0, scheduling_strategy=here)(LastStep).remote()
    over = threading.Event()

    def listen() -> None:
        told, tokens_told, last = 0, 0, False
        while not last:
            last = over.wait(ASK_SECONDS)
            try:
                state, num_tokens = ray.get(follower.get.remote())
            except ray.exceptions.RayError:  # a lost node or a Ray that ends: training says so itself
                return
            step = int(state.get("step", 0))
            if step == told:
                continue
            if not told:
                tell.expect(int(state["steps"]), unit="steps")
            tell.advance(step - told, num_tokens - tokens_told, f"loss {state['loss']:.4f}")
            told, tokens_told = step, num_tokens

    thread = threading.Thread(target=listen, daemon=True)
    thread.start()
    try:
        yield follower
    finally:
        over.set()
        thread.join(2 * ASK_SECONDS)
        ray.kill(follower)
