"""Records with a question and its answer, under the keys that datasets use for them.

    question    instruction, or the user's turn of a conversation
    answer      output, or response, or the assistant's turn; with reasoning_content, if the record has it apart

A conversation is `messages` (role and content), or ShareGPT's `conversations` (from and value): one turn of the user
and at most one of the assistant. Students are trained without a system prompt, so a system turn must be empty.
"""

import math
import re
from decimal import Decimal
from typing import Any

from ray_distil.chat.reasoning_marks import joined
from ray_distil.errors import BadRecord

ROLES = {"human": "user", "gpt": "assistant", "model": "assistant", "bot": "assistant", "chatgpt": "assistant"}
# finish_reason as servers and datasets spell it -> our spelling. Any other value stays: such a response is incomplete.
FINISHED = dict.fromkeys(
    (
        "stop",
        "eos",
        "eos_token",
        "end_turn",
        "end_of_turn",
        "stop_sequence",
        "stop_token",
        "complete",
        "completed",
        "finished",
    ),
    "stop",
)
FINISHED |= dict.fromkeys(
    (
        "length",
        "max_tokens",
        "max_length",
        "max_new_tokens",
        "max_output_tokens",
        "model_length",
        "token_limit",
        "context_length_exceeded",
        "context_window_exceeded",
        "model_context_window_exceeded",
        "context_length",
    ),
    "length",
)
_SETTING = re.compile(r"[A-Za-z_-]{1,20}|\d+")  # a single word; a thought has more
TURNS = (["user"], ["user", "assistant"])


def instruction_of(record: dict[str, Any]) -> Any:
    """The question of a record, unchanged; None without one. Raises BadRecord for several turns or a system turn.

    Alpaca's `input` is appended to its `instruction`, after a line break.
    """
    instruction = record.get("instruction")
    if instruction is None:
        turns = _turns(record)
        return turns[0]["content"] if turns else None
    if record.get("history"):
        raise BadRecord("several_turns", "`history` holds turns before this one")
    system = record.get("system")
    if isinstance(system, str) and system.strip():
        raise BadRecord("system_turn", f"the system prompt {system[:100]!r}; see drop_system")
    data = record.get("input")
    if not isinstance(instruction, str) or data in (None, "", instruction):
        return instruction
    if not isinstance(data, str):
        raise BadRecord("bad_input", f"`input` is a {type(data).__name__}; expected text")
    return f"{instruction}\n{data}" if data.strip() else instruction


def without_system(record: dict[str, Any]) -> dict[str, Any]:
    """The record without its system turns."""
    rest = {name: value for name, value in record.items() if name != "system"}
    for name in ("messages", "conversations"):
        turns = record.get(name)
        if isinstance(turns, list):
            rest[name] = [turn for turn in turns if not (isinstance(turn, dict) and _role(turn) == "system")]
    return rest


def responses_in(record: dict[str, Any]) -> list[str]:
    """The answers of a record with their reasoning: one, or several if `output` is a list. Raises BadRecord."""
    answered = next((record[key] for key in ("output", "response") if record.get(key) is not None), None)
    if isinstance(answered, list):
        if not answered:
            raise BadRecord("bad_record", "`output` is an empty list")
        return [text for answer in _right_ones(answered, record) for text in responses_in({**record, "output": answer})]
    reasoning = _reasoning(record)
    if answered is None and (turns := _turns(record)[1:]):
        answered = turns[0]["content"]
        reasoning = reasoning or _reasoning(turns[0])
    texts = ["" if text is None else text for text in (reasoning, answered)]
    if not all(isinstance(text, str) for text in texts) or not "".join(texts).strip():
        raise BadRecord("bad_record", "no text in 'output'")
    return [joined(texts[0].strip(), texts[1])]


def _right_ones(answered: list[Any], record: dict[str, Any]) -> list[Any]:
    """The correct responses, if `correctness` has a value for each; else all responses. Raises BadRecord for none."""
    correctness = record.get("correctness")
    if not isinstance(correctness, list) or len(correctness) != len(answered):
        return answered
    right = [answer for answer, is_right in zip(answered, correctness, strict=True) if is_right is True]
    if not right:
        raise BadRecord("not_correct", f"none of {len(answered)} responses is correct, as the record says")
    return right


