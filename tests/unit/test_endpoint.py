"""Replies of an endpoint, good and bad: each row ends with a text or with an error of its own."""

import asyncio
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa
import pytest

from ray_distil.chat.reasoning_marks import split_reasoning
from ray_distil.config.engine_config import EndpointConfig
from ray_distil.config.models import resolve_endpoint
from ray_distil.errors import ConfigError, UserError
from ray_distil.generate import connections, rate_limits
from ray_distil.generate.endpoint import Clients, Requests, clients_of, settings_of
from tests.unit.endpoint_server import EndpointServer

GOOD = {
    "generated_text": "It is 5.",
    "finish_reason": "stop",
    "num_prompt_tokens": 3,
    "num_generated_tokens": 5,
    "num_thinking_tokens": 0,
    "error": "",
}


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate_limits, "FIRST_PAUSE_S", 0.02)


def ask(server: EndpointServer, *prompts: str | None, **settings: Any) -> list[dict[str, Any]]:
    return replies_of({"base_url": server.url, **settings}, prompts)


def replies_of(
    settings: dict[str, Any], prompts: Sequence[str | None], change: Callable[[Requests], None] = lambda requests: None
) -> list[dict[str, Any]]:
    """`change`: of the actor, before it gets the rows."""
    config = EndpointConfig(**{"model": "m", "api_key_env": None, "max_retries": 2, **settings})
    rows = [
        {
            "id": str(k),
            "messages": [{"role": "user", "content": prompt}],
            "sampling_params": {"max_tokens": 9, "seed": k},
        }
        for k, prompt in enumerate(prompts)
    ]

    async def run() -> list[dict[str, Any]]:
        requests = Requests(settings_of(config, clients_of(config, len(rows))))
        change(requests)
        try:
            return [row async for part in requests(pa.Table.from_pylist(rows)) for row in part.to_pylist()]
        finally:
            await requests.servers.servers[0].client.close()  # one HTTP client for all servers

    return asyncio.run(run())


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("faults", [[], ["429"], ["500", "429"]])
def test_a_reply_comes_after_faults_that_pass(faults: list[str], stream: bool) -> None:
    with EndpointServer(*faults) as server:
        assert ask(server, "2 + 3?", stream=stream) == [{"id": "0", **GOOD}]
    assert len(server.requests) == len(faults) + 1
    assert server.requests[-1][1]["seed"] == 0


@pytest.mark.parametrize("fault", ["cut", "told"])
def test_a_stream_that_breaks_is_asked_for_again(fault: str) -> None:
    with EndpointServer(fault, fault) as server:
        assert ask(server, "2 + 3?", stream=True) == [{"id": "0", **GOOD}]
    assert len(server.requests) == 3
    with EndpointServer(*[fault] * 3) as server:
        (row,) = ask(server, "2 + 3?", stream=True)
    assert row["error"].startswith("bad_reply: ")


@pytest.mark.parametrize(
    ("faults", "error", "requests"),
    [
        (["400"], "http_400: ", 1),
        (["500"] * 3, "http_500: ", 3),
        (["429"] * 3, "http_429: ", 3),
        (["401"], "http_401: ", 1),
        (["hang"] * 3, "timeout: ", 3),
        (["trickle"] * 3, "timeout: ", 3),
        (["json"] * 3, "bad_reply: not JSON: {not json", 3),
        (["empty"] * 3, "bad_reply: ", 3),
        (["error in 200"] * 3, "bad_reply: upstream failed", 3),
    ],
)
def test_what_does_not_pass_is_that_rows_error(faults: list[str], error: str, requests: int) -> None:
    short = {"timeout_s": 1, "total_timeout_s": 1.5} if {"hang", "trickle"} & set(faults) else {}
    with EndpointServer(*faults) as server:
        (row,) = ask(server, "2 + 3?", **short)
        assert row["finish_reason"] == "error"
        assert row["error"].startswith(error)
        assert len(server.requests) == requests
        assert ask(server, "2 + 3?") == [{"id": "0", **GOOD}]


@pytest.mark.parametrize(("status", "num_sent"), [("401", 1), ("402", 1), ("403", 2)])
def test_what_refuses_the_key_or_the_account_gets_no_further_request(status: str, num_sent: int) -> None:
    """403 is tried with a harmless question first: it may be about one text."""
    with EndpointServer() as server:
        server.fault_of = lambda body: status
        rows = ask(server, *["2 + 3?"] * 6, max_concurrency=1)
        assert len(server.requests) == num_sent
    assert {row["error"].partition(": ")[0] for row in rows} == {f"http_{status}"}
    assert f"m at {server.url}/, api_key_env is null" in rows[-1]["error"]


