"""Replies of an endpoint, good and bad: each row ends with a text or with an error of its own."""

import asyncio
from typing import Any

import pyarrow as pa
import pytest

from ray_distil.config import EndpointConfig
from ray_distil.endpoint import Requests
from ray_distil.reasoning import split_reasoning
from tests.unit.endpoint_server import EndpointServer

GOOD = {
    "generated_text": "It is 5.",
    "finish_reason": "stop",
    "num_prompt_tokens": 3,
    "num_generated_tokens": 5,
    "error": "",
}


def ask(server: EndpointServer, *prompts: str | None, **settings: Any) -> list[dict[str, Any]]:
    config = EndpointConfig(base_url=server.url, model="m", api_key_env=None, **{"max_retries": 2, **settings})
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
        (["hang"] * 3, "timeout: ", 3),
        (["json"] * 3, "bad_reply: ", 3),
        (["empty"] * 3, "bad_reply: ", 3),
    ],
)
def test_what_does_not_pass_is_that_rows_error(faults: list[str], error: str, requests: int) -> None:
    with EndpointServer(*faults) as server:
        (row,) = ask(server, "2 + 3?", timeout_s=0.5)
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
def test_reasoning_that_comes_apart_stands_before_the_answer(stream: bool) -> None:
    with EndpointServer(message={"reasoning_content": "2 + 3 = 5", "content": "It is 5."}) as server:
        (row,) = ask(server, "2 + 3?", stream=stream)
    assert split_reasoning(row["generated_text"]) == ("2 + 3 = 5", "It is 5.")


def test_a_reply_cut_while_reasoning_has_no_answer() -> None:
    with EndpointServer(message={"reasoning_content": "2 + 3", "content": None}, finish_reason="length") as server:
        (row,) = ask(server, "2 + 3?")
    assert row["finish_reason"] == "length"
    assert split_reasoning(row["generated_text"]) == ("2 + 3", "")


def test_a_filtered_reply_is_an_error() -> None:
    with EndpointServer(finish_reason="content_filter") as server:
        (row,) = ask(server, "2 + 3?")
    assert row["error"].startswith("content_filter: ")


def test_no_more_requests_at_once_than_asked_for() -> None:
    with EndpointServer(meet=3) as server:
        assert len(ask(server, *"abcdefghijkl", max_concurrency=3)) == 12
    assert server.most_at_once == 3
