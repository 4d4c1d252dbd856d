"""How the driver learns of each training step: rank 0 sends it to an actor, which the driver asks once a second.

The driver, not the worker, writes the console and the metrics for Prometheus: a worker's node may be gone before
Prometheus reads its metrics.

Which failures of a training are retried by starting its workers again, and which end it at once:

- A lost worker or node: Ray Train starts the workers again, up to `training.max_failures` times.
- An error that a worker raises by itself would come again. It ends the training with the worker's own message.
- An error of a worker that talked to a lost worker, or to a store (MAY_PASS), is retried, unless the same error comes
  again at the same step.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import inf
from typing import Any

from ray_distil.errors import StageError, UserError
from ray_distil.runtime import metrics
from ray_distil.runtime.progress import Teller, clock
from ray_distil.runtime.session import last_line

ASK_SECONDS = 1.0
LINE_SECONDS = 10.0  # between two lines on the console, at least; a held-out loss is shown at once
# Key in a line of metrics.jsonl -> the gauge that shows its value.
GAUGES = {
    "step": "distil_train_step",
    "num_steps": "distil_train_steps",
    "loss": "distil_train_loss",
    "eval_loss": "distil_train_eval_loss",
    "grad_norm": "distil_train_grad_norm",
    "learning_rate": "distil_train_learning_rate",
    "tokens_per_s": "distil_train_tokens_per_s",
    "learnt_tokens_per_s": "distil_train_learnt_tokens_per_s",
    "mfu": "distil_train_mfu",
    "memory_gib": "distil_train_memory_gib",
}
MAY_PASS = (RuntimeError, OSError)  # what torch.distributed and filesystems raise
Line = dict[str, Any]  # one line of metrics.jsonl; `sft.py` and `meter.py` make its keys


def status(line: Line) -> str:
    """ "step 12 of 36, loss 1.2345, norm 0.52, rate 1.8e-05, 1,204 of 2,676 tokens/s learnt (45%), 0.4 GiB, 0:41 left"."""
    parts = [f"step {line['step']:,} of {line['num_steps']:,}", f"loss {line['loss']:.4f}"]
    for name, form in (
        ("eval_loss", "held out {:.4f}"),
        ("grad_norm", "norm {:.3g}"),
        ("learning_rate", "rate {:.2g}"),
    ):
        parts += [form.format(line[name])] if line.get(name) is not None else []
    if line.get("tokens_per_s"):
        learnt, every, share = (line[name] for name in ("learnt_tokens_per_s", "tokens_per_s", "learnt_share"))
        parts.append(f"{learnt:,.0f} of {every:,.0f} tokens/s learnt ({share:.0%})")
    for name, form in (("mfu", "MFU {:.1%}"), ("memory_gib", "{:.1f} GiB")):
        parts += [form.format(line[name])] if line.get(name) is not None else []
    if line.get("seconds_left"):
        parts.append(f"{clock(line['seconds_left'])} left")
    return ", ".join(parts)


class LastStep:
    """The newest step of a training, the tokens learnt so far, logged steps, and lines for the console; an actor."""

    def __init__(self) -> None:
        self.starts: list[tuple[int, int]] = []  # for each start of the workers: steps done before, steps in all
        self.state: Line = {}
        self.logged: list[Line] = []  # since the last `get`
        self.num_tokens = 0
        self.lines: list[str] = []

    def begin(self, done: int, steps: int) -> None:
        """The workers have started: `done` of all `steps` were done before."""
        self.starts.append((done, steps))
        self.state = {}

    def add(self, line: Line, is_logged: bool) -> None:
        self.state, self.num_tokens = line, self.num_tokens + line["num_learnt_tokens"]
        self.logged += [line] if is_logged else []

    def say(self, line: str) -> None:
        self.lines.append(line)

    def step(self) -> int:
        """The newest step that rank 0 sent; before the first one, the steps done before the workers started."""
        return int(self.state.get("step", self.starts[-1][0] if self.starts else 0))

    def get(self) -> tuple[list[tuple[int, int]], Line, int, list[str], list[Line]]:
        """Only the driver's thread may call this: it returns each logged line once."""
        logged, self.logged = self.logged, []
        return self.starts, self.state, self.num_tokens, self.lines, logged


