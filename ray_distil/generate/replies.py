"""Reads an endpoint's reply, in any of its forms, as one row: the text, why it ended, and the token counts.

    reply                                      generated_text
    content                                    content
    reasoning apart (reasoning_content, ...)   <think>\\nreasoning\\n</think>\\n\\ncontent
    reasoning alone: cut, or never closed      <think>\\nreasoning
    content with </think> and no <think>       <think>\\ncontent

The marks <think> and </think> decide what is reasoning, not the field in which the server sends it. Token counts that a
server does not give are 0.
"""

import json
import re
from collections.abc import AsyncIterator
from itertools import pairwise
from typing import Any

from ray_distil.chat.reasoning_marks import joined, thinking_of
from ray_distil.errors import BadReply
from ray_distil.records.conversations import finish_reason_of

# Fields of a message or delta with the reasoning; the first with text counts. Sources: DeepSeek and vLLM; vLLM and
# OpenRouter; Ollama.
REASONING_FIELDS = ("reasoning_content", "reasoning", "thinking", "reasoning_details")
THINKING_PARTS = ("thinking", "reasoning", "reasoning.text")  # `type` of a part of the content that is not the answer
# Finish reasons that a retry would not change: the model chose this end, or the server forbids the text.
FINAL_ENDS = {
    "content_filter",
    "sensitive",
    "safety",
    "recitation",
    "blocklist",
    "prohibited_content",
    "spii",
    "refusal",
    "error_toxic",
    "tool_calls",
    "tool_call",
    "tool_use",
    "function_call",
}
FEW_TRIES = 3  # in all, of a request whose replies cannot be read
MOST_TOKENS = 2**30  # a larger number is not taken for a count
_HTML = re.compile(r"<(script|style)\b.*?</\1\s*>|<[^>]*>", re.DOTALL | re.IGNORECASE)


class Reply:
    """A reply that is being received: one JSON object, or with `is_stream` the chunks of a stream one by one."""

    def __init__(self, is_stream: bool = False) -> None:
        self.places = ("delta", "message") if is_stream else ("message", "delta")  # some chunks hold the whole text too
        self.reasoning: list[str] = []
        self.content: list[str] = []
        self.finish_reason: str | None = None
        self.usage: dict[str, Any] = {}
        self.server_message = ""  # the server's message, where it sends one in place of choices

    def add(self, sent: Any) -> None:
        """Take one object of the server. Raises BadReply, with the server's own words, if it is no part of a reply."""
        if isinstance(sent, dict) and (_is_error(sent) or sent.get("object") == "error"):
            status = _status(sent.get("error")) or _status(sent)
            final = status is not None and 400 <= status < 500 and status not in (408, 409, 429)
            passing = status is not None and not final
            raise BadReply(words_of(sent), tries=1 if final else None if passing else FEW_TRIES)
        if not isinstance(sent, dict):
            raise BadReply(f"not a reply but {_kind(sent)}: {words_of(sent)}")
        if isinstance(sent.get("usage"), dict):
            self.usage = sent["usage"]
        choices = sent.get("choices")
        if not choices:
            self.server_message = self.server_message or without_half_characters(_message_in(sent))
        for choice in choices if isinstance(choices, list) else []:
            if isinstance(choice, dict) and choice.get("index") in (0, None):
                self._take(choice)

    def _take(self, choice: dict[str, Any]) -> None:
        message: dict[str, Any] = next((choice[key] for key in self.places if isinstance(choice.get(key), dict)), {})
        thought, content = _texts_of(message.get("content"))
        separate_reasoning = next((text for key in REASONING_FIELDS if (text := _reasoning_of(message.get(key)))), "")
        self.reasoning.append(separate_reasoning or thought)
        self.content.append(content)
        reason = choice.get("finish_reason")
        if isinstance(reason, dict):  # {"type": "stop"}
            reason = next((value for value in reason.values() if isinstance(value, str) and value), None)
        self.finish_reason = str(reason) if reason else self.finish_reason

    def row(self) -> dict[str, Any]:
        """The columns of `generation.ADDED`. Raises BadReply where the reply did not end, or ended without a text."""
        if not self.content:
            raise BadReply(
                "the reply has no choices" + (f": {self.server_message[:300]}" if self.server_message else "")
            )
        if self.finish_reason is None:
            raise BadReply("the reply ends without a finish_reason", tries=None)
        reason = without_half_characters(finish_reason_of(self.finish_reason))
        if reason.lower() in FINAL_ENDS:
            raise BadReply("the endpoint did not finish this reply", tries=1, code=reason.lower())
        if reason not in ("stop", "length"):  # insufficient_system_resource, abort, ...
            raise BadReply(f"the endpoint broke off ({reason[:100]})", tries=None)
        reasoning, content = whole_text(self.reasoning), whole_text(self.content)
        text = joined(without_half_characters(reasoning).strip(), without_half_characters(content))
        if not text.strip() and reason == "stop":
            raise BadReply("the reply is empty")
        return {"generated_text": text, "finish_reason": reason, "error": "", **token_counts(self.usage, text)}