def test_a_403_about_one_text_is_that_rows_error() -> None:
    with EndpointServer() as server:
        server.fault_of = lambda body: "403" if "bomb" in body["messages"][-1]["content"] else ""
        odd, good = ask(server, "A bomb?", "2 + 3?", max_concurrency=1)
    assert odd["error"] == "content_filter: status 403"
    assert good == {"id": "1", **GOOD}
    assert [body.get("max_tokens") for _, body in server.requests] == [9, 1, 9]


def test_a_server_that_is_not_there() -> None:
    with EndpointServer() as server:
        pass
    (row,) = ask(server, "2 + 3?", max_retries=0)
    assert row["error"].startswith("no_connection: ")


@pytest.mark.parametrize(("fault", "words"), [("close", "Server disconnected"), ("short", "Response payload is not")])
def test_a_connection_that_the_server_closes_is_no_timeout(fault: str, words: str) -> None:
    with EndpointServer(fault) as server:
        (row,) = ask(server, "2 + 3?", max_retries=0)
    assert row["error"].startswith(f"no_connection: {words}")


def test_a_row_without_a_prompt_is_not_sent_and_the_others_are() -> None:
    with EndpointServer() as server:
        rows = ask(server, "2 + 3?", None, " ")
    assert [row["finish_reason"] for row in rows] == ["stop", "error", "error"]
    assert rows[1]["error"] == "bad_prompt: the user turn has no text"
    assert len(server.requests) == 1


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("message", "finish_reason", "text"),
    [
        ({"reasoning_content": "2 + 3 = 5", "content": "It is 5."}, "stop", "<think>\n2 + 3 = 5\n</think>\n\nIt is 5."),
        ({"reasoning": "2 + 3 = 5", "content": "It is 5."}, "stop", "<think>\n2 + 3 = 5\n</think>\n\nIt is 5."),
        # Cut while reasoning, as the field or as the content.
        ({"reasoning_content": "2 + 3", "content": None}, "length", "<think>\n2 + 3"),
        ({"content": "<think>\n2 + 3"}, "length", "<think>\n2 + 3"),
        ({"content": None}, "length", ""),
        # Thinking that is never closed.
        ({"reasoning_content": "It is 5.", "content": None}, "stop", "<think>\nIt is 5."),
        ({"content": "<think>\nIt is 5."}, "stop", "<think>\nIt is 5."),
        # The marks are in the texts.
        ({"content": "2 + 3 = 5\n</think>\n\nIt is 5."}, "stop", "<think>\n2 + 3 = 5\n</think>\n\nIt is 5."),
        ({"reasoning_content": "<think>\n2 + 3 = 5", "content": "It is 5."}, "stop",
         "<think>\n2 + 3 = 5\n</think>\n\nIt is 5."),
        ({"reasoning_content": "2 + 3 = 5\n</think>\n\nIt is 5.", "content": None}, "stop",
         "<think>\n2 + 3 = 5\n</think>\n\nIt is 5."),
    ],
)  # fmt: skip
def test_the_marks_of_thinking_are_in_the_text(
    message: dict[str, Any], finish_reason: str, text: str, stream: bool
) -> None:
    with EndpointServer(message=message, finish_reason=finish_reason) as server:
        (row,) = ask(server, "2 + 3?", stream=stream)
    assert (row["generated_text"], row["finish_reason"], row["error"]) == (text, finish_reason, "")
    conclusion = split_reasoning(row["generated_text"])[1]
    assert conclusion == ("It is 5." if "</think>" in text else "")
    assert bool(row["num_thinking_tokens"]) == ("<think>" in text)


@pytest.mark.parametrize("stream", [False, True])
def test_an_empty_reply_is_asked_again(stream: bool) -> None:
    with EndpointServer(message={"content": ""}) as server:
        (row,) = ask(server, "2 + 3?", stream=stream)
    assert row["error"] == "bad_reply: the reply is empty"
    assert len(server.requests) == 3


def test_a_reply_that_the_server_broke_off_is_asked_again() -> None:
    with EndpointServer(finish_reason="insufficient_system_resource") as server:
        (row,) = ask(server, "2 + 3?")
    assert row["error"] == "bad_reply: the endpoint broke off (insufficient_system_resource)"
    assert len(server.requests) == 3


