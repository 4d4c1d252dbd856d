"""The pace of requests to an endpoint: requests and tokens a minute, and pauses that the endpoint asks for."""

import asyncio
import math
import random
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

FIRST_PAUSE_S = 0.5
DOUBLINGS = 30  # more of them only make the number too large for a float
LONGEST_PAUSE_S = 60.0  # does not limit a pause that the endpoint asks for
BURST_S = 1.0  # an idle bucket saves at most what this many seconds give


class Bucket:
    """A mean rate. After too much is spent, nobody may spend until time has paid it back.

    E.g. at 60 a minute, an amount of 5 at once means to wait for about 5 seconds.
    """

    def __init__(self, per_minute: float | None) -> None:
        self.rate = None if per_minute is None else per_minute / 60  # a second
        self.level = 0.0
        self.updated_at = time.monotonic()

    def wait_s(self) -> float:
        """Seconds until something may be spent."""
        if self.rate is None:
            return 0.0
        now = time.monotonic()
        self.level = min(self.level + (now - self.updated_at) * self.rate, self.rate * BURST_S)
        self.updated_at = now
        return max(0.0, -self.level / self.rate)

    def spend(self, amount: float) -> None:
        """Spend an amount; a negative one is given back."""
        self.level -= amount


class Pace:
    """Lets requests through one by one within both limits, in the order in which they come."""

    def __init__(self, requests_per_minute: float | None, tokens_per_minute: float | None) -> None:
        self.requests, self.tokens = Bucket(requests_per_minute), Bucket(tokens_per_minute)
        self.not_before = 0.0
        self.turn = asyncio.Lock()
        self.num_replies, self.mean_tokens = 0, 0.0

    async def enter(self, most_tokens: float) -> float:
        """Wait for a request's turn; returns the tokens that are reserved for it.

        The real number of tokens is known only after the reply. Until the first reply `most_tokens` are reserved; later
        the mean of the earlier requests.
        """
        async with self.turn:
            while (wait := self._wait_s()) > 0:
                await asyncio.sleep(min(wait, 1.0))  # tokens that `settle` gives back meanwhile shorten the wait
            reserved = self.mean_tokens if self.num_replies else most_tokens
            self.requests.spend(1)
            self.tokens.spend(reserved)
        return reserved

    def settle(self, reserved: float, tokens: int | None) -> None:
        """A request has ended. `tokens`: what it really took; None: it failed, and counts as 0 tokens."""
        self.tokens.spend((tokens or 0) - reserved)
        if tokens is not None:
            self.num_replies += 1
            self.mean_tokens += (tokens - self.mean_tokens) / self.num_replies

    def hold(self, seconds: float) -> None:
        """Let no request through for the next `seconds`."""
        self.not_before = max(self.not_before, time.monotonic() + seconds)

    def _wait_s(self) -> float:
        return max(self.not_before - time.monotonic(), self.requests.wait_s(), self.tokens.wait_s())


def pause_s(failures: int) -> float:
    """Seconds before the next try of a request after `failures` failures. They double with each failure, up to
    LONGEST_PAUSE_S, and are jittered, so that not all requests come back at once.
    """
    return min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(failures - 1, DOUBLINGS)) * random.uniform(0.5, 1.0)


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Seconds that a reply asks to wait, by Retry-After (seconds or a date) or retry-after-ms; None without."""
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


def _seconds(number: float) -> float | None:
    return max(0.0, number) if math.isfinite(number) else None
