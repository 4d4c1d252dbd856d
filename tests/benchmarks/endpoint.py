"""How many requests are really in flight at an endpoint, beside a bare client that asks the same.

python -m tests.benchmarks.endpoint --rows 1500 --concurrency 64

The server is on loopback, in a process of its own; a reply takes log-normal seconds (sigma 0.8), the same for both.
Ratios within one run; the seconds include no start of Ray.
"""

import argparse
import asyncio
import json
import math
import multiprocessing
import random
import tempfile
import time
from multiprocessing.connection import Connection
from typing import Any

from ray_distil.config.engine_config import EndpointConfig
from ray_distil.generate import endpoint
from ray_distil.rows import instructions, teacher
from ray_distil.rows.question import Question
from ray_distil.store import schemas
from ray_distil.store.artifact import Artifact
from ray_distil.store.shards import table_of
from ray_distil.store.storage import Folder

SIGMA = 0.8
REPLY = {
    "id": "1",
    "object": "chat.completion",
    "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "It is 5."}}],
    "usage": {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8},
}


def seconds_of(row: int, mean: float) -> float:
    """How long the reply to a row takes."""
    return mean * random.Random(row).lognormvariate(-(SIGMA**2) / 2, SIGMA)


def serve(mean: float, pipe: Connection) -> None:
    """Sends its port; for each message then: requests in flight in the mean, from the first request to the last reply."""
    taken: list[tuple[float, float]] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.readuntil(b"\r\n\r\n"):
            size = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
            body = json.loads(await reader.readexactly(int(size.partition(b":")[2])))
            started = time.monotonic()
            await asyncio.sleep(seconds_of(int(body["messages"][-1]["content"].split()[0]), mean))
            data = json.dumps(REPLY).encode()
            kind = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
            writer.write(kind.encode() + data)
            taken.append((started, time.monotonic()))

    async def quietly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await answer(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    async def run() -> None:
        server = await asyncio.start_server(quietly, "127.0.0.1", 0, backlog=512)
        pipe.send(server.sockets[0].getsockname()[1])
        while await asyncio.to_thread(pipe.recv):
            begun, ended = min(one[0] for one in taken), max(one[1] for one in taken)
            pipe.send((len(taken), sum(end - start for start, end in taken) / (ended - begun), ended - begun))
            taken.clear()

    asyncio.run(run())


def problem(row: int) -> str:
    return f"{row} + 3?"


async def bare(url: str, rows: int, concurrency: int) -> None:
    """openai's client, a semaphore, and nothing else."""
    import openai

    client = openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0)
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


def ours(url: str, rows: int, concurrency: int) -> None:
    """A teacher's stage, from the problems' artifact to that of its responses."""
    config = EndpointConfig(base_url=url, model="m", api_key_env=None, max_concurrency=concurrency)
    question = Question({"max_tokens": 9})
    with tempfile.TemporaryDirectory() as folder:
        run = Folder.at(folder)
        problems = Artifact(run, "instructions", schemas.INSTRUCTIONS, "rows")
        problems.start()
        records = ({"instruction": problem(row), "answer": str(row + 3)} for row in range(rows))
        table = [instructions.instruction_row(record, "rows", "train", k) for k, record in enumerate(records)]
        problems.write_table(table_of(table, schemas.INSTRUCTIONS), instructions.STAGE)
        problems.finish(instructions.STAGE, "instructions", rows, 0)
        responses = Artifact(run, "responses", schemas.RESPONSES, "rows")
        responses.start()
        made = teacher.responses(problems.read(), endpoint.build(config), "direct", "m", question)
        responses.write([made], teacher.STAGE)
        manifest = responses.finish(teacher.STAGE, "responses", rows, 0)
    assert manifest.rows_out == rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1500)
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--mean", type=float, default=1.5, help="seconds of a reply in the mean")
    given = parser.parse_args()
    here, there = multiprocessing.Pipe()
    multiprocessing.Process(target=serve, args=(given.mean, there), daemon=True).start()
    url = f"http://127.0.0.1:{here.recv()}/v1"
    lengths = [seconds_of(row, given.mean) for row in range(given.rows)]
    possible = max(sum(lengths) / given.concurrency, max(lengths))

    import ray

    from ray_distil.runtime.session import start_ray

    start_ray(2)
    for name, ask in (("bare client", None), ("ray_distil", ours)):
        if ask is None:
            asyncio.run(bare(url, given.rows, given.concurrency))
        else:
            ask(url, given.rows, given.concurrency)
        here.send(True)
        rows, in_flight, seconds = here.recv()
        share = in_flight / given.concurrency
        print(
            f"{name:12} {rows:,} rows, in flight {in_flight:5.1f} of {given.concurrency} ({share:.2f}), "
            f"{seconds:6.1f} s, {math.ceil(10 * possible) / 10:.1f} possible"
        )
    here.send(False)
    ray.shutdown()


if __name__ == "__main__":
    main()
