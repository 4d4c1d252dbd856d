"""How fast an endpoint may be asked: requests and tokens a minute, and the pauses that it asks for itself."""

import asyncio
import math
import random
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 60.0  # of those that the endpoint did not ask for
BURST_S = 1.0  # what was not spent is kept for so long


class Bucket:
    """A rate that is kept in the mean: what is spent beyond it must come in again before the next may spend."""

    def __init__(self, per_minute: float | None) -> None:
        self.rate = None if per_minute is None else per_minute / 60  # a second
        self.level = 0.0
        self.seen = time.monotonic()

    def wait_s(self) -> float:
        """Seconds until something may be spent."""
        if self.rate is None:
            return 0.0
        now = time.monotonic()
        self.level = min(self.level + (now - self.seen) * self.rate, self.rate * BURST_S)
        self.seen = now
        return max(0.0, -self.level / self.rate)

    def spend(self, amount: float) -> None:
        """A negative amount gives back."""
        self.level -= amount


class Pace:
    """Lets requests through one after the other, in the order in which they come."""

    def __init__(self, requests_per_minute: float | None, tokens_per_minute: float | None) -> None:
        self.requests, self.tokens = Bucket(requests_per_minute), Bucket(tokens_per_minute)
        self.not_before = 0.0
        self.turn = asyncio.Lock()
        self.num_replies, self.mean_tokens = 0, 0.0

    async def enter(self, most_tokens: float) -> float:
        """Wait for a request's turn; returns the tokens that are reserved for it.

        How many a reply takes is known afterwards: the mean of those before stands for it, the most before the first.
        """
        async with self.turn:
            while (wait := self._wait_s()) > 0:
                await asyncio.sleep(min(wait, 1.0))  # what is given back meanwhile shortens it
            reserved = self.mean_tokens if self.num_replies else most_tokens
            self.requests.spend(1)
            self.tokens.spend(reserved)
        return reserved

    def settle(self, reserved: float, tokens: int | None) -> None:
        """A request is over and took so many tokens; None: it failed, and is taken to have cost none."""
        self.tokens.spend((tokens or 0) - reserved)
        if tokens is not None:
            self.num_replies += 1
            self.mean_tokens += (tokens - self.mean_tokens) / self.num_replies

    def hold(self, seconds: float) -> None:
        """Let no request through for so long."""
        self.not_before = max(self.not_before, time.monotonic() + seconds)

    def _wait_s(self) -> float:
        return max(self.not_before - time.monotonic(), self.requests.wait_s(), self.tokens.wait_s())


def pause_s(failures: int) -> float:
    """Seconds before another try after so many failures: exponential, and jittered so that not all return at once."""
    return min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** (failures - 1)) * random.uniform(0.5, 1.0)


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Seconds that a reply asks to wait, by Retry-After (seconds or a date) or retry-after-ms; None: it does not."""
    try:
        if "retry-after-ms" in headers:
            return _seconds(float(headers["retry-after-ms"]) / 1000)
        text = headers["retry-after"]
    except (KeyError, ValueError):
        return None
    try:
        return _seconds(float(text))
    except ValueError:
        pass
    try:
        return _seconds((parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds())
    except (TypeError, ValueError, OverflowError):
        return None


def _seconds(given: float) -> float | None:
    return max(0.0, given) if math.isfinite(given) else None
