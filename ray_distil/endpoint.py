"""Generation by any OpenAI-compatible endpoint (DeepSeek's API, a fleet of `vllm serve`): the other `Generate`.

The contract is that of `engine.py`. Requests are retried by the openai client: 408, 409, 429 and 5xx, with jittered
exponential back-off, and as Retry-After says where the server says it; a stream that breaks is asked for again here.

    reply                                      generated_text
    content                                    content
    reasoning apart (reasoning_content)        <think>\\nreasoning\\n</think>\\n\\ncontent
    cut while still reasoning (no content)     <think>\\nreasoning            finish_reason "length"
"""

import asyncio
import os
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ray_distil.config import EndpointConfig
from ray_distil.engine import ADDED, Generate, check_messages

if TYPE_CHECKING:
    from ray.data import Dataset

FINISHED = {"stop": "stop", "length": "length"}
BATCH_SIZE = 16  # rows that are saved together


def build(config: EndpointConfig) -> Generate:
    """Generation by an endpoint."""
    settings = config.model_dump()
    # Batches overlap in the actor, so that a slow reply holds up its own batch only.
    in_flight = max(1, -(-config.max_concurrency // BATCH_SIZE)) + 1

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
    """An actor that keeps up to `max_concurrency` requests in flight."""

    def __init__(self, settings: dict[str, Any]) -> None:
        from openai import AsyncOpenAI

        self.settings = settings
        name = settings["api_key_env"]
        self.client = AsyncOpenAI(
            base_url=settings["base_url"],
            api_key=os.environ.get(name, "") if name else "none",
            timeout=settings["timeout_s"],
            max_retries=settings["max_retries"],
        )
        self.free = asyncio.Semaphore(settings["max_concurrency"])

    async def __call__(self, batch: pa.Table) -> AsyncIterator[pa.Table]:
        rows = batch.to_pylist()
        replies = await asyncio.gather(*(self.reply(row) for row in rows))
        kept = batch.drop_columns(["messages", "sampling_params"])
        made = pa.Table.from_pylist(replies, schema=ADDED)
        for name in ADDED.names:
            kept = kept.append_column(name, made[name])
        yield kept

    async def reply(self, row: dict[str, Any]) -> dict[str, Any]:
        """One row's reply in the columns ADDED; what goes wrong with this row alone is its error."""
        import httpx2
        import openai

        problem = check_messages(row["messages"])
        if problem:
            return failed(problem)
        async with self.free:
            for left in reversed(range(self.settings["max_retries"] + 1)):
                try:
                    return await self.ask(row)
                except openai.APIStatusError as error:  # those worth it have been tried again
                    return failed(f"http_{error.status_code}: {_first_line(error.message)}")
                except (openai.APIError, httpx2.TransportError, ValueError, LookupError) as error:
                    # No connection or time-out: the client has tried again. A broken stream, an error that is told in
                    # it, or what is no reply: not.
                    if left == 0 or isinstance(error, openai.APIConnectionError):
                        return failed(f"{_code(error)}: {_first_line(str(error))}")
        raise AssertionError("unreachable")

    async def ask(self, row: dict[str, Any]) -> dict[str, Any]:
        """Raises ValueError or LookupError for a reply that is none."""
        params = {name: value for name, value in row["sampling_params"].items() if value is not None}
        asked = {"model": self.settings["model"], "messages": row["messages"], **params}
        if not self.settings["stream"]:
            made = await self.client.chat.completions.create(**asked)
            choice = made.choices[0]
            return reply_row(reasoning_of(choice.message), choice.message.content, choice.finish_reason, made.usage)
        reasoning, content, finish_reason, usage = [], [], None, None
        stream = await self.client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True})
        async for chunk in stream:
            usage = chunk.usage or usage
            for choice in chunk.choices:
                reasoning.append(reasoning_of(choice.delta) or "")
                content.append(choice.delta.content or "")
                finish_reason = choice.finish_reason or finish_reason
        return reply_row("".join(reasoning), "".join(content), finish_reason, usage)


def reasoning_of(message: Any) -> str | None:
    """The reasoning that a server gives apart from the content: DeepSeek and vLLM call it by two names."""
    return getattr(message, "reasoning_content", None) or getattr(message, "reasoning", None)


def reply_row(reasoning: str | None, content: str | None, finish_reason: str | None, usage: Any) -> dict[str, Any]:
    """A reply in the columns ADDED. Raises ValueError where it has no end or no token counts."""
    if finish_reason is None:
        raise ValueError("the reply ends without a finish_reason")
    if usage is None:
        raise ValueError("the reply has no token counts (usage)")
    counts = {"num_prompt_tokens": usage.prompt_tokens, "num_generated_tokens": usage.completion_tokens}
    if finish_reason not in FINISHED:  # content_filter, insufficient_system_resource, ...
        return failed(f"{finish_reason}: the endpoint did not finish this reply") | counts
    text = content or ""
    if reasoning:
        closed = "\n</think>\n\n" if content or finish_reason == "stop" else ""
        text = f"<think>\n{reasoning.strip()}{closed}{text}"
    return {"generated_text": text, "finish_reason": FINISHED[finish_reason], "error": "", **counts}


def failed(error: str) -> dict[str, Any]:
    """The columns ADDED of a row without a reply; `error` is "code: what was wrong"."""
    empty = {"generated_text": "", "num_prompt_tokens": 0, "num_generated_tokens": 0}
    return empty | {"finish_reason": "error", "error": error}


def _code(error: Exception) -> str:
    import openai

    if isinstance(error, openai.APITimeoutError):
        return "timeout"
    return "no_connection" if isinstance(error, openai.APIConnectionError) else "bad_reply"


def _first_line(text: str) -> str:
    return (text.strip().splitlines() or [""])[0][:300]
