"""Which failures of a training are tried again."""

import pytest
from ray.exceptions import ActorDiedError
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError

from ray_distil.errors import StageError, UserError
from ray_distil.train.follow import final

LOST = WorkerHealthCheckFailedError("a worker health check failed", ActorDiedError())
RESET = RuntimeError("Connection reset by peer")


@pytest.mark.parametrize("errors", [{1: LOST}, {0: RESET, 1: LOST}, {0: RESET}, {0: ConnectionError("no store")}])
def test_what_a_lost_worker_causes_may_be_mended(errors: dict[int, Exception]) -> None:
    assert final(errors, 3, set()) is None


def test_a_lost_worker_is_no_reason_to_stop_however_often_at_the_same_step() -> None:
    before: set[tuple[int, str]] = set()
    assert [final({0: RESET, 1: LOST}, 0, before) for _ in range(3)] == [None] * 3


@pytest.mark.parametrize(
    "error", [StageError("the loss is nan"), UserError("other workers"), TypeError("a mistake"), KeyError("step")]
)
def test_what_a_worker_raises_itself_ends_the_training(error: Exception) -> None:
    assert final({0: error}, 3, set()) is error
    assert final({0: LOST, 1: error}, 3, set()) is (error if isinstance(error, StageError | UserError) else None)


def test_the_same_error_at_the_same_step_ends_the_training() -> None:
    before: set[tuple[int, str]] = set()
    again = RuntimeError("Connection reset by peer")
    assert final({0: RESET}, 3, before) is None
    assert final({0: again}, 4, before) is None
    assert final({0: RuntimeError("another")}, 4, before) is None
    assert final({0: again}, 4, before) is again
