"""The checks of one model that the configuration names: its files, its chat template, its tokenizer, its context."""

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ray_distil.chat.chat_templates import (
    PLAIN,
    ChatSettings,
    default_system_prompt,
    encode_prompt,
    load_tokenizer,
    replaced_system_prompt,
    takes_system_turn,
    writes_date,
    writes_today,
)
from ray_distil.chat.families import has_marks, thinking_switch
from ray_distil.chat.model_files import needs_tokenizer_code, read_config, trust
from ray_distil.chat.prompts import instruction_messages
from ray_distil.chat.reasoning_marks import THINK_BEGIN
from ray_distil.chat.tokenization import encode_example
from ray_distil.checks import engine_models, weight_files
from ray_distil.config.engine_config import EngineConfig, SamplingParams
from ray_distil.config.findings import Finding, remark
from ray_distil.errors import UserError
from ray_distil.generate import engine, token_rows
from ray_distil.store.hub import local_copy

SLOW, DIRECT = "teachers.slow", "teachers.direct"


@dataclass(frozen=True)
class CheckedModel:
    """A model that generates, or that is trained (then without an engine).

    section: of the configuration, e.g. "teachers.slow". engine_key: where its engine stands. prompts: some of the texts
    that it reads, for the shortest prompt.
    """

    section: str
    model: str
    chat: ChatSettings = PLAIN
    system_prompt: str | None = None
    engine_key: str = ""
    engine: EngineConfig | None = None
    sampling: SamplingParams | None = None
    prompts: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.model.rstrip("/").rpartition("/")[2].partition("@")[0]


def findings(checked: CheckedModel) -> Iterator[Finding]:
    """All findings on a model. A check that cannot read the model's files is a finding too.

    Of a hub's model, what is not in the hub's cache comes first, without its weights: some MB.
    """
    try:
        local_copy(checked.model)
        if checked.engine is not None:
            trust(checked.model, checked.engine.engine_kwargs)
        for check in CHECKS:
            yield from check(checked)
    except (UserError, OSError) as error:
        yield Finding(checked.section, str(error))


def example(checked: CheckedModel) -> Iterator[Finding]:
    """Of a student: tries to make an example, which raises UserError where its template or tokenizer cannot.

    An engine may run code of the model's repository; a training does not.
    """
    if checked.engine is None:
        if needs_tokenizer_code(checked.model):
            raise UserError(
                f"the tokenizer of {checked.name} is code of its repository, which a training does not run; "
                "train another student"
            )
        encode_example("question", "answer", checked.model, None, checked.system_prompt, checked.chat)
    yield from ()


def context(checked: CheckedModel) -> Iterator[Finding]:
    """Prompt and max_tokens exceed the engine's max_model_len, or max_model_len what the model reads."""
    if checked.engine is None or checked.sampling is None:
        return
    max_model_len, max_tokens = engine.context_of(checked.engine), checked.sampling.max_tokens
    setting = f"{checked.engine_key}.engine_kwargs.max_model_len"
    if max_model_len is not None and (readable := _readable_tokens(checked)) is not None and max_model_len > readable:
        yield Finding(setting, f"{max_model_len:,}, and the model reads {readable:,} tokens")
        return

    # The shortest prompt: where it does not fit, none does.
    length = max_model_len or token_rows.model_length(checked.model)
    shortest = min(
        len(encode_prompt(instruction_messages(text, "", checked.system_prompt), checked.model, checked.chat))
        for text in checked.prompts or ["?"]
    )
    if shortest >= length:
        yield Finding(
            checked.section, f"the shortest prompt has {shortest:,} tokens, and the engine reads {length:,} in all"
        )
    elif max_tokens > length:
        yield Finding(
            f"{checked.section}.sampling_params.max_tokens",
            f"{max_tokens:,} and a prompt of {shortest:,} tokens, the shortest, are more than the engine's {length:,}; "
            f"lower it to {length - shortest:,} or less, or raise {setting}",
        )
    elif length > max_tokens > length - shortest:  # max_tokens = max_model_len: "as far as it reads"
        yield remark(
            f"{checked.section}.sampling_params.max_tokens",
            f"{max_tokens:,}, and behind a prompt of {shortest:,} tokens, the shortest, the engine's {length:,} leave "
            f"{length - shortest:,}; a longer text is cut there",
        )


def _readable_tokens(checked: CheckedModel) -> int | None:
    """The most tokens that vLLM lets the model read; None where only vLLM can know, e.g. with hf_overrides."""
    assert checked.engine is not None
    changes = {"hf_overrides", "trust_remote_code"} & checked.engine.engine_kwargs.keys()
    if changes or "VLLM_ALLOW_LONG_MAX_MODEL_LEN" in {*os.environ, *checked.engine.env_vars}:
        return None
    try:
        length = token_rows.model_length(checked.model)
        config = read_config(checked.model).get_text_config()
    except (UserError, ValueError):
        return None
    scaling = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    return None if "factor" in str(scaling) else length  # RoPE scaling: reads more than config.json says


