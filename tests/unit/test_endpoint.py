"""Replies of an endpoint, good and bad: each row ends with a text or with an error of its own."""

import asyncio
import time
from typing import Any

import pyarrow as pa
import pytest

from ray_distil.config.engine_config import EndpointConfig
from ray_distil.generate import rate_limits
from ray_distil.generate.endpoint import Requests
from ray_distil.texts.reasoning import split_reasoning
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
    config = EndpointConfig(base_url=server.url, model="m", **{"api_key_env": None, "max_retries": 2, **settings})
    rows = [
        {
            "id": str(k),
            "messages": [{"role": "user", "content": prompt}],
            "sampling_params": {"max_tokens": 9, "seed": k},
        }
        for k, prompt in enumerate(prompts)
    ]

    async def run() -> list[dict[str, Any]]:
        return [
            row async for part in Requests(config.model_dump())(pa.Table.from_pylist(rows)) for row in part.to_pylist()
        ]

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


def test_a_server_that_is_not_there() -> None:
    with EndpointServer() as server:
        pass
    (row,) = ask(server, "2 + 3?", max_retries=0)
    assert row["error"].startswith("no_connection: ")


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
    assert row["error"].endswith("no such key: Bearer ***")
    assert "sk-secret" not in row["error"]


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
