"""Generation by any OpenAI-compatible endpoint (DeepSeek's API, a fleet of `vllm serve`): the other `Generate`.

The contract is that of `engine.py`; the client is openai's, in an actor, since ray.data.llm's processor of HTTP requests
knows neither Retry-After nor limits in tokens. What may pass is asked again: no connection, time-outs, 408, 409, 429
and 5xx, a broken stream, what is no reply. Pauses grow and are jittered; where the server says Retry-After, it is kept
to the letter, by all requests where it says 429. The marks of thinking decide, not the field in which a text comes:

    reply                                      generated_text
    content                                    content
    reasoning apart (reasoning_content)        <think>\\nreasoning\\n</think>\\n\\ncontent
    reasoning alone: cut, or never closed      <think>\\nreasoning
    content with </think> and no <think>       <think>\\ncontent
"""

import asyncio
import os
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ray_distil.engine import ADDED, Generate, check_messages
from ray_distil.engine_config import EndpointConfig
from ray_distil.rate_limits import Pace, pause_s, retry_after_s
from ray_distil.reasoning import joined, thinking_of

if TYPE_CHECKING:
    from ray.data import Dataset

FINISHED = {"stop": "stop", "length": "length"}
REFUSED = {"content_filter"}  # finish reasons that another try would not change
RETRIED = {408, 409, 429}  # and 5xx
BATCH_SIZE = 16  # rows that are saved together
CHARACTERS_PER_TOKEN = 3  # of a prompt, before the first reply tells


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
    """An actor that keeps up to `max_concurrency` requests in flight, within the limits a minute."""

    def __init__(self, settings: dict[str, Any]) -> None:
        from openai import AsyncOpenAI

        self.settings = settings
        name = settings["api_key_env"]
        self.key = os.environ.get(name, "") if name else ""
        self.client = AsyncOpenAI(
            base_url=settings["base_url"],
            api_key=self.key or "none",
            timeout=settings["timeout_s"],
            max_retries=0,  # the client's own tries would go past the limits, and not wait longer than a minute
        )
        self.free = asyncio.Semaphore(settings["max_concurrency"])
        self.pace = Pace(settings["requests_per_minute"], settings["tokens_per_minute"])

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
        failures = 0
        async with self.free:
            while True:
                try:
                    return await self.ask(row)
                except (openai.APIError, httpx2.TransportError, TimeoutError, ValueError, LookupError) as error:
                    failures += 1
                    if failures > self.settings["max_retries"] or not is_worth_a_try(error):
                        return failed(f"{_code(error)}: {self.first_line(error)}")
                    await self.wait(error, failures)

    async def wait(self, error: Exception, failures: int) -> None:
        """The pause before the next try."""
        response = getattr(error, "response", None)
        asked = None if response is None else retry_after_s(response.headers)
        if asked is not None and response is not None and response.status_code == 429:
            self.pace.hold(asked)
        await asyncio.sleep(pause_s(failures) if asked is None else asked)

    async def ask(self, row: dict[str, Any]) -> dict[str, Any]:
        """One try. Raises openai.APIError, TimeoutError, and ValueError or LookupError for a reply that is none."""
        params = {name: value for name, value in row["sampling_params"].items() if value is not None}
        messages = [message for message in row["messages"] if message["content"]]  # an empty system turn is none
        asked = {"model": self.settings["model"], "messages": messages, **params}
        num_characters = sum(len(message["content"]) for message in messages)
        reserved = await self.pace.enter(num_characters / CHARACTERS_PER_TOKEN + params.get("max_tokens", 0))
        tokens = None
        try:
            async with asyncio.timeout(self.settings["total_timeout_s"]):
                made = await (self.streamed(asked) if self.settings["stream"] else self.at_once(asked))
            tokens = made["num_prompt_tokens"] + made["num_generated_tokens"]
            return made
        finally:
            self.pace.settle(reserved, tokens)

    async def at_once(self, asked: dict[str, Any]) -> dict[str, Any]:
        made = await self.client.chat.completions.create(**asked)
        choice = made.choices[0]
        return reply_row(reasoning_of(choice.message), choice.message.content, choice.finish_reason, made.usage)

    async def streamed(self, asked: dict[str, Any]) -> dict[str, Any]:
        reasoning, content, finish_reason, usage = [], [], None, None
        stream = await self.client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True})
        async for chunk in stream:
            usage = chunk.usage or usage
            for choice in chunk.choices:
                reasoning.append(reasoning_of(choice.delta) or "")
                content.append(choice.delta.content or "")
                finish_reason = choice.finish_reason or finish_reason
        return reply_row("".join(reasoning), "".join(content), finish_reason, usage)

    def first_line(self, error: Exception) -> str:
        """What a row's error says; a server may repeat the key in it."""
        text = (str(getattr(error, "message", None) or error).strip().splitlines() or [type(error).__name__])[0]
        return (text.replace(self.key, "***") if self.key else text)[:300]


def reasoning_of(message: Any) -> str | None:
    """The reasoning that a server gives apart from the content: DeepSeek and vLLM call it by two names."""
    return getattr(message, "reasoning_content", None) or getattr(message, "reasoning", None)


def reply_row(reasoning: str | None, content: str | None, finish_reason: str | None, usage: Any) -> dict[str, Any]:
    """A reply in the columns ADDED. Raises ValueError where it has no end, no text or no token counts."""
    if finish_reason is None:
        raise ValueError("the reply ends without a finish_reason")
    if usage is None:
        raise ValueError("the reply has no token counts (usage)")
    text = joined((reasoning or "").strip(), content or "")
    details = getattr(usage, "completion_tokens_details", None)
    share = len(thinking_of(text)) / max(1, len(text))
    counts = {
        "num_prompt_tokens": usage.prompt_tokens,
        "num_generated_tokens": usage.completion_tokens,
        "num_thinking_tokens": getattr(details, "reasoning_tokens", None) or round(usage.completion_tokens * share),
    }
    if finish_reason in REFUSED:
        return failed(f"{finish_reason}: the endpoint did not finish this reply") | counts
    if finish_reason not in FINISHED:  # insufficient_system_resource, abort, ...
        raise ValueError(f"the endpoint broke off ({finish_reason})")
    if not text.strip() and finish_reason == "stop":
        raise ValueError("the reply is empty")
    return {"generated_text": text, "finish_reason": FINISHED[finish_reason], "error": "", **counts}


def is_worth_a_try(error: Exception) -> bool:
    """Whether another try may end otherwise within minutes: all but a status that blames the request."""
    status = getattr(error, "status_code", None)
    return status is None or status in RETRIED or status >= 500


def failed(error: str) -> dict[str, Any]:
    """The columns ADDED of a row without a reply; `error` is "code: what was wrong"."""
    empty = {"generated_text": "", "num_prompt_tokens": 0, "num_generated_tokens": 0, "num_thinking_tokens": 0}
    return empty | {"finish_reason": "error", "error": error}


def _code(error: Exception) -> str:
    import openai

    if isinstance(error, openai.APIStatusError):
        return f"http_{error.status_code}"
    if isinstance(error, openai.APITimeoutError | TimeoutError):
        return "timeout"
    return "no_connection" if isinstance(error, openai.APIConnectionError) else "bad_reply"