def template(checked: CheckedModel) -> Iterator[Finding]:
    """Remarks on what the chat template adds or ignores."""
    own_prompt = default_system_prompt(checked.model, checked.chat)
    is_kept = bool(own_prompt) and not replaced_system_prompt(checked.model, checked.chat)
    if is_kept:
        yield remark(
            checked.name,
            f"its chat template writes {own_prompt[:150]!r} before every question; system_prompt is added to it, and does "
            "not take it away",
        )
    elif own_prompt and checked.system_prompt is None:
        yield remark(
            checked.name, f"its chat template adds the system prompt {own_prompt[:150]!r}; system_prompt decides"
        )
    if checked.system_prompt and not takes_system_turn(checked.model, checked.chat):
        yield remark(
            checked.name, "its chat template has no system turn; the system prompt goes before the user's text"
        )

    text = str(load_tokenizer(checked.model).chat_template)
    for variable in json.loads(checked.chat.template_kwargs):
        if variable not in text:
            yield remark(
                checked.section,
                f"the chat template of {checked.name} does not look at {variable!r} of chat_template_kwargs",
            )

    if writes_today(checked.model):
        yield remark(
            checked.name, "its chat template writes the day on which it is used, in a form that run.date does not reach"
        )
    elif writes_date(checked.model):
        yield remark(
            checked.name,
            "its chat template writes a date; it is that of run.date, or of the day on which the run began",
        )


def thinking(checked: CheckedModel) -> Iterator[Finding]:
    """Remarks on a slow teacher that does not think, or has no mark of it, and on a direct one that does."""
    if checked.engine is None or checked.section not in (SLOW, DIRECT):
        return

    # Its template's switch stands the wrong way.
    switch = thinking_switch(checked.model, checked.chat)
    if switch is not None and switch[1] == (checked.section == DIRECT):
        name, thinks = switch
        advice = (
            "its thoughts are not learnt, but cost tokens" if thinks else "it is asked for answers without thoughts"
        )
        yield remark(
            checked.section,
            f"{checked.name} {'thinks' if thinks else 'does not think'} as its template is set: {advice}; set "
            f"{checked.engine_key}.chat_template_kwargs={{{name}: {str(not thinks).lower()}}}",
        )

    # Of a slow one, no mark is known.
    if checked.section == DIRECT or THINK_BEGIN in (checked.system_prompt or ""):
        return
    if not has_marks(checked.model):
        yield remark(
            SLOW,
            f"{checked.name} has no mark of thinking among its tokens or in its template: its responses count as answers, "
            "and are rewritten whole; give a model that thinks, or a system_prompt that asks for <think> and </think>",
        )


def vocabulary(checked: CheckedModel) -> Iterator[Finding]:
    """A tokenizer with ids beyond the model's embeddings belongs to another model."""
    try:
        config = read_config(checked.model).get_text_config()
    except ValueError as error:  # an architecture that transformers lacks; vLLM may have it
        if checked.engine is None:
            reason = (str(error).strip().splitlines() or [""])[0][:200]
            yield Finding(
                checked.section, f"transformers cannot read its config.json ({reason}); train another student"
            )
        return
    size = getattr(config, "vocab_size", None)
    largest = _largest_id(checked.model)
    if size is not None and largest >= size:
        yield Finding(
            checked.section,
            f"the tokenizer of {checked.name} has {largest + 1:,} tokens and the model {size:,}; it is another's",
        )


def _largest_id(model: str) -> int:
    """The largest id that a text, its template or its padding can have. Gemma 3's mark of a picture lies behind all words
    of its text models, and is never written.
    """
    tokenizer = load_tokenizer(model)
    template = str(tokenizer.chat_template)
    unused = {
        number
        for number, token in tokenizer.added_tokens_decoder.items()
        if token.special
        and str(token) not in template
        and number not in (tokenizer.eos_token_id, tokenizer.pad_token_id)
    }
    return max((number for number in tokenizer.get_vocab().values() if number not in unused), default=0)


def weights(checked: CheckedModel) -> Iterator[Finding]:
    """Files of weights that are missing or half."""
    load_format = checked.engine.engine_kwargs.get("load_format") if checked.engine is not None else None
    trained = checked.engine is None
    is_folder = "://" in checked.model or Path(checked.model).is_dir()
    if is_folder and load_format is None:
        yield from (Finding(checked.section, mistake) for mistake in weight_files.wrong_files(checked.model, trained))


def engines(checked: CheckedModel) -> Iterator[Finding]:
    """Of a model that generates: an architecture, or a division, that vLLM refuses when its engines start."""
    if checked.engine is None:
        return
    for argument, mistake in engine_models.wrong_model(checked.model, checked.engine):
        yield Finding(f"{checked.engine_key}.engine_kwargs.{argument}" if argument else checked.section, mistake)


CHECKS: tuple[Callable[[CheckedModel], Iterator[Finding]], ...] = (
    example,
    context,
    template,
    thinking,
    vocabulary,
    weights,
    engines,
)
