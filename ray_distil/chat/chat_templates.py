"""Chat templates: how a model's messages become its prompt, and what its template adds by itself.

Qwen2.5     <|im_start|>system\\nYou are Qwen, ...<|im_end|>\\n<|im_start|>user\\n...    a system prompt of its own
Gemma-2     raises "System role not supported"              we put the system prompt into the user's turn
R1-Distill  ...<｜Assistant｜><think>\\n                       its prompt opens the think block
Llama-3.1   ...Today Date: 27 Nov 2026...                   we write the run's date, not today's
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from functools import lru_cache
from pathlib import Path
from typing import Any

from ray_distil.chat.model_files import TRUST, has_tokenizer_code, read_tokenizer
from ray_distil.chat.prompts import Messages
from ray_distil.errors import UserError
from ray_distil.store.hub import local_copy

PROBE = "probe-of-this-run"
JINJA_CLOCK = "strftime_now"  # the function by which templates write today's date
# Four words or more of a line, without marks; and lines of a date, which have a remark of their own.
SENTENCE = re.compile(r"[^\W\d_][\w'’,;-]*(?: [\w'’,;-]+){3,}[.!?]?")
OF_DATES = re.compile(r"\b(?:date|today|cutoff)\b", re.IGNORECASE)
CLOCK = re.compile(JINJA_CLOCK + r"\(\s*(['\"])(.*?)\1\s*\)")


@dataclass(frozen=True)
class ChatSettings:
    """The inputs of a chat template besides the messages."""

    template_kwargs: str = "{}"  # JSON of its variables, such as {"enable_thinking": false}
    date: str | None = None  # YYYY-MM-DD, for templates that write it; None: today

    @classmethod
    def of(cls, template_kwargs: dict[str, Any], day: str | None = None) -> "ChatSettings":
        return cls(json.dumps(template_kwargs, sort_keys=True), day)


PLAIN = ChatSettings()


@lru_cache(maxsize=8)
def load_tokenizer(model: str) -> Any:
    """The model's AutoTokenizer, loaded once a process. Raises UserError without one, or without a chat template."""
    advice = "give a folder with one"
    if has_tokenizer_code(model):
        advice = (
            f"it is code of its repository: set engine_kwargs.{TRUST}=true to run it, where an engine asks the model"
        )
    try:
        tokenizer = read_tokenizer(model)
    except (OSError, ValueError, TypeError) as error:  # no tokenizer files, or unknown to transformers
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise UserError(f"{model!r} has no tokenizer that can be read ({reason}); {advice}") from error
    ids = tokenizer("question", add_special_tokens=False)["input_ids"]
    if "question" not in tokenizer.decode(ids):  # for a folder without tokenizer files, transformers makes an empty one
        raise UserError(f"{model!r} has no tokenizer that can be read (it has no words); {advice}")
    if not tokenizer.chat_template:
        raise UserError(f"{model!r} has no chat template; give a model with one, such as its -Instruct version")
    return tokenizer


def render_prompt(messages: Messages, model: str, settings: ChatSettings = PLAIN) -> str:
    """The text of a conversation up to where the assistant's turn begins. See `encode_prompt`."""
    return str(_apply(_fitting(messages, model, settings), model, settings, add_generation_prompt=True, tokenize=False))


def encode_prompt(messages: Messages, model: str, settings: ChatSettings = PLAIN) -> list[int]:
    """Token ids of a conversation up to where the assistant's turn begins. A mark inside a message is encoded as text.

    Where the template has no system turn, the system prompt goes before the user's text. Raises UserError where the
    template does not render.
    """
    if not holds_control_token(messages, model, settings):  # as Transformers encodes it, without its search
        return list(
            load_tokenizer(model)(render_prompt(messages, model, settings), add_special_tokens=False)["input_ids"]
        )
    options = {"add_generation_prompt": True, "tokenize": True, "return_dict": False, "sanitize_control_tokens": True}
    return list(_apply(_fitting(messages, model, settings), model, settings, **options))


def holds_control_token(messages: Messages, model: str, settings: ChatSettings = PLAIN) -> bool:
    """Whether a message, or a variable of the template, holds the text of a control token, which is to stay text."""
    variables = "" if settings.template_kwargs == PLAIN.template_kwargs else str(json.loads(settings.template_kwargs))
    control_tokens = _control_tokens(model, settings)
    return any(control_tokens.search(text) for text in (variables, *(turn["content"] for turn in messages)))


@lru_cache(maxsize=32)
def _control_tokens(model: str, settings: ChatSettings) -> re.Pattern[str]:
    """Special tokens, and added tokens that the template writes, be it in a date; without white space, as Gemma's "\n"."""
    tokenizer, template = load_tokenizer(model), dated_template(model, settings)
    declared = set(getattr(tokenizer, "chat_control_tokens", None) or ())
    added = tokenizer.added_tokens_decoder.values()
    marks = [str(token) for token in added if token.special or str(token) in template or str(token) in declared]
    return re.compile("|".join(re.escape(mark) for mark in marks if not mark.isspace()) or r"(?!)")


