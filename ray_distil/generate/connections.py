"""Connections to an endpoint: the HTTP client and its limits, what its errors mean, and the open files of a process.

The client is openai's over aiohttp, which takes a third of the CPU time of openai's default client. Three of its
properties are dealt with here:

- Without a limit of its own it has 1,000 connections at most, whatever number of requests wait. `http_client` sets it.
- Its limit for connecting counts from the wait for a free connection on. `timeouts` sets none for that wait, so that
  the silence of a server begins when the request is sent.
- It reports a refused or closed connection as a timeout. `connection_error` looks at the cause.
"""

import resource
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qsl

CONNECT_S = 60.0  # for a connection: a thousand TLS handshakes at once take several seconds
IDLE_S = 2.0  # that an idle connection is open; servers close theirs after 5 s (uvicorn) or more
OTHER_FILES = 256  # open files of a Ray worker, besides its connections


def http_client(num_connections: int) -> Any:
    """A client with so many connections at most."""
    import httpx2
    import openai

    limits = httpx2.Limits(
        max_connections=num_connections, max_keepalive_connections=num_connections, keepalive_expiry=IDLE_S
    )
    return openai.DefaultAioHttpClient(limits=limits)


def client(base_url: str, key: str, http_client: Any, silence_s: float) -> Any:
    """A client of a server. A query behind the base URL goes with each request: .../v1?api-version=2024-10-21 (Azure)."""
    from openai import AsyncOpenAI

    address, _, query = base_url.partition("?")
    return AsyncOpenAI(
        base_url=address,
        api_key=key or "none",
        default_query=dict(parse_qsl(query, keep_blank_values=True)),
        http_client=http_client,
        timeout=timeouts(silence_s),
        max_retries=0,  # the client's own retries would ignore the limits, and never wait longer than a minute
    )


def timeouts(silence_s: float) -> Any:
    """Limits for a server's silence and for connecting. There is none for the wait for a free connection."""
    import httpx2

    return httpx2.Timeout(silence_s, connect=CONNECT_S, pool=None)


def connection_error(error: BaseException) -> BaseException | None:
    """aiohttp's error, where `error` says that the connection was not made, or was closed. None for any other error.

    A server's silence is none: aiohttp has a class of its own for it.
    """
    import aiohttp

    for cause in _causes(error):
        if isinstance(cause, aiohttp.SocketTimeoutError):
            return None
        if isinstance(cause, aiohttp.ClientConnectionError | aiohttp.ClientPayloadError):
            return cause
    return None


def is_unsent(error: BaseException) -> bool:
    """Whether the request was never sent, since there was no connection."""
    import aiohttp

    return isinstance(connection_error(error), aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError)


def root_cause(error: BaseException) -> BaseException:
    """The last of the causes of an error that says something: openai says "Connection error." of all of them."""
    return next((cause for cause in reversed(list(_causes(error))) if str(cause).strip()), error)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error, its cause, the cause's cause, ..."""
    while error is not None:
        yield error
        error = error.__cause__


def num_files(num_connections: int) -> int:
    """Open files that a process needs: idle connections to one server stay open while those to another are made."""
    return 2 * num_connections + OTHER_FILES


def missing_files(num_connections: int) -> str:
    """What this machine's limit on open files lacks for so many connections in a process; "" if nothing."""
    hard_limit, needed = resource.getrlimit(resource.RLIMIT_NOFILE)[1], num_files(num_connections)
    if hard_limit == resource.RLIM_INFINITY or hard_limit >= needed:
        return ""
    return (
        f"{num_connections:,} connections of a process need {needed:,} open files, and this machine allows {hard_limit:,}; "
        f"raise its hard limit (ulimit -Hn {needed}), or set max_concurrency to {max(1, (hard_limit - OTHER_FILES) // 2)}"
    )


def allow_files(num_connections: int) -> None:
    """Raise this process' soft limit on open files to what so many connections need, where it is lower."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = num_files(num_connections)
    if soft != resource.RLIM_INFINITY and soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
