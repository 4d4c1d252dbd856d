"""The servers of an endpoint: which of them gets a request, and which of them is away.

A request goes to the server with the fewest requests in flight, so a slow server gets fewer. A server that cannot be
reached rests: it gets no request for a time that grows from half a second to a minute. Then it gets one request on
trial, and all its share again after the first reply.

    servers   a: 250 in flight   b: 248 in flight   c: rests
    next      b
"""

import random
import time
from collections.abc import Sequence
from typing import Any

from ray_distil.generate.rate_limits import pause_s


class Server:
    """One base URL, with the client that sends requests there."""

    def __init__(self, client: Any) -> None:
        self.client = client
        self.num_in_flight = 0
        self.num_rests = 0  # since its last reply
        self.rests_until = 0.0  # monotonic
        self.is_on_trial = False

    def is_open(self) -> bool:
        """Whether it may get a request now."""
        if time.monotonic() < self.rests_until:
            return False
        return self.num_rests == 0 or not self.is_on_trial

    def begin(self) -> None:
        """A request is sent."""
        self.num_in_flight += 1
        self.is_on_trial = self.num_rests > 0

    def end(self) -> None:
        """A request has ended, in whatever way."""
        self.num_in_flight -= 1
        self.is_on_trial = False

    def answered(self) -> None:
        """The server has sent a reply."""
        self.num_rests, self.rests_until = 0, 0.0

    def lost(self, retry_after: float = 0.0) -> None:
        """The server was not reached, or asks for so many seconds. Many requests that are lost at once count once."""
        if time.monotonic() >= self.rests_until:
            self.num_rests += 1
            self.rest(max(retry_after, pause_s(self.num_rests)))

    def rest(self, seconds: float) -> None:
        """Get no request for the next `seconds`."""
        self.rests_until = max(self.rests_until, time.monotonic() + seconds)


class Servers:
    """All servers of an endpoint, which serve the same model."""

    def __init__(self, servers: Sequence[Server]) -> None:
        self.servers = list(servers)

    def __len__(self) -> int:
        return len(self.servers)

    def has_open(self) -> bool:
        return any(server.is_open() for server in self.servers)

    def choose(self, last: Server | None = None) -> Server:
        """The server for a request. `last` is where its last try failed: another is taken where there is one.

        Where all rest, it is the server whose rest ends first.
        """
        now = time.monotonic()
        servers = [server for server in self.servers if server.is_open()] or self.servers
        servers = [server for server in servers if server is not last] or servers
        return min(servers, key=lambda server: (max(now, server.rests_until), server.num_in_flight, random.random()))
