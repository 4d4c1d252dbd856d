"""The chat template of an exported student: with it, a bare question gets the prompt that the student was trained with.

The base model's template stays as it is. Lines in front of it set what training set, where a request does not:

    variables       {% if enable_thinking is not defined %}{% set enable_thinking = false %}{% endif %}
    system prompt   a system turn in front of the messages; before the user's text where the template has no such turn
    date            the run's, in place of the day on which the student is asked

With `packing.template`, the exported template is that one, in the form of a chat template for one question.
"""

import json
import shutil
from copy import copy
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ray_distil.chat.chat_templates import (
    ChatSettings,
    dated_template,
    load_tokenizer,
    replaced_system_prompt,
    takes_system_turn,
)
from ray_distil.chat.model_files import read_tokenizer
from ray_distil.chat.tokenization import IGNORE_INDEX, encode_example, render
from ray_distil.errors import UserError
from ray_distil.store.hub import local_copy

END_OF_LINES = "{{- '' }}"  # keeps white space with which the base template begins
PROBES = ("What is 2 + 3?", "  Two lines,\nand <b>marks</b> \\ {{ x }}.\n")
OF_ONE_QUESTION = """{%- if messages|length != 1 %}
{{- raise_exception('this student was trained on one question a conversation, without a system turn') }}
{%- endif %}
"""


def export_template(
    model: str, settings: ChatSettings, system_prompt: str | None, packing_template: str | None = None
) -> str:
    """The template of a student that was trained from `model` with these settings."""
    if packing_template is not None:
        return OF_ONE_QUESTION + _of_one_question(packing_template)
    template = dated_template(model, settings)
    lines = [
        f"{{%- if {name} is not defined %}}{{%- set {name} = {_literal(value)} %}}{{%- endif %}}"
        for name, value in json.loads(settings.template_kwargs).items()
    ]
    lines += _system_turn(model, settings, system_prompt)
    return "\n".join(lines) + END_OF_LINES + template if lines else template


def _of_one_question(packing_template: str) -> str:
    """What a template of EasyDistill's kind writes before the output. Raises UserError where that is not around the question.

    It is written out, because chat templates are rendered with other rules for white space.
    """
    parts = set()
    for probe in PROBES:
        head, _ = render(packing_template, probe)
        first, probe_mark, last = head.partition(probe)
        parts.add((first, last) if probe_mark else None)
    if len(parts) != 1 or None in parts:
        raise UserError("it changes the question's text; write {{ message.content }} as it is")
    ((first, last),) = filter(None, parts)
    return f"{{{{- {_literal(first)} ~ messages[0]['content'] ~ {_literal(last)} }}}}"


def _system_turn(model: str, settings: ChatSettings, system_prompt: str | None) -> list[str]:
    if system_prompt is None:
        return []
    if takes_system_turn(model, settings):
        if not system_prompt and not replaced_system_prompt(model, settings):
            return []
        turn = f"[{{'role': 'system', 'content': {_literal(system_prompt)}}}]"
        return [f"{{%- if messages[0]['role'] != 'system' %}}{{%- set messages = {turn} + messages %}}{{%- endif %}}"]
    if not system_prompt:
        return []
    # The template has no system turn: as in training, its text goes before the user's. A request may bring its own.
    blank = _literal("\n\n")
    system_turn = (
        f"[{{'role': 'user', 'content': messages[0]['content'] ~ {blank} ~ messages[1]['content']}}] + messages[2:]"
    )
    text = f"{_literal(system_prompt)} ~ {blank} ~ messages[0]['content']"
    turn = f"[{{'role': 'user', 'content': {text}}}] + messages[1:]"
    return [
        f"{{%- if messages[0]['role'] == 'system' %}}"
        f"{{%- set messages = ({system_turn}) if messages[0]['content'] else messages[1:] %}}"
        f"{{%- elif messages[0]['role'] == 'user' and messages[0]['content'] is string %}}{{%- set messages = {turn} %}}"
        "{%- endif %}"
    ]


def _literal(value: Any) -> str:
    """A value of JSON in Jinja's spelling."""
    if isinstance(value, dict):
        return f"{{{', '.join(f'{_literal(key)}: {_literal(inner)}' for key, inner in value.items())}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(_literal, value))}]"
    return "none" if value is None else json.dumps(value, ensure_ascii=False)


def exported_tokenizer(model: str, template: str) -> Any:
    """The tokenizer of an export, saved and read again: a saved one can be read as that of another class."""
    with TemporaryDirectory(prefix="ray_distil-") as folder:
        tokenizer = copy(load_tokenizer(model))
        tokenizer.chat_template = template
        tokenizer.save_pretrained(folder)
        config = Path(local_copy(model)) / "config.json"
        if config.is_file():  # not where the model is a name of the hub
            shutil.copy(config, folder)
        return read_tokenizer(folder)


def served_prompt(question: str, tokenizer: Any, system_prompt: str | None = None) -> list[int]:
    """The ids that a server makes of a question.

    system_prompt: that of a system turn before the question; None: a bare question.

    Marks in the question are encoded as text, as in training.
    """
    import jinja2

    messages = [{"role": "user", "content": question}]
    if system_prompt is not None:
        messages = [{"role": "system", "content": system_prompt}, *messages]
    try:
        ids = tokenizer.apply_chat_template(
            messages,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=False,
            sanitize_control_tokens=True,
        )
    except (jinja2.TemplateError, TypeError, ValueError, KeyError, AttributeError) as error:
        raise UserError(f"the chat template of the export refuses a question: {error}") from error
    return list(ids)


def trained_prompt(
    question: str, model: str, settings: ChatSettings, system_prompt: str | None, packing_template: str | None
) -> list[int]:
    """The ids of a training example's prompt."""
    ids, labels = encode_example(question, "answer", model, packing_template, system_prompt, settings)
    return ids[: sum(label == IGNORE_INDEX for label in labels)]


def difference(
    model: str, settings: ChatSettings, system_prompt: str | None, packing_template: str | None = None
) -> str:
    """How the export would be asked otherwise than the student was trained; "" where it would not.

    It is asked a bare question, as by a server, and with the system prompt of training, as by the run's own evaluation.
    """
    if packing_template is not None and system_prompt is not None:
        return "packing.template writes the whole prompt; set training.system_prompt=null, and write it there"
    tokenizer = exported_tokenizer(model, export_template(model, settings, system_prompt, packing_template))
    for question in PROBES:
        trained = trained_prompt(question, model, settings, system_prompt, packing_template)
        for system in dict.fromkeys([None, system_prompt or None]):
            served = served_prompt(question, tokenizer, system)
            if served != trained:
                return f"{tokenizer.decode(served)!r} instead of {tokenizer.decode(trained)!r}"
    return ""
