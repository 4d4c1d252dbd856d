"""Generation by any OpenAI-compatible endpoint (DeepSeek's API, a fleet of `vllm serve`): a second `Generate`.

The contract is in `generation.py`. The client is openai's, in actors of up to a thousand requests in flight each,
because ray.data.llm's processor of HTTP requests knows neither Retry-After nor limits in tokens.

A request is retried after a transient error: no connection, a time-out, status 408, 409, 429 or 5xx, a broken stream.
It is retried a few times after a reply that cannot be read. Pauses grow and are jittered. A pause that the server asks
for (Retry-After) is kept exactly, after 429 by all requests; a request fails if the server asks for more than ten
minutes. Where the endpoint has several servers, a retry goes to another one (`servers.py`), at once where a server is
away; the first such moves count for nothing in `max_retries`.

Each request ends in its own row: as a text (`replies.py`), or as an error with the server's own words.

Where the server refuses the key or the account (401, 402, 403), no further request is sent: each row that is left has the
same error, by which the driver stops the stage. A status of 403 may also be about one text. So it counts as such a refusal
only where a harmless question gets it too.

Rows are saved in small batches, since a batch leaves the actor when its longest reply is there. No batch is returned in
parts, or with rows of another batch: where an actor is lost, Ray runs its task again, skips as many blocks as came
before, and expects that the rest are the same rows. Rows that come in the order of the replies would then be lost or
doubled.
"""

import asyncio
import json
import math
import os
import time
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa

from ray_distil.config.engine_config import EndpointConfig, wrong_key
from ray_distil.config.findings import Finding
from ray_distil.errors import BadReply, UserError
from ray_distil.generate import connections
from ray_distil.generate.generation import ADDED, TIMES, Generate, check_messages
from ray_distil.generate.rate_limits import Pace, pause_s, retry_after_s
from ray_distil.generate.replies import FEW_TRIES, Reply, chunks_of, parsed, reply_of, words_of
from ray_distil.generate.servers import Server, Servers
from ray_distil.runtime.redaction import redacted

if TYPE_CHECKING:
    from ray.data import Dataset

RETRIED = {408, 409, 429}  # and 5xx
KEY_OR_ACCOUNT = {401, 402, 403}  # what is refused for them, see `generation.NO_ACCESS`
ABOUT_A_TEXT = "content_filter"  # the code of a row that a server with this key refuses alone
PROMPT = "What is 1 + 1?"  # the harmless question
LIMITS = ("max_tokens", "max_completion_tokens")
AWAY = {502, 503, 504}  # a gateway's words for a server that is away
LONGEST_RETRY_AFTER_S = 600.0
PLACES = 1000  # requests in flight of one actor: about a millisecond of CPU time each, and one core
LARGEST_BATCH = 32  # rows that are saved together; a batch costs Ray Data's driver 15 to 20 ms
PLACES_OF_A_ROW = 16  # of all places, for each row of a batch: 4 rows at 64 requests in flight
ROWS_OF_A_PLACE = 8  # that an actor holds, since a batch waits for its slowest reply
MOST_MOVES = 3  # of a request whose server closes the connection: it may be this request that ends the servers
PATH = "/chat/completions"
CHARACTERS_PER_TOKEN = 3  # of a prompt: an estimate until the first reply gives token counts


class Clients(NamedTuple):
    """The actors of an endpoint: how many there are, and what each of them holds."""

    number: int
    places: int  # requests in flight
    batch_size: int  # rows
    batches: int