def test_a_filtered_reply_is_an_error() -> None:
    with EndpointServer(finish_reason="content_filter") as server:
        (row,) = ask(server, "2 + 3?")
    assert row["error"].startswith("content_filter: ")


def test_no_more_requests_at_once_than_asked_for() -> None:
    with EndpointServer(meet=3) as server:
        assert len(ask(server, *"abcdefghijkl", max_concurrency=3)) == 12
    assert server.most_at_once == 3


def test_the_rate_of_requests_and_of_tokens_is_kept() -> None:
    """Twelve requests of 8 tokens, of which one second's worth may come at once."""
    for limit in ({"requests_per_minute": 600}, {"tokens_per_minute": 4800}):
        with EndpointServer() as server:
            started = time.monotonic()
            assert ask(server, *"abcdefghijkl", **limit) == [{"id": str(k), **GOOD} for k in range(12)]
        assert len(server.times) == 12
        assert server.times[-1] - started > 0.9, limit


def test_a_429_holds_all_requests_for_as_long_as_it_says() -> None:
    with EndpointServer("429", retry_after="1") as server:
        rows = ask(server, *"abcd", max_concurrency=1)
    assert [row["error"] for row in rows] == [""] * 4
    assert len(server.times) == 5
    assert server.times[1] - server.times[0] >= 1


def test_the_key_is_not_in_what_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_KEY", "sk-secret")
    with EndpointServer("401") as server:
        (row,) = ask(server, "2 + 3?", api_key_env="A_KEY")
    assert server.requests[0][0]["Authorization"] == "Bearer sk-secret"
    assert row["error"].startswith("http_401: ")
    assert "no such key: Bearer ***" in row["error"]
    assert "sk-secret" not in row["error"]


def test_a_key_is_sent_without_the_line_break_behind_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_KEY", "sk-secret\r\n")  # as a file of a Kubernetes Secret ends
    with EndpointServer() as server:
        assert ask(server, "2 + 3?", api_key_env="A_KEY")[0]["error"] == ""
    assert server.requests[0][0]["Authorization"] == "Bearer sk-secret"


def test_a_key_that_no_header_takes_is_told_by_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_KEY", "\u201csk-secret\u201d")
    with EndpointServer() as server:
        (row,) = ask(server, "2 + 3?", api_key_env="A_KEY")
        with pytest.raises(ConfigError, match=r"teachers\.slow\.endpoint\.api_key_env: the key in A_KEY holds a blank"):
            resolve_endpoint(
                EndpointConfig(base_url=server.url, model="m", api_key_env="A_KEY"), "teachers.slow.endpoint"
            )
    assert row["error"].startswith("bad_key: the key in A_KEY holds a blank")
    assert "sk-secret" not in row["error"]
    assert server.requests == []


def test_a_query_behind_the_base_url_goes_with_each_request() -> None:
    with EndpointServer() as server:
        (row,) = replies_of({"base_url": f"{server.url}?api-version=2024-10-21"}, ["2 + 3?"])
    assert row["error"] == ""
    assert server.paths == ["/v1/chat/completions?api-version=2024-10-21"]


def test_a_retry_after_that_is_no_time_is_none_and_a_very_long_one_is_told() -> None:
    for asked in ("inf", "nan", "-inf"):
        with EndpointServer("429", retry_after=asked) as server:
            assert ask(server, "2 + 3?") == [{"id": "0", **GOOD}]
    with EndpointServer("429", retry_after="86400") as server:
        (row,) = ask(server, "2 + 3?")
    assert row["error"] == "http_429: the server asks to wait 86,400 s: slow down"
    assert len(server.requests) == 1


def test_requests_can_be_changed() -> None:
    changed = {"max_tokens": None, "max_completion_tokens": 7, "seed": None, "stream_options": None, "top_k": 1}
    with EndpointServer() as server:
        ask(server, "2 + 3?", stream=True, request_params=changed)
        ask(server, "2 + 3?")
    asked = [body for _, body in server.requests]
    messages = [{"role": "user", "content": "2 + 3?"}]
    assert asked[0] == {
        "model": "m", "messages": messages, "stream": True, "max_completion_tokens": 7, "top_k": 1
    }  # fmt: skip
    assert asked[1] == {"model": "m", "messages": messages, "max_tokens": 9, "seed": 0}


