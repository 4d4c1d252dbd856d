"""Replies of servers in all their forms: each becomes a row, or an error that says what the server said."""

import json
import random
from typing import Any

import pyarrow as pa
import pytest

from ray_distil.errors import BadReply
from ray_distil.generate import rate_limits
from ray_distil.generate.generation import ADDED
from ray_distil.generate.replies import Reply, token_counts, words_of
from tests.unit.endpoint_server import EndpointServer
from tests.unit.test_endpoint import ask

USAGE = {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8}
THOUGHT = "<think>\n2 and 3\n</think>\n\nIt is 5."


def of(*sent: Any) -> dict[str, Any]:
    reply = Reply()
    for one in sent:
        reply.add(one)
    return reply.row()


def whole_reply(message: Any = None, finish_reason: Any = "stop", **more: Any) -> dict[str, Any]:
    message = {"content": "It is 5."} if message is None else message
    return {"choices": [{"index": 0, "finish_reason": finish_reason, "message": message}], "usage": USAGE, **more}


def chunk(delta: Any, index: int | None = 0, finish_reason: str | None = None) -> dict[str, Any]:
    return {"choices": [{"index": index, "finish_reason": finish_reason, "delta": delta}]}


END = chunk({}, finish_reason="stop")


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ({"content": [{"type": "text", "text": "It is "}, {"type": "text", "text": "5."}]}, "It is 5."),
        ({"content": ["It is ", "5."]}, "It is 5."),
        ({"content": {"text": "It is 5."}}, "It is 5."),
        ({"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "2 and 3"}]},
                      {"type": "text", "text": "It is 5."}]}, THOUGHT),
        ({"content": "It is 5.", "thinking": "2 and 3"}, THOUGHT),
        ({"content": "It is 5.", "reasoning": "2 and 3", "reasoning_content": "2 and 3"}, THOUGHT),
        ({"content": "It is 5.", "reasoning": {"content": "2 and 3"}}, THOUGHT),
        ({"content": "It is 5.", "reasoning_content": "", "reasoning_details": [
            {"type": "reasoning.text", "text": "2 and 3"}]}, THOUGHT),
        ({"content": "It is \ud83d\ude00 5."}, "It is \U0001f600 5."),
        ({"content": "It is \ud83d 5."}, "It is \ufffd 5."),
    ],
)  # fmt: skip
def test_the_text_is_found(message: dict[str, Any], text: str) -> None:
    assert of(whole_reply(message))["generated_text"] == text
    halves = [message] if "reasoning" in message else [{name: value} for name, value in message.items()]
    assert of(*map(chunk, halves), END)["generated_text"] == text


def test_chunks_of_another_choice_and_chunks_that_are_none_are_left_out() -> None:
    made = of(
        chunk({"content": "It \ud83d"}),
        chunk({"content": "No."}, index=1),
        {"choices": None},
        {"choices": [None]},
        chunk(None, index=None),
        chunk({"content": "\ude00 is 5."}),
        END,
        chunk({}, index=1, finish_reason="length"),
        {"choices": [], "usage": USAGE},
    )
    assert (made["generated_text"], made["finish_reason"]) == ("It \U0001f600 is 5.", "stop")
    assert made["num_generated_tokens"] == 5


@pytest.mark.parametrize(
    ("given", "ours"),
    [
        *[(text, "stop") for text in ("stop", "STOP", "eos_token", "end_turn", "stop_sequence", "COMPLETE")],
        *[(text, "length") for text in ("length", "max_tokens", "MAX_TOKENS", "model_length")],
    ],
)
def test_ends_are_told_in_one_spelling(given: str, ours: str) -> None:
    assert of(whole_reply(finish_reason=given))["finish_reason"] == ours


