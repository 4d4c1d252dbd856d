r"""Marks of thinking that are tokens of a model, and what a model's turn holds before its answer.

    gpt-oss     <|start|>assistant|<|channel|>analysis<|message|>2 + 3<|end|><|start|>assistant<|channel|>final<|message|>5
    Command A   <|CHATBOT_TOKEN|><|START_THINKING|>|2 + 3<|END_THINKING|><|START_RESPONSE|>5
    Magistral   [/INST]|[THINK]2 + 3[/THINK]5
    Qwen3       <|im_start|>assistant\n|<think>\n2 + 3\n</think>\n\n5
                    the prompt ends here ^

Rows have `<think>` and `</think>` for all of them (`reasoning_marks.py`). An engine keeps special tokens where marks are some;
a training writes the model's own marks.
"""

import json
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

from ray_distil.chat.chat_templates import PLAIN, ChatSettings, around_answer, load_tokenizer, render_prompt
from ray_distil.chat.model_files import read_settings
from ray_distil.chat.prompts import instruction_messages
from ray_distil.chat.reasoning_marks import (
    HARMONY,
    OTHER_MARKS,
    THINK_BEGIN,
    THINK_END,
    Marks,
    split_reasoning,
    thinking_is_open,
    thinking_of,
)
from ray_distil.store.hub import local_copy

FAMILIES = (HARMONY, *OTHER_MARKS)
SWITCHES = ("enable_thinking", "thinking")  # variables of templates: Qwen3, GLM, SmolLM3; DeepSeek-V3.1, Granite
FEWEST = 4  # characters of a token that is a part of a mark; "<" is none
HANDS_OVER = "<|end|><|start|>assistant"  # gpt-oss: between its thought and its answer


@lru_cache(maxsize=32)
def added_tokens(model: str) -> dict[str, bool]:
    """Text of an added token of the model's tokenizer -> whether it is special. Read from its files, without Transformers."""
    folder = Path(local_copy(model))
    if not folder.is_dir():  # a name of the hub
        tokens = load_tokenizer(model).added_tokens_decoder.values()
        return {str(token): bool(token.special) for token in tokens}
    listed: list[dict[str, Any]] = []
    for name, key in (("tokenizer.json", "added_tokens"), ("tokenizer_config.json", "added_tokens_decoder")):
        entries = read_settings(folder / name).get(key) or []
        listed += entries.values() if isinstance(entries, dict) else entries
    return {entry["content"]: bool(entry.get("special")) for entry in listed if entry.get("content")}


@lru_cache(maxsize=32)
def special_tokens(model: str) -> frozenset[str]:
    """The special tokens of a model among whose tokens a mark of thinking is special, so that engines would leave it out of
    their texts; else empty.
    """
    tokens = added_tokens(model)
    parts = [token for token in tokens if _is_part(token)]
    marks = [THINK_BEGIN, THINK_END, *(mark for family in FAMILIES for mark in family[:4] if mark)]
    marks = [mark for mark in marks if _is_of(mark, parts)]
    special = frozenset(text for text, is_special in tokens.items() if is_special)
    return special if any(token in mark for token in special.intersection(parts) for mark in marks) else frozenset()


@lru_cache(maxsize=32)
def family_of(model: str) -> Marks | None:
    """The family whose marks are tokens of the model; None where it has `<think>`, or no mark at all.

    Special tokens come first: no model has such marks without a use of them.
    """
    tokens = added_tokens(model)
    for kind in (True, False):
        of_kind = [token for token, is_special in tokens.items() if is_special == kind and _is_part(token)]
        if THINK_END in of_kind:
            return None
        for family in FAMILIES:
            if all(_is_of(mark, of_kind) for mark in (family.begin, family.end)):
                return family
    return None


def _is_of(mark: str, tokens: list[str]) -> bool:
    """Whether a mark is made of tokens, and of words between them as gpt-oss' `analysis`."""
    parts = [token for token in sorted(tokens, key=len, reverse=True) if token in mark]
    rest = re.split("|".join(map(re.escape, parts)), mark) if parts else [mark]
    return len(rest) > 1 and all(word.isalpha() or not word for word in rest)


def _is_part(token: str) -> bool:
    """Whether a token can be a part of a mark; a word is none."""
    return len(token) >= FEWEST and not token.isalpha()


def has_marks(model: str) -> bool:
    """Whether a mark of thinking is among the model's tokens, or in its chat template."""
    template = str(load_tokenizer(model).chat_template)
    ends = (THINK_END, *(family.end for family in FAMILIES))
    return THINK_END in added_tokens(model) or family_of(model) is not None or any(end in template for end in ends)