@pytest.mark.parametrize("wrong", [{"model": "x"}, {"messages": []}, {"stream": False}, {"n": 2}])
def test_what_the_run_sets_is_not_set_twice(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="request_params: "):
        EndpointConfig(base_url="http://x/v1", model="m", request_params=wrong)


async def until_all_have_met(number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A server's side of a connection. No request is answered before `number` requests are there."""
    choice = {"index": 0, "finish_reason": "stop", "message": {"content": "It is 5."}}
    body = json.dumps({"choices": [choice], "usage": {"prompt_tokens": 3, "completion_tokens": 5}}).encode()
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
    await reader.readexactly(int(length.split(b":")[1]))
    MET.append(writer)
    if len(MET) == number:
        for waiting in MET:
            waiting.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n" + body)
            waiting.close()


MET: list[asyncio.StreamWriter] = []


def test_more_than_a_thousand_requests_are_in_flight() -> None:
    """None of them is answered before all of them are there."""
    number = 1150
    MET.clear()

    async def run() -> list[dict[str, Any]]:
        server = await asyncio.start_server(
            lambda reader, writer: until_all_have_met(number, reader, writer), "127.0.0.1", 0, backlog=number
        )
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        config = EndpointConfig(base_url=url, model="m", api_key_env=None, max_concurrency=number)
        requests = Requests(config.model_dump() | {"base_url": [url]})
        message = {"role": "user", "content": "2 + 3?"}
        rows = [{"messages": [message], "sampling_params": {"max_tokens": 9}} for _ in range(number)]
        try:
            async with server, asyncio.timeout(100):
                return await asyncio.gather(*map(requests.reply, rows))
        finally:
            await requests.servers.servers[0].client.close()

    assert {row["generated_text"] for row in asyncio.run(run())} == {"It is 5."}


def test_the_wait_for_a_free_connection_is_no_silence_of_the_server() -> None:
    """One connection, two requests, and the first takes longer than a server may be silent. It is never silent."""

    def one_connection(requests: Requests) -> None:
        for server in requests.servers.servers:
            server.client._client = connections.http_client(1)

    with EndpointServer("slow", "slow") as server:
        settings = {"base_url": server.url, "timeout_s": 3, "max_retries": 0}
        rows = replies_of(settings, ["2 + 3?", "4 + 5?"], one_connection)
    assert [row["error"] for row in rows] == ["", ""]
    assert server.most_at_once == 1


@pytest.mark.parametrize(
    ("max_concurrency", "num_rows", "clients"),
    [
        (1, 10**6, Clients(1, 1, 1, 8)),
        (32, 10**6, Clients(1, 32, 2, 128)),
        (64, 10**6, Clients(1, 64, 4, 128)),
        (512, 10**6, Clients(1, 512, 32, 128)),
        (1000, 10**6, Clients(1, 1000, 32, 256)),
        (1001, 10**6, Clients(2, 500, 32, 128)),
        (5000, 10**6, Clients(5, 1000, 32, 256)),
        (5000, 2000, Clients(2, 1000, 32, 32)),  # no client takes the rows of another one
        (5000, 3, Clients(1, 3, 32, 1)),
        (64, 0, Clients(1, 1, 4, 1)),
    ],
)
def test_a_fleet_has_a_client_for_each_thousand_requests(max_concurrency: int, num_rows: int, clients: Clients) -> None:
    config = EndpointConfig(base_url="http://x/v1", model="m", max_concurrency=max_concurrency, tokens_per_minute=6e6)
    assert clients_of(config, num_rows) == clients
    settings = settings_of(config, clients)
    assert settings["max_concurrency"] * clients.number <= max_concurrency
    assert settings["tokens_per_minute"] * clients.number == pytest.approx(6e6)
    assert settings["requests_per_minute"] is None


def test_servers_of_one_endpoint_share_the_requests() -> None:
    with EndpointServer(meet=4) as first, EndpointServer(meet=4) as second:
        urls = [first.url, second.url]
        rows = replies_of({"base_url": urls, "max_concurrency": 8}, "abcdefghijklmnop")
    assert rows == [{"id": str(k), **GOOD} for k in range(16)]
    seeds = [{body["seed"] for _, body in server.requests} for server in (first, second)]
    assert seeds[0] | seeds[1] == set(range(16))
    assert not seeds[0] & seeds[1]
    assert min(map(len, seeds)) >= 4


@pytest.mark.parametrize("fault", ["unreached", "close", "short", "503"])
def test_a_server_that_is_away_costs_no_row_while_others_live(fault: str) -> None:
    with EndpointServer() as away, EndpointServer() as living:
        away.fault_of = lambda body: fault
        if fault == "unreached":
            away.server.server_close()
        settings = {"base_url": [away.url, living.url], "max_retries": 0, "max_concurrency": 8}
        rows = replies_of(settings, "abcdefghijklmnop" * 4)
        assert rows == [{"id": str(k), **GOOD} for k in range(64)]
        assert len(living.requests) == 64


def test_a_server_that_comes_back_is_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate_limits, "LONGEST_PAUSE_S", 0.05)
    with EndpointServer() as first, EndpointServer() as second:
        first.faults.extend(["close"] * 3)
        second.fault_of = lambda body: time.sleep(0.05) or ""
        rows = replies_of({"base_url": [first.url, second.url], "max_retries": 0, "max_concurrency": 4}, "abcd" * 40)
    assert [row["error"] for row in rows] == [""] * 160
    assert len(first.requests) > 4
    assert len(first.requests) + len(second.requests) == 163


