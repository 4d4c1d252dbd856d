"""Which failures of a training are mended by starting its workers again, and which end it at once.

A worker or node that is lost is mended by Ray Train, so many times. What a worker raises itself would be raised again:
it ends the training with its own message. Between the two lie the errors of those that talked to a lost worker, or to a
store: these are tried again, unless the same one comes again at the same step.
"""

from typing import Any

from ray_distil import UserError
from ray_distil.store.shards import StageError

MAY_PASS = (RuntimeError, OSError)  # what torch.distributed and filesystems raise


def final(errors: dict[int, Exception], step: int, before: set[tuple[int, str]]) -> Exception | None:
    """The error of these, by rank, that ends the training; None: it may be mended.

    `step`: the last one that was finished. `before`: errors that were tried again, by step; it is added to.
    """
    from ray.exceptions import RayError
    from ray.train.v2._internal.exceptions import RayTrainError

    for error in errors.values():
        if isinstance(error, StageError | UserError):
            return error
    if any(isinstance(error, RayError | RayTrainError) for error in errors.values()):
        return None  # a worker is lost; what the others raise comes of that
    for error in errors.values():
        seen = (step, f"{type(error).__name__}: {error}")
        if not isinstance(error, MAY_PASS) or seen in before:
            return error
        before.add(seen)
    return None


def watcher(follower: Any, stage: str) -> Any:
    """The callback that tells Ray Train to end a training by `final`. `follower`: see `follow.py`."""
    import ray
    from ray.train import UserCallback

    from ray_distil.runtime.session import last_line

    class Watcher(UserCallback):
        def __init__(self) -> None:
            self.before: set[tuple[int, str]] = set()

        def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
            step = ray.get(follower.step.remote())
            error = final(worker_exceptions, step, self.before)
            if error is not None:
                raise error  # Ray Train tries none again that a callback raises
            rank, first = next(iter(worker_exceptions.items()))
            follower.say.remote(f"{stage}: worker {rank} failed after step {step}: {last_line(first)}")

    return Watcher()