def thinking_end(model: str) -> str:
    """The text by which a model ends its thinking."""
    family = family_of(model)
    return THINK_END if family is None else family.end


def opened_mark(prompt: str) -> str:
    """The mark by which a prompt opens the thinking, as the templates of R1 and Command A do; "" where it opens none."""
    text = prompt.rstrip()
    return next((mark for mark in (THINK_BEGIN, *(family.begin for family in FAMILIES)) if text.endswith(mark)), "")


def thinking_switch(model: str, settings: ChatSettings = PLAIN) -> tuple[str, bool] | None:
    """`(variable, thinks)`: the variable of a template that switches the thinking, and whether the model thinks as it is set
    now. None where there is none, or where it changes no prompt.
    """
    variables = json.loads(settings.template_kwargs)
    question = instruction_messages("question")
    present = render_prompt(question, model, settings)
    for name in SWITCHES:
        if name not in str(load_tokenizer(model).chat_template):
            continue
        on, off = (
            render_prompt(question, model, ChatSettings.of(variables | {name: value}, settings.date))
            for value in (True, False)
        )
        if on != off and present in (on, off):
            return name, present == on
    return None


def without_specials(text: str, specials: frozenset[str]) -> str:
    """A text with our marks of thinking, without the special tokens that an engine has left in it."""
    for token in specials - {THINK_BEGIN, THINK_END}:
        text = text.replace(token, "")
    return text


@lru_cache(maxsize=8)
def before_answer(model: str, settings: ChatSettings = PLAIN) -> str:
    """What the template writes between the prompt and the assistant's text, where it holds marks of the model's family:
    gpt-oss' channel.

    An empty think block is none: it stands there so that earlier turns are read without their thoughts.
    """
    family = family_of(model)
    if family is None:
        return ""
    between, _ = around_answer(model, settings)
    without_block = between
    for begin, end in ((THINK_BEGIN, THINK_END), (family.begin, family.end)):
        head, begin_mark, rest = without_block.partition(begin)
        thought, end_mark, tail = rest.partition(end)
        if begin_mark and end_mark and thought.strip() in ("", family.label):
            without_block = head + tail

    # Marks of a turn alone, as where a template leaves out the head of the assistant's turn, are none of thinking.
    marks = [mark for mark in family[:4] if mark]
    parts = [token for token in added_tokens(model) if _is_part(token) and any(token in mark for mark in marks)]
    return between if any(token in without_block for token in parts) else ""


def turn_of(completion: str, opened: str, model: str, settings: ChatSettings = PLAIN) -> list[tuple[str, bool]]:
    """A completion as the model's own turn holds it: `(text, is_marks)`, in their order; what is marks is tokens.

    opened: the mark by which the prompt opens the thinking, or "".
    """
    if opened == THINK_BEGIN:
        return [(behind_opened_block(completion), False)]
    lead = before_answer(model, settings)
    family = next((family for family in FAMILIES if family.begin == opened), None) or family_of(model)
    has_thought = bool(thinking_of(completion))
    if family is None or not (opened or lead or has_thought):
        return [(completion, False)]

    # Its thought, in its own marks.
    thought, conclusion = split_reasoning(completion) if has_thought else ("", completion)
    label = f"{family.label}\n" if family.label else ""
    pieces = [(family.begin, True), (label, False)] if thought and not opened else []
    pieces += [(thought, False)]
    if thinking_is_open(completion):
        return pieces

    # Its answer. A mark of words stands on a line of its own.
    if family is HARMONY:
        pieces += [(HANDS_OVER, True)] if thought else []
        return [*pieces, (lead or family.end, True), (conclusion, False)]
    if not (thought or opened):
        return [*pieces, (lead, True), (conclusion, False)]
    if " " in family.end:
        return [*pieces, ("\n" if thought else "", False), (f"{family.end}\n", True), (conclusion, False)]
    return [*pieces, (family.end + family.conclusion, True), (conclusion, False)]


def behind_opened_block(completion: str) -> str:
    """A completion for a prompt that ends with `<think>\\n`: without its own begin mark, which would be a second one.

    A completion without a think block gets `</think>` first, which closes the prompt's block at once. So prompt and
    completion together read as before.
    """
    text = completion.lstrip()
    if text.startswith(THINK_BEGIN):
        return text.removeprefix(THINK_BEGIN).lstrip("\n")
    return f"\n{THINK_END}\n\n{completion}"
