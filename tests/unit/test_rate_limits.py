"""How long is waited: in arithmetic, without a server."""

import asyncio
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from ray_distil.generate import rate_limits
from ray_distil.generate.rate_limits import Bucket, Pace, pause_s, retry_after_s


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(rate_limits.time, "monotonic", lambda: self.now)


def test_what_is_spent_beyond_the_rate_must_come_in_again(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, spent = Clock(monkeypatch), 0.0
    bucket = Bucket(600)  # ten a second
    for _ in range(1000):
        if bucket.wait_s() == 0:
            bucket.spend(7)
            spent += 7
        clock.now += 0.01
    assert 93 <= spent <= 100 + 10 + 7  # ten seconds, what a second keeps, and the last one


def test_a_pause_after_many_failures_is_a_minute_at_most() -> None:
    """A server may be away for days."""
    assert 30 <= pause_s(5000) <= 60


def test_what_is_not_spent_is_not_kept_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, bucket = Clock(monkeypatch), Bucket(60)
    clock.now += 3600
    bucket.wait_s()
    assert bucket.level == pytest.approx(1)
    bucket.spend(5)
    assert bucket.wait_s() == pytest.approx(4)
    bucket.spend(-4)
    assert bucket.wait_s() == 0


def test_the_most_is_reserved_until_a_reply_tells_the_mean() -> None:
    async def run() -> list[float]:
        pace = Pace(None, 6e6)
        reserved = [await pace.enter(9000)]
        pace.settle(reserved[0], None)  # it failed
        reserved.append(await pace.enter(9000))
        pace.settle(reserved[1], 100)
        reserved.append(await pace.enter(9000))
        pace.settle(reserved[2], 300)
        return [*reserved, await pace.enter(9000)]

    assert asyncio.run(run()) == [9000, 9000, 100, 200]


def test_pauses_grow_and_differ() -> None:
    for failures, longest in [(1, 0.5), (2, 1), (5, 8), (20, 60)]:
        pauses = {pause_s(failures) for _ in range(50)}
        assert len(pauses) > 1
        assert all(longest / 2 <= pause <= longest for pause in pauses)


def test_retry_after() -> None:
    assert retry_after_s({"retry-after": "2.5"}) == 2.5
    assert retry_after_s({"retry-after-ms": "250", "retry-after": "9"}) == 0.25
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=90), usegmt=True)
    assert 60 < (retry_after_s({"retry-after": date}) or 0) <= 90
    assert retry_after_s({"retry-after": "Thu, 01 Jan 2015 00:00:00 GMT"}) == 0
    assert retry_after_s({"retry-after": "soon"}) is None
    assert retry_after_s({}) is None