def clients_of(config: EndpointConfig, num_rows: int) -> Clients:
    """The actors for `num_rows` rows.

    Ray Data gives batches to the actors that are ready, so each can hold no more than its share of the rows:

        max_concurrency   rows        actors   places   batch_size   batches
                     64   1,000,000        1       64            4       128
                  4,000   1,000,000        4    1,000           32       256
                  4,000   2,000            2    1,000           32        32
    """
    places = max(1, min(config.max_concurrency, num_rows))
    number = -(-places // PLACES)
    batch_size = max(1, min(LARGEST_BATCH, config.max_concurrency // PLACES_OF_A_ROW))
    batches = ROWS_OF_A_PLACE * -(-(places // number) // batch_size)
    share = -(-num_rows // number)
    return Clients(number, places // number, batch_size, max(1, min(batches, -(-share // batch_size))))


def settings_of(config: EndpointConfig, clients: Clients) -> dict[str, Any]:
    """The settings of each actor: a list of URLs, and a share of each limit."""
    settings = config.model_dump() | {"base_url": config.urls, "max_concurrency": clients.places}
    for limit in ("requests_per_minute", "tokens_per_minute"):
        if settings[limit] is not None:
            settings[limit] /= clients.number
    return settings


def build(config: EndpointConfig, num_rows: int) -> Generate:
    """Generation of at most `num_rows` rows by an endpoint."""
    clients = clients_of(config, num_rows)
    settings = settings_of(config, clients)

    def generate(dataset: "Dataset") -> "Dataset":
        import ray.data

        return dataset.repartition(target_num_rows_per_block=clients.batch_size).map_batches(
            Requests,
            fn_constructor_kwargs={"settings": settings},
            batch_size=clients.batch_size,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=clients.number, max_tasks_in_flight_per_actor=clients.batches),
            max_concurrency=clients.batches,
            num_cpus=config.num_cpus,
        )

    return generate


def what_cannot_open(endpoints: dict[str, EndpointConfig]) -> Iterator[Finding]:
    """A finding for each endpoint whose actors this machine does not allow enough open files. `endpoints`: by key."""
    for key, config in endpoints.items():
        if shortage := connections.missing_files(clients_of(config, config.max_concurrency).places):
            yield Finding(f"{key}.max_concurrency", shortage)


class Requests:
    """An actor that keeps up to `max_concurrency` requests in flight, within the limits for each minute."""

    def __init__(self, settings: dict[str, Any]) -> None:
        """`settings`: see `settings_of`; `base_url` may be one URL too."""
        num_places = settings["max_concurrency"]
        if shortage := connections.missing_files(num_places):
            raise UserError(f"max_concurrency: {shortage}")
        connections.allow_files(num_places)

        self.settings = settings
        name = settings["api_key_env"]
        self.key = os.environ.get(name, "").strip() if name else ""  # Kubernetes' Secrets end with a line break
        self.key_problem = f"bad_key: {problem}" if (problem := wrong_key(self.key, f"{name}")) else ""
        http_client = connections.http_client(num_places)
        urls = [settings["base_url"]] if isinstance(settings["base_url"], str) else settings["base_url"]
        clients = [connections.client(url, self.key, http_client, settings["timeout_s"]) for url in urls]
        self.servers = Servers([Server(client) for client in clients])
        self.free = asyncio.Semaphore(num_places)
        self.pace = Pace(settings["requests_per_minute"], settings["tokens_per_minute"])
        self.refusal = ""  # the error of all rows that are left, once the server refuses the key or the account

    async def __call__(self, batch: pa.Table) -> AsyncIterator[pa.Table]:
        rows = batch.to_pylist()
        replies = await asyncio.gather(*(self.reply(row) for row in rows))

        timed = [name for name in TIMES if name in batch.column_names]
        table = batch.drop_columns(["messages", "sampling_params", *timed])
        for name in timed:
            table = table.append_column(name, pa.array([reply.get(name, 0.0) for reply in replies], pa.float64()))
        columns = pa.Table.from_pylist(replies, schema=ADDED)
        for name in ADDED.names:
            table = table.append_column(name, columns[name])
        yield table

    async def reply(self, row: dict[str, Any]) -> dict[str, Any]:
        """One row's reply in the columns ADDED. Any failure of this row's request is the row's `error`."""
        problem = self.key_problem or check_messages(row["messages"])
        if problem:
            return failed(problem)
        body, most_tokens = self.request(row)
        failures = moves = 0
        server = None
        async with self.free:
            while True:
                reserved = await self.pace.enter(most_tokens)
                if self.refusal:
                    self.pace.settle(reserved, None)
                    return failed(self.refusal)
                server = self.servers.choose(server)
                try:
                    return await self.send(server, body, reserved)
                except Exception as error:  # noqa: BLE001  uncaught, it would end the actor with other rows' replies
                    # A server that is away costs the request no try, while there are others.
                    retry_after = _retry_after_s(error)
                    if is_away(error):
                        server.lost(min(retry_after or 0.0, LONGEST_RETRY_AFTER_S))
                        most_moves = len(self.servers) if connections.is_unsent(error) else MOST_MOVES
                        if moves < most_moves and self.servers.has_open():
                            moves += 1
                            continue

                    if getattr(error, "status_code", None) in KEY_OR_ACCOUNT:
                        return failed(await self.refused(error, server, body))

                    failures += 1
                    if failures > min(self.settings["max_retries"], tries_of(error) - 1):
                        return failed(f"{_code(error)}: {self.words(error)}")
                    if retry_after is not None and retry_after > LONGEST_RETRY_AFTER_S:
                        wait = f"the server asks to wait {retry_after:,.0f} s"
                        return failed(f"{_code(error)}: {wait}: {self.words(error)}")
                    await self.wait(error, server, failures, retry_after)

    async def refused(self, error: Exception, server: Server, body: dict[str, Any]) -> str:
        """The error of a row whose request was refused by KEY_OR_ACCOUNT; sets `refusal` where all rows would be refused."""
        is_unclear = getattr(error, "status_code", None) == 403 and not self.refusal
        if is_unclear and not await self.refuses_all(server, body):
            return f"{ABOUT_A_TEXT}: {self.words(error)}"
        variable = self.settings["api_key_env"]
        key = f"key in {variable}" if variable else "api_key_env is null"
        place = f"{self.settings['model']} at {redacted(str(server.client.base_url))}, {key}"
        self.refusal = f"{_code(error)}: {self.words(error)} ({place})"
        return self.refusal

    async def refuses_all(self, server: Server, body: dict[str, Any]) -> bool:
        """Whether the server refuses a harmless question of one token too."""
        limits = {name: 1 for name in LIMITS if body.get(name)}
        try:
            await self.send(server, body | limits | {"messages": [{"role": "user", "content": PROMPT}]}, 0.0)
        except Exception as error:  # noqa: BLE001  any other error says nothing of the key
            return getattr(error, "status_code", None) in KEY_OR_ACCOUNT
        return False

    async def wait(self, error: Exception, server: Server, failures: int, retry_after: float | None) -> None:
        """Wait before the next try. After 429 no request goes to the server for as long as it asks for."""
        if retry_after is not None and getattr(error, "status_code", None) == 429:
            if len(self.servers) == 1:
                self.pace.hold(retry_after)
            else:
                server.rest(retry_after)
                if self.servers.has_open():
                    return
        await asyncio.sleep(pause_s(failures) if retry_after is None else retry_after)

    def request(self, row: dict[str, Any]) -> tuple[dict[str, Any], float]:
        """The body of a row's request, and the most tokens that it may take, an estimate."""
        params = row["sampling_params"]
        messages = [message for message in row["messages"] if message["content"]]  # without an empty system turn
        body = {"model": self.settings["model"], "messages": messages, **params}
        if self.settings["stream"]:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        body |= self.settings["request_params"]
        num_characters = sum(len(message["content"]) for message in messages)
        most_tokens = num_characters / CHARACTERS_PER_TOKEN + (params.get("max_tokens") or 0)
        return {name: value for name, value in body.items() if value is not None}, most_tokens

    async def send(self, server: Server, body: dict[str, Any], reserved: float) -> dict[str, Any]:
        """Send the request once. Raises openai.APIError, TimeoutError, and BadReply for an unusable reply."""
        tokens, started = None, time.monotonic()
        server.begin()
        try:
            async with asyncio.timeout(self.settings["total_timeout_s"]):
                row = await self.read(server.client, body)
            tokens = row["num_prompt_tokens"] + row["num_generated_tokens"]
            server.answered()
            return row | dict(zip(TIMES, (time.monotonic() - started, time.time()), strict=True))
        finally:
            server.end()
            self.pace.settle(reserved, tokens)

    async def read(self, client: Any, body: dict[str, Any]) -> dict[str, Any]:
        """Send `body` and read the reply as a row. `cast_to=object`: openai's types reject some servers' replies."""
        import openai

        if not body.get("stream"):
            reply = Reply()
            reply.add(parsed(await client.post(PATH, cast_to=object, body=body)))
            return reply.row()

        # A stream, or the whole reply at once.
        stream = await client.post(PATH, cast_to=object, body=body, stream=True, stream_cls=openai.AsyncStream[object])
        kind = stream.response.headers.get("content-type", "")
        if "event-stream" not in kind:
            text = (await stream.response.aread()).decode(errors="replace")
            return reply_of(text, is_json="json" in kind).row()
        reply = Reply(is_stream=True)
        try:
            async for chunk in chunks_of(stream.response.aiter_bytes()):
                reply.add(chunk)
        finally:
            await stream.close()
        return reply.row()

    def words(self, error: Exception) -> str:
        """The text of a row's error: the server's own words. The API key is masked, since a server may repeat it."""
        response = getattr(error, "response", None)
        body = getattr(error, "body", None)
        text = words_of(body) if isinstance(body, dict | list | str) else ""
        if isinstance(error, json.JSONDecodeError):
            text = f"not JSON: {words_of(error.doc)}"
        if not text and response is not None:
            text = words_of(response.text)
        cause = connections.connection_error(error) or connections.root_cause(error)
        text = text or (str(cause).strip().splitlines() or [""])[0] or type(cause).__name__
        return (text.replace(self.key, "***") if self.key else text)[:300]


def is_away(error: Exception) -> bool:
    """Whether the server cannot be reached, or closed the connection before the whole reply was sent."""
    return connections.connection_error(error) is not None or getattr(error, "status_code", None) in AWAY


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
    return math.inf if isinstance(error, passing) or connections.connection_error(error) else FEW_TRIES


def _retry_after_s(error: Exception) -> float | None:
    response = getattr(error, "response", None)
    return None if response is None else retry_after_s(response.headers)


def failed(error: str) -> dict[str, Any]:
    """The columns ADDED of a row without a reply; `error` is "code: what was wrong"."""
    empty = {"generated_text": "", "num_prompt_tokens": 0, "num_generated_tokens": 0, "num_thinking_tokens": 0}
    return empty | {"finish_reason": "error", "error": error}


def _code(error: Exception) -> str:
    import httpx2
    import openai

    if isinstance(error, BadReply):
        return error.code
    if isinstance(error, openai.APIStatusError):
        return f"http_{error.status_code}"
    if connections.connection_error(error) is not None:
        return "no_connection"
    if isinstance(error, openai.APITimeoutError | httpx2.TimeoutException | TimeoutError):
        return "timeout"
    return "no_connection" if isinstance(error, openai.APIConnectionError | httpx2.TransportError) else "bad_reply"
