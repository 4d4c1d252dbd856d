"""How many requests are really in flight at an endpoint, and the client's CPU time, beside bare clients of the same rows.

python -m tests.benchmarks.endpoint --rows 1500 --concurrency 64
python -m tests.benchmarks.endpoint --rows 10000 --concurrency 2000 --mean 10 --longest 6

The server is on loopback, in a process of its own; a reply takes log-normal seconds (sigma 0.8), the same for each client.
Two means of the requests in flight: from the first request to the last reply; and, in brackets, from the first request
to the last request, which is the time in which rows still wait: the start of the requests is in it, the end is not.

Milliseconds of CPU a request: of the bare client's process, and of the actors (`--actor`), from the first request on.
Ratios within one run; the seconds include no start of Ray.
"""

import argparse
import asyncio
import json
import math
import multiprocessing
import random
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from multiprocessing.connection import Connection
from typing import Any

import psutil

from ray_distil.config.engine_config import EndpointConfig
from ray_distil.generate import endpoint
from ray_distil.generate.question import Question
from ray_distil.problems import collecting
from ray_distil.stages.responses import responses as responses_of
from ray_distil.store import schemas
from ray_distil.store.artifact import Artifact
from ray_distil.store.shards import table_of
from ray_distil.store.storage import Folder

SIGMA = 0.8
PARTS = 10  # of the time in which rows wait, each with its own mean
REPLY = {
    "id": "1",
    "object": "chat.completion",
    "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "It is 5."}}],
    "usage": {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8},
}


def seconds_of(row: int, mean: float, longest: float) -> float:
    """How long the reply to a row takes; `longest`: a limit, in units of the mean."""
    return mean * min(longest, random.Random(row).lognormvariate(-(SIGMA**2) / 2, SIGMA))


def serve(mean: float, longest: float, pipe: Connection, num_requests: Any) -> None:
    """Sends its port; for each message then: number of replies, both means of requests in flight, and seconds.

    `num_requests` is a number that other processes see.
    """
    intervals: list[tuple[float, float]] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.readuntil(b"\r\n\r\n"):
            size = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
            body = json.loads(await reader.readexactly(int(size.partition(b":")[2])))
            started = time.monotonic()
            num_requests.value += 1
            await asyncio.sleep(seconds_of(int(body["messages"][-1]["content"].split()[0]), mean, longest))
            data = json.dumps(REPLY).encode()
            kind = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
            writer.write(kind.encode() + data)
            intervals.append((started, time.monotonic()))

    async def quietly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await answer(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    def in_flight(begin: float, end: float) -> float:
        """The mean between two times."""
        overlaps = (min(last, end) - max(first, begin) for first, last in intervals)
        return sum(max(0.0, overlap) for overlap in overlaps) / max(end - begin, 1e-9)

    async def run() -> None:
        server = await asyncio.start_server(quietly, "127.0.0.1", 0, backlog=4096)
        pipe.send(server.sockets[0].getsockname()[1])
        while await asyncio.to_thread(pipe.recv):
            first, last_request = min(one[0] for one in intervals), max(one[0] for one in intervals)
            last_reply = max(one[1] for one in intervals)
            means = in_flight(first, last_reply), in_flight(first, last_request)
            edges = [first + (last_request - first) * part / PARTS for part in range(PARTS + 1)]
            profile = [in_flight(*window) for window in pairwise(edges)]
            pipe.send((len(intervals), *means, profile, last_request - first, last_reply - first))
            intervals.clear()
            num_requests.value = 0

    asyncio.run(run())


class Clock:
    """CPU seconds of a set of processes since the server's first request; `seconds` holds their sum."""

    def __init__(self, name: str | None) -> None:
        """`name`: a part of the command lines of the processes; None: this process."""
        self.name, self.seconds = name, 0.0

    @contextmanager
    def running(self, num_requests: Any) -> Iterator["Clock"]:
        ended = threading.Event()
        start: dict[int, float] = {}
        latest: dict[int, float] = {}

        def watch() -> None:
            while not ended.wait(0.5):
                now = self._of_each()
                if num_requests.value == 0:
                    start.update(now)
                latest.update(now)

        start.update(self._of_each())
        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        yield self
        ended.set()
        thread.join()
        if self.name is None:
            latest.update(self._of_each())
        self.seconds = sum(value - start.get(pid, 0.0) for pid, value in latest.items())

    def _of_each(self) -> dict[int, float]:
        seconds = {}
        own = psutil.Process()
        for process in [own] if self.name is None else own.children(recursive=True):
            try:
                if self.name is None or self.name in " ".join(process.cmdline()):
                    times = process.cpu_times()
                    seconds[process.pid] = times.user + times.system
            except psutil.Error:  # it has ended
                continue
        return seconds


def problem(row: int) -> str:
    return f"{row} + 3?"


async def bare(url: str, rows: int, concurrency: int, http_client: Any) -> None:
    """openai's client, a semaphore, and nothing else."""
    import openai

    client = openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0, http_client=http_client)
    free = asyncio.Semaphore(concurrency)

    async def ask(row: int) -> Any:
        async with free:
            return await client.chat.completions.create(
                model="m",
                messages=[{"role": "user", "content": problem(row)}],
                max_tokens=9,
                seed=row,
            )

    await asyncio.gather(*map(ask, range(rows)))


