"""Generation by any OpenAI-compatible endpoint (DeepSeek's API, a fleet of `vllm serve`): a second `Generate`.

The contract is in `generation.py`. The client is openai's, in an actor, because ray.data.llm's processor of HTTP
requests knows neither Retry-After nor limits in tokens.

A request is retried after a transient error: no connection, a time-out, status 408, 409, 429 or 5xx, a broken stream.
It is retried a few times after a reply that cannot be read. Pauses grow and are jittered. A pause that the server asks
for (Retry-After) is kept exactly, after 429 by all requests; a request fails if the server asks for more than ten
minutes.

Each request ends in its own row: as a text (`replies.py`), or as an error with the server's own words.
"""

import asyncio
import json
import math
import os
import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ray_distil.config.engine_config import EndpointConfig
from ray_distil.generate.generation import ADDED, TIMES, Generate, check_messages
from ray_distil.generate.rate_limits import Pace, pause_s, retry_after_s
from ray_distil.generate.replies import FEW_TRIES, BadReply, Reply, words_of

if TYPE_CHECKING:
    from ray.data import Dataset

RETRIED = {408, 409, 429}  # and 5xx
LONGEST_RETRY_AFTER_S = 600.0
BATCH_SIZE = 16  # rows that are saved together
BATCHES = 8  # the actor holds BATCHES x max_concurrency rows, since a batch waits for its slowest reply
PATH = "/chat/completions"
CHARACTERS_PER_TOKEN = 3  # of a prompt: an estimate until the first reply gives token counts


