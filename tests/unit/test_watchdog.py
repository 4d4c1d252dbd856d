"""A stage that goes wrong ends."""

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from ray_distil.errors import NoAccess, StoppedError, UserError
from ray_distil.runner import watchdog
from ray_distil.runner.watchdog import FailureLimit, steady
from ray_distil.store.shards import Written


def slowly(*pauses: float) -> Iterator[int]:
    for number, pause in enumerate(pauses):
        time.sleep(pause)
        yield number


def test_items_come_in_their_order_however_long_they_take_in_all() -> None:
    assert list(steady(slowly(*[0.05] * 8), minutes=0.2 / 60, stage="responses")) == list(range(8))
    assert list(steady(slowly(0.3), minutes=None, stage="responses")) == [0]


def test_no_item_for_too_long_ends_it() -> None:
    seen = []
    with pytest.raises(StoppedError, match=r"responses: no row was finished for 0.005 minutes \(run.stall_minutes\)"):
        seen += steady(slowly(0, 60), minutes=0.005, stage="responses")


def test_the_time_in_which_models_load_is_no_stall(monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine is ready when it has been looked for 20 times, some 0.4 s; its first row comes 0.5 s later."""
    monkeypatch.setattr(watchdog, "POLL_S", 0.02)
    looks = iter(range(20))

    def is_ready() -> bool:
        return next(looks, None) is None

    assert list(steady(slowly(0.9), minutes=0.7 / 60, stage="responses", is_ready=is_ready)) == [0]
    with pytest.raises(StoppedError, match="no row was finished"):
        list(steady(slowly(60), minutes=0.1 / 60, stage="responses", is_ready=is_ready))


def test_an_error_is_raised_where_the_item_is_asked_for() -> None:
    def broken() -> Iterator[int]:
        yield 1
        raise KeyError("lost")

    taken = steady(broken(), minutes=1, stage="responses")
    assert next(taken) == 1
    with pytest.raises(KeyError, match="lost"):
        next(taken)


def shard(tried: int, failed: int, **more: Any) -> Written:
    return {
        "rows_out": tried - failed,
        "rows_rejected": failed,
        "num_tried": tried,
        "num_failed": failed,
        "num_prompt_tokens": 0,
        "num_generated_tokens": 0,
        "rejects": json.dumps({"http_404": failed} if failed else {}),
        "why": json.dumps([["http_404", failed, "The model `nothere` does not exist."]] if failed else []),
        **more,
    }


def test_more_failures_than_allowed_end_it_but_not_at_the_first_rows() -> None:
    limit = FailureLimit(0.5, 1000, "responses", "R")
    limit.add(shard(60, 60))
    limit.add(shard(60, 0))  # half of 120 is no more than half
    with pytest.raises(StoppedError, match="responses: 61 of the first 121 rows failed") as told:
        limit.add(shard(1, 1))
    assert "most often http_404, 61 times: The model `nothere` does not exist. All reasons are in R." in str(told.value)


def test_a_stage_of_few_rows_is_judged_when_all_are_there() -> None:
    limit = FailureLimit(0.5, 10, "responses", "R")
    limit.add(shard(9, 9))
    with pytest.raises(StoppedError, match="10 of the first 10"):
        limit.add(shard(1, 1))


def test_a_stage_of_few_rows_is_judged_also_where_sources_were_unfit() -> None:
    """As rewrites are, of which a slow response that fails a gate is never asked."""
    limit = FailureLimit(0.5, 40, "rewrites", "R")
    limit.add(shard(0, 0, rows_rejected=3))
    limit.add(shard(36, 36))
    with pytest.raises(StoppedError, match="37 of the first 37"):
        limit.add(shard(1, 1))


def test_at_the_end_it_is_judged_however_few_rows_came() -> None:
    limit = FailureLimit(0.5, 40, "rewrites", "R")
    limit.add(shard(5, 5))
    with pytest.raises(StoppedError, match="5 of the first 5"):
        limit.judge()


def test_rows_that_failed_before_may_fail_again() -> None:
    limit = FailureLimit(0.5, 30, "responses", "R", num_known=20)
    limit.add(shard(20, 20))
    limit.add(shard(9, 9))
    limit.add(shard(1, 1))  # 30 are no more than 20 and half of 30
    limit = FailureLimit(0.5, 60, "responses", "R", num_known=20)
    with pytest.raises(StoppedError, match="60 of the first 60"):
        limit.add(shard(60, 60))


@pytest.mark.parametrize("reason", ["http_401", "http_402", "http_403"])
def test_the_first_row_that_is_refused_for_the_key_or_the_account_ends_it(reason: str) -> None:
    limit = FailureLimit(1.0, 1000, "responses", "R", num_known=500)
    limit.add(shard(60, 60))
    why = json.dumps([["timeout", 3, "none"], [reason, 1, "Insufficient Balance (m at host, key in A_KEY)"]])
    with pytest.raises(NoAccess, match=f"refuses all requests, {reason}: Insufficient Balance") as told:
        limit.add(shard(4, 4, why=why))
    assert isinstance(told.value, UserError)
    assert "the same command goes on" in str(told.value)


def test_sources_that_were_not_tried_are_no_failures() -> None:
    limit = FailureLimit(0.0, 200, "rewrites", "R")
    limit.add(shard(0, 0, rows_rejected=150))
    limit.add(shard(50, 0))
