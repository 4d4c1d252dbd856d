"""Which failures of a training are retried by starting its workers again, and which end it at once.

- A lost worker or node: Ray Train starts the workers again, up to `training.max_failures` times.
- An error that a worker raises by itself would come again. It ends the training with the worker's own message.
- An error of a worker that talked to a lost worker, or to a store (MAY_PASS), is retried, unless the same error comes
  again at the same step.
"""

from typing import Any

from ray_distil.errors import StageError, UserError

MAY_PASS = (RuntimeError, OSError)  # what torch.distributed and filesystems raise


def final(errors: dict[int, Exception], step: int, before: set[tuple[int, str]]) -> Exception | None:
    """The error, of these `errors` by rank, that ends the training; None where the workers may start again.

    `step`: the last finished step. `before`: (step, error) of the errors that were retried; this function adds to it.
    """
    from ray.exceptions import RayError
    from ray.train.v2._internal.exceptions import RayTrainError

    for error in errors.values():
        if isinstance(error, StageError | UserError):
            return error
    if any(isinstance(error, RayError | RayTrainError) for error in errors.values()):
        return None  # a worker is lost; this is the cause of the other workers' errors
    for error in errors.values():
        seen = (step, f"{type(error).__name__}: {error}")
        if not isinstance(error, MAY_PASS) or seen in before:
            return error
        before.add(seen)
    return None


def watcher(follower: Any, stage: str) -> Any:
    """The callback by which Ray Train ends a training with the error of `final`. `follower`: see `follow.py`."""
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
                raise error  # Ray Train does not retry an error that a callback raises
            rank, first = next(iter(worker_exceptions.items()))
            follower.say.remote(f"{stage}: worker {rank} failed after step {step}: {last_line(first)}")

    return Watcher()