def _fitting(messages: Messages, model: str, settings: ChatSettings) -> Messages:
    """The messages as the template takes them. If it has no system turn, that text is put before the user's."""
    if not messages or messages[0]["role"] != "system":
        return messages
    if takes_system_turn(model, settings):  # an empty system turn keeps a template from writing its own
        is_idle = not messages[0]["content"] and not replaced_system_prompt(model, settings)
        return messages[1:] if is_idle else messages
    system, user, *rest = messages
    if not system["content"]:
        return [user, *rest]
    return [{**user, "content": f"{system['content']}\n\n{user['content']}"}, *rest]


def dated_template(model: str, settings: ChatSettings) -> str:
    """The model's chat template, with the date of the settings in place of the day on which it is rendered."""
    template = str(load_tokenizer(model).get_chat_template())
    if settings.date is None:
        return template
    day = date.fromisoformat(settings.date)
    return CLOCK.sub(lambda match: repr(day.strftime(match[2])), template)


def _apply(messages: Messages, model: str, settings: ChatSettings, **options: bool) -> Any:
    import jinja2

    tokenizer = load_tokenizer(model)
    template = dated_template(model, settings)
    try:
        variables = json.loads(settings.template_kwargs)
        return tokenizer.apply_chat_template(messages, chat_template=template, **variables, **options)
    except (jinja2.TemplateError, TypeError, ValueError, KeyError, AttributeError) as error:
        raise UserError(f"{model!r}: its chat template refuses the conversation: {error}") from error


def around_answer(model: str, settings: ChatSettings = PLAIN) -> tuple[str, str]:
    """`(between, behind)`: what the template writes between the prompt and the assistant's text, and behind it, up to the
    end of the conversation. The first is "" where the conversation does not begin with the prompt.
    """
    turns = [{"role": "user", "content": "question"}, {"role": "assistant", "content": PROBE}]
    text = str(_apply(turns, model, settings, add_generation_prompt=False, tokenize=False))
    head, mark, tail = text.rpartition(PROBE)
    if not mark:
        raise UserError(f"{model!r}: its chat template leaves out what the assistant says")
    prompt = render_prompt(turns[:1], model, settings)
    return head[len(prompt) :] if head.startswith(prompt) else "", tail


@lru_cache(maxsize=32)
def takes_system_turn(model: str, settings: ChatSettings = PLAIN) -> bool:
    """Whether the template writes a system turn. Some templates refuse it; some leave it out without an error."""
    turns = [{"role": "system", "content": PROBE}, {"role": "user", "content": "question"}]
    try:
        return PROBE in _apply(turns, model, settings, add_generation_prompt=True, tokenize=False)
    except UserError:
        return False


def default_system_prompt(model: str, settings: ChatSettings = PLAIN) -> str:
    """The system prompt that the template writes by itself; "" where it writes none."""
    return replaced_system_prompt(model, settings) or kept_system_prompt(model, settings)


@lru_cache(maxsize=32)
def kept_system_prompt(model: str, settings: ChatSettings = PLAIN) -> str:
    """The sentences that the template writes before the user's turn, whether a system turn is given or not (gpt-oss)."""
    user = {"role": "user", "content": "question"}
    turns = [[user], [{"role": "system", "content": PROBE}, user]]
    if not takes_system_turn(model, settings):
        turns.pop()  # a system prompt would go into the user's turn
    heads = [render_prompt(messages, model, settings).partition("question")[0] for messages in turns]
    sentences = SENTENCE.findall(heads[0])
    return " ".join(text for text in sentences if text in heads[-1] and not OF_DATES.search(text))


@lru_cache(maxsize=32)
def replaced_system_prompt(model: str, settings: ChatSettings = PLAIN) -> str:
    """The system prompt that the template writes if no system turn is given, in its place; "" where it writes none."""
    if not takes_system_turn(model, settings):
        return ""
    user = {"role": "user", "content": "question"}
    rendered_pair, none = (
        render_prompt(messages, model, settings) for messages in ([{"role": "system", "content": PROBE}, user], [user])
    )
    head, _, tail = rendered_pair.partition(PROBE)
    if not none.startswith(head) or not none.endswith(tail) or len(none) <= len(head) + len(tail):
        return ""
    return none[len(head) : len(none) - len(tail)].strip()


def writes_date(model: str) -> bool:
    """Whether the template writes the current date. Read from its file: a finished run loads no tokenizer."""
    folder = Path(local_copy(model))
    if not folder.is_dir():  # a name of the hub
        return JINJA_CLOCK in str(load_tokenizer(model).chat_template)
    files = (folder / name for name in ("chat_template.jinja", "chat_template.json", "tokenizer_config.json"))
    return any(JINJA_CLOCK in file.read_text(encoding="utf-8") for file in files if file.is_file())


def chat_settings(model: str, template_kwargs: dict[str, Any], date: Callable[[], str] | None) -> ChatSettings:
    """What the model's chat template gets. The date is computed, and given, only for a template that writes one."""
    return ChatSettings.of(template_kwargs, date() if date is not None and writes_date(model) else None)


def writes_today(model: str) -> bool:
    """Whether the template writes the date in a form that CLOCK does not match: today's date, not the run's."""
    return f"{JINJA_CLOCK}(" in CLOCK.sub("", str(load_tokenizer(model).chat_template))