def test_a_row_fails_where_all_servers_are_away() -> None:
    with EndpointServer() as first, EndpointServer() as second:
        pass
    (row,) = replies_of({"base_url": [first.url, second.url], "max_retries": 1}, ["2 + 3?"])
    assert row["error"].startswith("no_connection: Cannot connect to host 127.0.0.1:")


def test_a_row_that_ends_each_server_is_not_sent_to_all_of_them() -> None:
    servers = [EndpointServer() for _ in range(8)]
    for server in servers:
        server.fault_of = lambda body: "close"
        server.__enter__()
    (row,) = replies_of({"base_url": [server.url for server in servers], "max_retries": 0}, ["2 + 3?"])
    for server in servers:
        server.__exit__()
    assert row["error"].startswith("no_connection: ")
    assert sum(len(server.requests) for server in servers) == 4


def test_a_429_of_one_server_holds_no_request_to_the_others() -> None:
    with EndpointServer("429", retry_after="500") as first, EndpointServer() as second:
        rows = replies_of({"base_url": [first.url, second.url], "max_concurrency": 4}, "abcdefgh")
    assert [row["error"] for row in rows] == [""] * 8
    assert len(first.requests) + len(second.requests) == 9


@pytest.mark.parametrize(
    ("base_url", "words"),
    [
        ("api.deepseek.com", "base_url: 'api.deepseek.com' is no URL"),
        (["http://a/v1", "b"], "base_url: 'b' is no URL"),
        ([], "base_url: the list is empty"),
        (None, "base_url: None is no URL"),
        ({"a": "http://a"}, "is no URL"),
    ],
)
def test_what_is_no_url_is_refused(base_url: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        EndpointConfig(base_url=base_url, model="m")


def test_urls_are_a_list_of_different_ones() -> None:
    assert EndpointConfig(base_url="http://a/v1", model="m").urls == ["http://a/v1"]
    urls = ["http://a/v1", "https://b/v1", "http://a/v1"]
    assert EndpointConfig(base_url=urls, model="m").urls == ["http://a/v1", "https://b/v1"]


FILES = """
import resource
from ray_distil.generate import connections
resource.setrlimit(resource.RLIMIT_NOFILE, (300, 1300))
print(connections.missing_files(500) or "enough", connections.missing_files(1000) or "enough", sep="\\n")
connections.allow_files(500)
print(resource.getrlimit(resource.RLIMIT_NOFILE))
"""


def test_the_limit_on_open_files_is_raised_as_far_as_it_may() -> None:
    ended = subprocess.run([sys.executable, "-c", FILES], capture_output=True, text=True, check=True)
    assert ended.stdout.splitlines() == [
        "enough",
        "1,000 connections of a process need 2,256 open files, and this machine allows 1,300; raise its hard limit "
        "(ulimit -Hn 2256), or set max_concurrency to 522",
        "(1256, 1300)",
    ]


def test_a_limit_on_open_files_that_is_too_low_ends_the_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (1024, 1024))
    with pytest.raises(UserError, match="max_concurrency: 1,000 connections .* this machine allows 1,024"):
        replies_of({"base_url": "http://x/v1", "max_concurrency": 1000}, ["2 + 3?"] * 1000)