def whole_text(parts: list[str]) -> str:
    """The text of a stream's parts. Where each part begins with all that came before, as some servers send it, it is the
    last part.
    """
    sent = [part for part in parts if part]
    if len(sent) > 2 and sent[-1] == sent[-2]:
        sent.pop()  # the last part of such a stream may add nothing
    is_repeated = len(sent) > 1 and all(len(b) > len(a) and b.startswith(a) for a, b in pairwise(sent))
    return sent[-1] if is_repeated else "".join(part for part in parts if part)


def parsed(sent: Any) -> Any:
    """A reply as JSON. A text is parsed: some servers call their JSON text/plain, and the client then gives the text."""
    if isinstance(sent, bytes):
        sent = sent.decode(errors="replace")
    if isinstance(sent, str) and sent.lstrip()[:1] in ("{", "["):
        try:
            return json.loads(sent)
        except (ValueError, RecursionError):
            return sent
    return sent


def reply_of(text: str, is_json: bool) -> Reply:
    """The reply to a request for a stream that the server sent as one text: JSON, an error, or the lines of a stream.

    Raises JSONDecodeError for what calls itself JSON and is none; BadReply for what is no reply.
    """
    lines = [line.removeprefix("data:").strip() for line in text.split("\n") if line.startswith("data:")]
    reply = Reply(is_stream=bool(lines))
    for part in [line for line in lines if line != "[DONE]"] or [text]:
        reply.add(json.loads(part) if is_json and not lines else parsed(part))
    return reply


async def chunks_of(parts: AsyncIterator[bytes]) -> AsyncIterator[Any]:
    """The objects of a stream of server-sent events, up to [DONE]. Lines without data, as heartbeats, are left out.

    Raises JSONDecodeError for an event that is no JSON.
    """
    event = ""
    async for line in _lines(parts):
        field, _, value = line.strip().partition(":")
        if field != "data":
            if not field and event:
                json.loads(event)  # the event has ended, and is no JSON
            continue

        # The data of an event: in one line, or in several.
        event += value.strip()
        if event == "[DONE]":
            return
        try:
            chunk = json.loads(event) if event else None
        except json.JSONDecodeError:
            continue
        event = ""
        if chunk is not None:
            yield chunk


async def _lines(parts: AsyncIterator[bytes]) -> AsyncIterator[str]:
    """The lines of bytes that come in parts; the last one may lack its end. Only a line feed ends a line."""
    waiting = b""
    async for part in parts:
        *lines, waiting = (waiting + part).split(b"\n")
        for line in lines:
            yield line.decode(errors="replace")
    yield waiting.decode(errors="replace")


def _is_error(sent: dict[str, Any]) -> bool:
    """Whether an object says that something failed. Beside choices, an error without a message is none."""
    error = sent.get("error")
    if sent.get("choices") and isinstance(error, dict):
        return bool(_message_in(error)) or any(error.values())
    return bool(error)