@pytest.mark.parametrize("given", ["content_filter", "sensitive", "SAFETY", "tool_calls", "refusal"])
def test_an_end_that_would_not_change_is_asked_for_once(given: str) -> None:
    with EndpointServer(finish_reason=given) as server:
        (row,) = ask(server, "2 + 3?")
    assert row["error"].startswith(f"{given.lower()}: ")
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("usage", "counts"),
    [
        (USAGE, (3, 5, 0)),
        ({}, (0, 0, 0)),
        ({"prompt_tokens": None, "completion_tokens": "5"}, (0, 5, 0)),
        ({"prompt_tokens": True, "completion_tokens": -1}, (0, 0, 0)),
        ({"prompt_tokens": float("nan"), "completion_tokens": 10**20}, (0, 0, 0)),
        ({**USAGE, "completion_tokens_details": {"reasoning_tokens": 4}}, (3, 5, 4)),
        ({**USAGE, "reasoning_tokens": 4}, (3, 5, 4)),
        ({**USAGE, "completion_tokens_details": None}, (3, 5, 0)),
        # xAI: the reasoning is counted beside.
        ({**USAGE, "total_tokens": 48, "completion_tokens_details": {"reasoning_tokens": 40}}, (3, 45, 40)),
        ({**USAGE, "total_tokens": 12, "completion_tokens_details": {"reasoning_tokens": 4}}, (3, 9, 4)),
    ],
)
def test_tokens_that_are_not_counted_are_0(usage: dict[str, Any], counts: tuple[int, ...]) -> None:
    assert tuple(token_counts(usage, "It is 5.").values()) == counts
    assert of(whole_reply(usage=usage))["num_generated_tokens"] == counts[1]


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        ({"error": {"message": "no credit", "code": 402}}, "no credit"),
        ({"error": "model m is not loaded"}, "model m is not loaded"),
        ({"object": "error", "message": "too long", "code": 400}, "too long"),
        ({"detail": [{"loc": ["body", "seed"], "msg": "Extra inputs are not permitted"}]},
         "body.seed: Extra inputs are not permitted"),
        ({"detail": "Not Found"}, "the reply has no choices: Not Found"),
        ({"choices": None, "error": {"metadata": {"reason": "upstream"}}}, "upstream"),
        ([{"error": "x"}], "not a reply but a list: x"),
        (None, "not a reply but null: null"),
        ("busy", "not a reply but a text: busy"),
        ("<html><head><title>Sign in</title><style>a {}</style></head></html>",
         "not a reply but a text: a page, 'Sign in'; does the base_url end in /v1?"),
    ],
)  # fmt: skip
def test_what_the_server_said_is_told(sent: Any, said: str) -> None:
    if isinstance(sent, dict) and "detail" in sent and isinstance(sent["detail"], list):
        assert words_of(sent) == said
        return
    with pytest.raises(BadReply) as raised:
        of(sent)
    assert str(raised.value) == said


@pytest.mark.parametrize(("code", "requests"), [(400, 1), (402, 1), (429, 5), (503, 5), (None, 3)])
def test_an_error_in_a_200_is_tried_again_as_its_code_says(
    code: int | None, requests: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rate_limits, "FIRST_PAUSE_S", 0.001)
    for stream in (False, True):
        with EndpointServer(body={"error": {"message": "no", "code": code}}) as server:
            (row,) = ask(server, "2 + 3?", max_retries=4, stream=stream)
        assert row["error"] == "bad_reply: no"
        assert len(server.requests) == requests


def anything(chosen: random.Random, depth: int = 3) -> Any:
    """Random JSON in which the names of a reply are frequent."""
    names = ["choices", "message", "delta", "content", "text", "type", "usage", "error", "detail", "finish_reason",
             "reasoning_content", "completion_tokens", "completion_tokens_details", "index", "code"]  # fmt: skip
    plain = [None, True, 0, -1, 1.5, 1e300, 10**30, "", "stop", "It is 5.", "\ud83d", "<think>", "</think>", "7"]
    kind = chosen.randrange(4) if depth else 0
    if kind == 1:
        return [anything(chosen, depth - 1) for _ in range(chosen.randrange(4))]
    if kind >= 2:
        return {name: anything(chosen, depth - 1) for name in chosen.sample(names, chosen.randrange(1, 5))}
    return chosen.choice(plain)


def spoilt(chosen: random.Random, sent: Any) -> Any:
    """A reply in which some values are replaced by anything."""
    if chosen.random() < 0.15:
        return anything(chosen)
    if isinstance(sent, dict):
        return {name: spoilt(chosen, value) for name, value in sent.items() if chosen.random() < 0.95}
    return [spoilt(chosen, value) for value in sent] if isinstance(sent, list) else sent


def test_whatever_is_sent_ends_in_a_row() -> None:
    """A row that Arrow and UTF-8 take, with an end that is known, or BadReply; nothing else."""
    chosen = random.Random(7)
    outcomes = {"row": 0, "bad reply": 0}
    for _ in range(20_000):
        stream = [chunk({"content": "It "}), chunk({"reasoning": "2"}), END, {"choices": [], "usage": USAGE}]
        sent = spoilt(chosen, chosen.choice([[whole_reply()], stream]))
        try:
            row = of(*(sent if isinstance(sent, list) else [sent]))
            pa.Table.from_pylist([row], schema=ADDED)
            assert row["finish_reason"] in ("stop", "length")
            assert 0 <= row["num_thinking_tokens"] <= row["num_generated_tokens"]
            json.dumps(row).encode()
            outcomes["row"] += 1
        except BadReply as error:
            outcomes["bad reply"] += bool(str(error).encode())
    assert min(outcomes.values()) > 2_000, outcomes


BYTES = [b"", b"null", b"[]", b'"busy"', b"{", b"\xff\xfe", b"[" * 3000, b'{"choices": [{"index": 0}]}', b"data: x"]
TYPES = ["application/json", "text/html", "text/event-stream", "", "application/octet-stream"]