@contextmanager
def followed(tell: Teller, say: Callable[[str], None] = print, run: str = "") -> Iterator[Any]:
    """The actor `LastStep`, to which the training sends its steps; a thread shows them with `tell` and `say`.

    The console gets the newest logged step, at most every LINE_SECONDS, and each step with a held-out loss at once.
    `run`: the name that metrics carry.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    # On the driver's node. Ray could choose any node, e.g. a teacher's, and this actor would keep it from being freed.
    strategy = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    follower = ray.remote(num_cpus=0, scheduling_strategy=strategy)(LastStep).remote()
    over = threading.Event()

    def listen() -> None:
        step_shown, tokens_told, num_starts, num_lines, held_out, last = 0, 0, 0, 0, "", False
        newest, told_at = "", -inf
        while not last:
            last = over.wait(ASK_SECONDS)
            try:
                starts, state, num_tokens, lines, logged = ray.get(follower.get.remote())
            except ray.exceptions.RayError:  # the node is lost, or Ray ends: the training itself reports that
                return

            for line in lines[num_lines:]:
                say(line)
            num_lines = len(lines)
            if len(starts) > num_starts:
                step_shown, steps = starts[-1]
                num_starts = len(starts)
                tell.expect(steps, done=step_shown, unit="steps")

            for line in logged:
                metrics.show({GAUGES[k]: v for k, v in line.items() if k in GAUGES and v is not None}, run=run)
                if line.get("seconds_left") is not None:
                    metrics.show({"distil_seconds_left": line["seconds_left"]}, run=run, stage="checkpoint")
                newest = status(line)
                if "eval_loss" in line:
                    held_out = f", held out {line['eval_loss']:.4f}"
                    tell.line(newest)
                    newest, told_at = "", time.monotonic()
            if newest and (last or time.monotonic() - told_at >= LINE_SECONDS):
                tell.line(newest)
                newest, told_at = "", time.monotonic()

            step = int(state.get("step", step_shown))
            if step != step_shown:
                metrics.show({GAUGES[name]: state[name] for name in ("step", "loss", "grad_norm")}, run=run)
                metrics.count("distil_train_tokens", num_tokens - tokens_told, run=run)
                tell.advance(step - step_shown, num_tokens - tokens_told, f"loss {state['loss']:.4f}{held_out}")
                step_shown, tokens_told = step, num_tokens

    thread = threading.Thread(target=listen, daemon=True)
    thread.start()
    try:
        yield follower
    finally:
        over.set()
        thread.join(2 * ASK_SECONDS)
        ray.kill(follower)


def final(errors: dict[int, Exception], step: int, retried: set[tuple[int, str]]) -> Exception | None:
    """The error, of these `errors` by rank, that ends the training; None where the workers may start again.

    `step`: the last finished step. `retried`: (step, error) of the errors that were retried; this function adds to it.
    """
    from ray.exceptions import RayError
    from ray.train.v2._internal.exceptions import RayTrainError

    for error in errors.values():
        if isinstance(error, StageError | UserError):
            return error
    if any(isinstance(error, RayError | RayTrainError) for error in errors.values()):
        return None  # a worker is lost; this is the cause of the other workers' errors
    for error in errors.values():
        attempt = (step, f"{type(error).__name__}: {error}")
        if not isinstance(error, MAY_PASS) or attempt in retried:
            return error
        retried.add(attempt)
    return None


def watcher(follower: Any, stage: str) -> Any:
    """The callback by which Ray Train ends a training with the error of `final`. `follower`: see `follow.py`."""
    import ray
    from ray.train import UserCallback

    class Watcher(UserCallback):
        def __init__(self) -> None:
            self.retried: set[tuple[int, str]] = set()

        def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
            step = ray.get(follower.step.remote())
            error = final(worker_exceptions, step, self.retried)
            if error is not None:
                raise error  # Ray Train does not retry an error that a callback raises
            rank, first = next(iter(worker_exceptions.items()))
            follower.say.remote(f"{stage}: worker {rank} failed after step {step}: {last_line(first)}")

    return Watcher()