def build(config: EndpointConfig) -> Generate:
    """Generation by an endpoint."""
    settings = config.model_dump()
    in_flight = BATCHES * max(1, -(-config.max_concurrency // BATCH_SIZE))

    def generate(dataset: "Dataset") -> "Dataset":
        import ray.data

        return dataset.repartition(target_num_rows_per_block=BATCH_SIZE).map_batches(
            Requests,
            fn_constructor_kwargs={"settings": settings},
            batch_size=BATCH_SIZE,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=1, max_tasks_in_flight_per_actor=in_flight),
            max_concurrency=in_flight,
            num_cpus=config.num_cpus,
        )

    return generate


class Requests:
    """An actor that keeps up to `max_concurrency` requests in flight, within the limits for each minute."""

    def __init__(self, settings: dict[str, Any]) -> None:
        from openai import AsyncOpenAI

        self.settings = settings
        name = settings["api_key_env"]
        self.key = os.environ.get(name, "") if name else ""
        self.client = AsyncOpenAI(
            base_url=settings["base_url"],
            api_key=self.key or "none",
            timeout=settings["timeout_s"],
            max_retries=0,  # the client's own retries would ignore the limits, and never wait longer than a minute
        )
        self.free = asyncio.Semaphore(settings["max_concurrency"])
        self.pace = Pace(settings["requests_per_minute"], settings["tokens_per_minute"])

    async def __call__(self, batch: pa.Table) -> AsyncIterator[pa.Table]:
        rows = batch.to_pylist()
        replies = await asyncio.gather(*(self.reply(row) for row in rows))
        timed = [name for name in TIMES if name in batch.column_names]
        kept = batch.drop_columns(["messages", "sampling_params", *timed])
        for name in timed:
            kept = kept.append_column(name, pa.array([reply.get(name, 0.0) for reply in replies], pa.float64()))
        made = pa.Table.from_pylist(replies, schema=ADDED)
        for name in ADDED.names:
            kept = kept.append_column(name, made[name])
        yield kept

    async def reply(self, row: dict[str, Any]) -> dict[str, Any]:
        """One row's reply in the columns ADDED. Any failure of this row's request is the row's `error`."""
        problem = check_messages(row["messages"])
        if problem:
            return failed(problem)
        failures = 0
        async with self.free:
            while True:
                try:
                    return await self.ask(row)
                except Exception as error:  # noqa: BLE001  uncaught, it would end the actor with other rows' replies
                    failures += 1
                    asked = _asked_to_wait_s(error)
                    if failures > min(self.settings["max_retries"], tries_of(error) - 1):
                        return failed(f"{_code(error)}: {self.told(error)}")
                    if asked is not None and asked > LONGEST_RETRY_AFTER_S:
                        told = f"the server asks to wait {asked:,.0f} s: {self.told(error)}"
                        return failed(f"{_code(error)}: {told}")
                    if asked is not None and getattr(error, "status_code", None) == 429:
                        self.pace.hold(asked)
                    await asyncio.sleep(pause_s(failures) if asked is None else asked)

    async def ask(self, row: dict[str, Any]) -> dict[str, Any]:
        """Send the request once. Raises openai.APIError, TimeoutError, and BadReply for an unusable reply."""
        params = row["sampling_params"]
        messages = [message for message in row["messages"] if message["content"]]  # without an empty system turn
        asked = {"model": self.settings["model"], "messages": messages, **params}
        if self.settings["stream"]:
            asked |= {"stream": True, "stream_options": {"include_usage": True}}
        asked |= self.settings["request_params"]
        num_characters = sum(len(message["content"]) for message in messages)
        reserved = await self.pace.enter(num_characters / CHARACTERS_PER_TOKEN + (params.get("max_tokens") or 0))
        tokens, started = None, time.monotonic()
        try:
            async with asyncio.timeout(self.settings["total_timeout_s"]):
                made = await self.sent({name: value for name, value in asked.items() if value is not None})
            tokens = made["num_prompt_tokens"] + made["num_generated_tokens"]
            return made | dict(zip(TIMES, (time.monotonic() - started, time.time()), strict=True))
        finally:
            self.pace.settle(reserved, tokens)

    async def sent(self, body: dict[str, Any]) -> dict[str, Any]:
        """Send `body` and read the reply as a row. `cast_to=object`: openai's types reject some servers' replies."""
        import openai

        reply = Reply()
        if not body.get("stream"):
            reply.add(await self.client.post(PATH, cast_to=object, body=body))
            return reply.row()
        stream = await self.client.post(
            PATH, cast_to=object, body=body, stream=True, stream_cls=openai.AsyncStream[object]
        )
        kind = stream.response.headers.get("content-type", "")
        if "json" in kind or "html" in kind:  # no stream: the server sent the whole reply, or an error, at once
            text = (await stream.response.aread()).decode(errors="replace")
            reply.add(json.loads(text) if "json" in kind else text)
            return reply.row()
        try:
            async for chunk in stream:
                if chunk is not None:
                    reply.add(chunk)
        except openai.APIError as error:
            if isinstance(error.body, dict):  # an error among the chunks
                reply.add({"error": error.body})
            raise
        return reply.row()

    def told(self, error: Exception) -> str:
        """The text of a row's error: the server's own words. The API key is masked, since a server may repeat it."""
        response = getattr(error, "response", None)
        text = words_of(error.body) if isinstance(getattr(error, "body", None), dict | list | str) else ""
        if isinstance(error, json.JSONDecodeError):
            text = f"not JSON: {words_of(error.doc)}"
        if not text and response is not None:
            text = words_of(response.text)
        text = text or (str(error).strip().splitlines() or [""])[0] or type(error).__name__
        return (text.replace(self.key, "***") if self.key else text)[:300]


def tries_of(error: Exception) -> float:
    """How often in all a request may be sent when it ends with this error; the limit `max_retries` holds besides."""
    import httpx2
    import openai

    if isinstance(error, BadReply):
        return math.inf if error.tries is None else error.tries
    status = getattr(error, "status_code", None)
    if status is not None:
        return math.inf if status in RETRIED or status >= 500 else 1
    passing = openai.APIError | httpx2.TransportError | TimeoutError
    return math.inf if isinstance(error, passing) else FEW_TRIES


def _asked_to_wait_s(error: Exception) -> float | None:
    response = getattr(error, "response", None)
    return None if response is None else retry_after_s(response.headers)


def failed(error: str) -> dict[str, Any]:
    """The columns ADDED of a row without a reply; `error` is "code: what was wrong"."""
    empty = {"generated_text": "", "num_prompt_tokens": 0, "num_generated_tokens": 0, "num_thinking_tokens": 0}
    return empty | {"finish_reason": "error", "error": error}


def _code(error: Exception) -> str:
    import openai

    if isinstance(error, BadReply):
        return error.code
    if isinstance(error, openai.APIStatusError):
        return f"http_{error.status_code}"
    if isinstance(error, openai.APITimeoutError | TimeoutError):
        return "timeout"
    return "no_connection" if isinstance(error, openai.APIConnectionError) else "bad_reply"