def token_counts(usage: dict[str, Any], text: str) -> dict[str, int]:
    """Prompt, generated and thinking tokens; 0 where the server does not count.

    Some servers (xAI) do not count the reasoning in completion_tokens. They are recognised by their sums, e.g. by
    total = prompt + completion + reasoning; then the reasoning is added. Where a server does not count the reasoning,
    it is estimated by its share of the text's characters.
    """
    details = usage.get("completion_tokens_details")
    details = details if isinstance(details, dict) else {}
    prompt, generated, total = (_count(usage.get(f"{name}_tokens")) for name in ("prompt", "completion", "total"))
    thinking = _count(details.get("reasoning_tokens")) or _count(usage.get("reasoning_tokens"))
    if generated and thinking:
        if thinking > generated or 0 < total == prompt + generated + thinking:
            generated += thinking
    elif generated:
        thinking = round(generated * len(thinking_of(text)) / max(1, len(text)))
    counts = {"num_prompt_tokens": prompt, "num_generated_tokens": generated}
    return counts | {"num_thinking_tokens": thinking if generated else 0}


def words_of(sent: Any) -> str:
    """A server's message about an error, in one line: from its JSON, or the text of its HTML page."""
    if isinstance(sent, str):
        try:
            parsed = json.loads(sent)
        except (ValueError, RecursionError):
            parsed = None
        if isinstance(parsed, dict | list):
            return words_of(parsed)
    message = _message_in(sent)
    if not message:
        message = sent if isinstance(sent, str) else json.dumps(sent, ensure_ascii=False, default=str)
    if message.lstrip()[:1] == "<" and (stripped := _HTML.sub(" ", message).split()):
        return f"a page, {' '.join(stripped)[:200]!r}; does the base_url end in /v1?"
    return without_half_characters(" ".join(message.split()))[:300]


def without_half_characters(text: str) -> str:
    """The text with halves of a character (surrogates) joined: a stream may cut an emoji. A single half is replaced."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _message_in(sent: Any, depth: int = 4) -> str:
    """The first text under the keys that servers use: OpenAI's `error.message`, FastAPI's `detail[].msg`, ..."""
    if depth == 0:
        return ""
    if isinstance(sent, list):
        texts = [text for part in sent[:3] if (text := part if isinstance(part, str) else _message_in(part, depth - 1))]
        return "; ".join(texts)
    if not isinstance(sent, dict):
        return ""
    for key in ("error", "message", "detail", "msg", "errors", "error_message", "title", "reason", "metadata"):
        value = sent.get(key)
        text = value if isinstance(value, str) else _message_in(value, depth - 1)
        if text.strip():
            place = sent.get("loc")  # FastAPI: the place in the request
            return f"{'.'.join(map(str, place))}: {text}" if key == "msg" and isinstance(place, list) else text
    return ""


def _texts_of(content: Any) -> tuple[str, str]:
    """`(thought, answer)` of a content: a text, or a list of parts, where some may be thinking (Mistral, Anthropic)."""
    if isinstance(content, str):
        return "", content
    thought, answer = [], []
    for part in content if isinstance(content, list) else [content]:
        if isinstance(part, dict) and part.get("type") in THINKING_PARTS:
            thought.append(_reasoning_of(part))
        else:
            answer.append(part if isinstance(part, str) else _reasoning_of(part))
    return "".join(thought), "".join(answer)


def _reasoning_of(field: Any, depth: int = 4) -> str:
    """The text of a field or part. Servers send it as a text, as a list of parts, or as an object that holds a text."""
    if isinstance(field, str):
        return field
    if depth and isinstance(field, list):
        return "".join(_reasoning_of(part, depth - 1) for part in field)
    if depth and isinstance(field, dict):
        fields = (field.get(key) for key in ("text", "thinking", "reasoning", "content"))
        return next((text for value in fields if (text := _reasoning_of(value, depth - 1))), "")
    return ""


def _count(value: Any) -> int:
    """A number of tokens; 0 for a value that is no such number."""
    try:
        number = int(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else 0
    except (ValueError, OverflowError):
        return 0
    return number if 0 <= number <= MOST_TOKENS else 0


def _status(error: Any) -> int | None:
    """The HTTP status in an error object: gateways send such an object with status 200."""
    codes = [error.get(key) for key in ("code", "status", "status_code")] if isinstance(error, dict) else []
    return next((number for value in codes if (number := _count(value)) in range(400, 600)), None)


def _kind(sent: Any) -> str:
    return {str: "a text", list: "a list", type(None): "null"}.get(type(sent), f"a {type(sent).__name__}")