def bare_httpx(url: str, rows: int, concurrency: int) -> None:
    asyncio.run(bare(url, rows, concurrency, None))


def bare_aiohttp(url: str, rows: int, concurrency: int) -> None:
    import httpx2
    import openai

    async def run() -> None:
        limits = httpx2.Limits(max_connections=concurrency, max_keepalive_connections=concurrency)
        await bare(url, rows, concurrency, openai.DefaultAioHttpClient(limits=limits))

    asyncio.run(run())


def ours(url: str, rows: int, concurrency: int) -> None:
    """A teacher's stage, from the problems' artifact to that of its responses."""
    config = EndpointConfig(base_url=url, model="m", api_key_env=None, max_concurrency=concurrency)
    question = Question({"max_tokens": 9})
    with tempfile.TemporaryDirectory() as folder:
        run = Folder.at(folder)
        problems = Artifact(run, "instructions", schemas.INSTRUCTIONS, "rows")
        problems.start()
        records = ({"instruction": problem(row), "answer": str(row + 3)} for row in range(rows))
        table = [collecting.instruction_row(record, "rows", "train", k) for k, record in enumerate(records)]
        problems.write_table(table_of(table, schemas.INSTRUCTIONS), "instructions")
        problems.finish("instructions", "instructions", rows, 0)
        responses = Artifact(run, "responses", schemas.RESPONSES, "rows")
        responses.start()
        made = responses_of(problems.read(), endpoint.build(config, rows), "direct", "m", question)
        responses.write([made], "responses")
        manifest = responses.finish("responses", "responses", rows, 0)
    assert manifest.rows_out == rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1500)
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--mean", type=float, default=1.5, help="seconds of a reply in the mean")
    parser.add_argument(
        "--longest", type=float, default=math.inf, help="reply, in units of the mean: as max_tokens cuts"
    )
    parser.add_argument("--actor", default="Requests", help="a part of the actors' command lines")
    parser.add_argument("--clients", nargs="+", choices=CLIENTS, default=list(CLIENTS))
    arguments = parser.parse_args()

    here, there = multiprocessing.Pipe()
    num_requests = multiprocessing.Value("q", 0, lock=False)
    served = (arguments.mean, arguments.longest, there, num_requests)
    multiprocessing.Process(target=serve, args=served, daemon=True).start()
    url = f"http://127.0.0.1:{here.recv()}/v1"
    lengths = [seconds_of(row, arguments.mean, arguments.longest) for row in range(arguments.rows)]
    possible = max(sum(lengths) / arguments.concurrency, max(lengths))

    import ray

    from ray_distil.runtime.session import start_ray

    for name in arguments.clients:
        client = CLIENTS[name]
        if client is ours:
            start_ray(2)
        with Clock(arguments.actor if client is ours else None).running(num_requests) as clock:
            client(url, arguments.rows, arguments.concurrency)
        here.send(True)
        rows, in_flight, in_flight_before, profile, seconds_before, seconds = here.recv()
        shares = in_flight / arguments.concurrency, in_flight_before / arguments.concurrency
        print(
            f"{name:12} {rows:,} rows, in flight {in_flight:5.1f} [{in_flight_before:5.1f}] of {arguments.concurrency} "
            f"({shares[0]:.2f} [{shares[1]:.2f}]), {seconds:6.1f} [{seconds_before:.1f}] s, {math.ceil(10 * possible) / 10:.1f} possible, "
            f"{1000 * clock.seconds / rows:.2f} ms CPU a request",
        )
        print(f"{'':12} each of {PARTS} parts of that time: {' '.join(f'{mean:.0f}' for mean in profile)}", flush=True)
    here.send(False)
    ray.shutdown()


CLIENTS = {"bare": bare_httpx, "bare-aiohttp": bare_aiohttp, "ray_distil": ours}


if __name__ == "__main__":
    main()