def finish_reason_of(value: Any) -> str:
    """A finish_reason in our spelling: "stop", "length", or as it is given."""
    return FINISHED.get(str(value).strip().lower().removeprefix("finish_reason_"), str(value))


def _reasoning(holder: dict[str, Any]) -> Any:
    """The reasoning that a record has apart from the answer, under any of the keys of servers and datasets."""
    values = (holder.get(key) for key in ("reasoning_content", "reasoning", "thinking"))
    return next((value for value in values if value and not _is_setting(value)), None)


def _is_setting(value: Any) -> bool:
    """Whether a value says how much is thought, and is no thought: true, "off", "disabled", "high"."""
    if isinstance(value, bool | int | float | dict):
        return True
    return isinstance(value, str) and _SETTING.fullmatch(value.strip()) is not None


def _text(content: Any) -> Any:
    """A content as one text, if it is a list of parts that are all text; any other content unchanged."""
    if not isinstance(content, list) or not content:
        return content
    texts = [
        part.get("text") if isinstance(part, dict) and part.get("type", "text") == "text" else None for part in content
    ]
    return "".join(map(str, texts)) if all(isinstance(text, str) for text in texts) else content


def _role(turn: dict[str, Any]) -> Any:
    role = turn.get("role") or turn.get("from")
    return role.strip().lower() if isinstance(role, str) else role


def _turns(record: dict[str, Any]) -> list[dict[str, Any]]:
    """The user's turn, and the assistant's if it is there; [] for a record without a conversation."""
    conversation = next((record[key] for key in ("messages", "conversations") if record.get(key) is not None), None)
    if conversation is None:
        return []
    if not isinstance(conversation, list) or not all(isinstance(turn, dict) for turn in conversation):
        raise BadRecord("bad_messages", "expected a list of objects with role and content")

    turns = []
    for turn in conversation:
        role = _role(turn)
        content = _text(next((turn[key] for key in ("content", "value") if turn.get(key) is not None), None))
        if not isinstance(role, str) or not isinstance(content, str | None):
            raise BadRecord("bad_messages", f"the turn {str(turn)[:100]!r} has no role, or a content that is not text")
        if role != "system":
            turns.append(turn | {"role": ROLES.get(role, role), "content": content})
        elif content and content.strip():
            raise BadRecord(
                "system_turn", f"the system prompt {content[:100]!r}; students are trained without one; see drop_system"
            )

    # A student learns from one exchange.
    roles = [turn["role"] for turn in turns]
    if roles.count("user") > 1:
        raise BadRecord("several_turns", f"{roles.count('user')} turns of the user; expected one")
    if roles not in TURNS:
        raise BadRecord(
            "bad_messages", f"the turns are {', '.join(roles) or 'none'}; expected user, or user, assistant"
        )
    return turns


def reference_of(answer: Any) -> str | None:
    """The reference answer from a record's `answer`; None without one. Raises BadRecord for a value that is no answer.

    From a list of one value this value is taken. NaN and infinite numbers count as no answer. 1e22 and 1e-05 are
    written with all their digits.
    """
    if isinstance(answer, list) and len(answer) == 1:
        (answer,) = answer
    if isinstance(answer, dict | list | bool):
        raise BadRecord("bad_answer", f"`answer` is a {type(answer).__name__}; expected text or a number")
    if isinstance(answer, float):
        if not math.isfinite(answer):
            return None
        digits = format(Decimal(repr(answer)), "f")
        answer = digits.rstrip("0").rstrip(".") if "." in digits else digits
    try:
        text = "" if answer is None else str(answer).strip()
    except ValueError:  # Python's limit
        raise BadRecord("bad_answer", "`answer` is a number of thousands of digits") from None
    try:
        text.encode()
    except UnicodeEncodeError:
        raise BadRecord("not_unicode", "`answer` holds a lone surrogate") from None
    return text or None