@pytest.mark.parametrize("stream", [False, True])
def test_whatever_bytes_come_the_other_rows_go_on(stream: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate_limits, "FIRST_PAUSE_S", 0.001)
    for kind in TYPES:
        with EndpointServer(odd=[(data, kind) for data in BYTES]) as server:
            rows = ask(server, *map(str, range(2 * len(BYTES))), max_retries=0, stream=stream, timeout_s=5)
        assert len(rows) == 2 * len(BYTES)
        assert sum(row["error"] == "" for row in rows) >= len(BYTES), rows
        assert sum(row["error"].startswith(("bad_reply: ", "no_connection: ")) for row in rows) >= len(BYTES) - 1


def streamed(*chunks: dict[str, Any], ends: str = "\n\n", start: str = "data: ") -> bytes:
    lines = [json.dumps(one, ensure_ascii=False) for one in chunks] + ["[DONE]"]
    return "".join(f"{start}{line}{ends}" for line in lines).encode()


PARTS = [chunk({"content": "It is "}), chunk({"content": "5."}), END]
TEXT_SO_FAR = [
    chunk({"content": "It is "}),
    chunk({"content": "It is 5."}),
    chunk({"content": "It is 5."}, finish_reason="stop"),
]
WHOLE_BESIDE = [
    {"choices": [{"index": 0, "delta": {"content": part}, "message": {"content": whole}, "finish_reason": end}]}
    for part, whole, end in (("It is ", "It is ", None), ("5.", "It is 5.", None), ("", "It is 5.", "stop"))
]


@pytest.mark.parametrize(
    ("stream", "data", "kind"),
    [
        (False, json.dumps(whole_reply()).encode(), "text/plain"),
        (False, json.dumps(whole_reply()).encode(), "application/octet-stream"),
        (True, json.dumps(whole_reply()).encode(), "text/plain"),
        (True, streamed(*PARTS), "text/event-stream"),
        (True, streamed(*PARTS), "text/plain"),
        (True, streamed(*PARTS, ends="\n"), "text/event-stream; charset=utf-8"),
        (True, streamed(*PARTS, ends="\r\n\r\n", start="data:"), "text/event-stream"),
        (True, b": alive\n\ndata:\n\ndata: \n\n" + streamed(*PARTS), "text/event-stream"),
        (True, b"event: message\nid: 7\n" + streamed(*PARTS), "text/event-stream"),
        (True, streamed(*PARTS).replace(b'{"index"', b'\ndata: {"index"'), "text/event-stream"),
        (True, streamed(*TEXT_SO_FAR), "text/event-stream"),
        (True, streamed(*PARTS).removesuffix(b"data: [DONE]\n\n").rstrip(), "text/event-stream"),
        (True, streamed(*WHOLE_BESIDE), "text/event-stream"),
        (False, json.dumps(whole_reply(error={"code": 0, "message": ""})).encode(), "application/json"),
        (False, json.dumps(whole_reply(finish_reason={"type": "stop"})).encode(), "application/json"),
    ],
)
def test_a_good_reply_in_an_odd_form_is_read(stream: bool, data: bytes, kind: str) -> None:
    with EndpointServer(odd=[(data, kind)], body=whole_reply({"content": "a second request"})) as server:
        (row,) = ask(server, "2 + 3?", stream=stream)
    assert (row["generated_text"], row["finish_reason"], row["error"]) == ("It is 5.", "stop", "")


def test_signs_that_end_a_line_elsewhere_end_none_in_a_stream() -> None:
    text = "one\u2028two\x85three\x0bfour"
    for kind in ("text/event-stream", "text/plain"):
        with EndpointServer(odd=[(streamed(chunk({"content": text}), END), kind)]) as server:
            (row,) = ask(server, "2 + 3?", stream=True)
        assert row["generated_text"] == text


def test_a_stream_that_repeats_a_word_is_no_text_so_far() -> None:
    parts = [chunk({"content": part}) for part in ("so ", "so ", "so much")]
    assert of_stream(*parts, END)["generated_text"] == "so so so much"
    assert of_stream(chunk({"content": "5"}), chunk({"content": "5"}), END)["generated_text"] == "55"


def of_stream(*sent: Any) -> dict[str, Any]:
    reply = Reply(is_stream=True)
    for one in sent:
        reply.add(one)
    return reply.row()


def test_a_context_that_is_full_is_a_text_that_was_cut() -> None:
    assert of(whole_reply(finish_reason="context_length_exceeded"))["finish_reason"] == "length"


def test_an_error_with_a_message_beside_choices_is_one() -> None:
    with pytest.raises(BadReply, match="overloaded"):
        of(whole_reply(error={"message": "overloaded"}))
