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
    takes_system_turn,
    writes_date,
    writes_today,
)
from ray_distil.chat.prompts import instruction_messages
from ray_distil.chat.tokenization import encode_example
from ray_distil.config.engine_config import EngineConfig, SamplingParams
from ray_distil.config.findings import Finding, remark
from ray_distil.errors import UserError
from ray_distil.generate import engine, token_rows
from ray_distil.store import hub
from ray_distil.store.hub import local_copy

WEIGHTS = (".safetensors", ".bin", ".pt", ".gguf")


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
        return self.model.rstrip("/").rpartition("/")[2]


def is_at_hand(model: str) -> bool:
    """Whether the model's tokenizer is on this machine. A hub model that is not in the cache is left to the engines."""
    if "://" in model or Path(model).is_dir():
        return True
    return hub.cached(model, "tokenizer_config.json") is not None


def findings(checked: CheckedModel) -> Iterator[Finding]:
    """All findings on a model. A check that cannot read the model's files is a finding too."""
    try:
        for check in CHECKS:
            yield from check(checked)
    except (UserError, OSError) as error:
        yield Finding(checked.section, str(error))


def example(checked: CheckedModel) -> Iterator[Finding]:
    """Of a student: tries to make an example, which raises UserError where its template or tokenizer cannot."""
    if checked.engine is None:
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
    elif shortest + max_tokens > length:
        yield Finding(
            f"{checked.section}.sampling_params.max_tokens",
            f"{max_tokens:,} and a prompt of {shortest:,} tokens, the shortest, are more than the engine's {length:,}; "
            f"lower it to {length - shortest:,} or less, or raise {setting}",
        )


def _readable_tokens(checked: CheckedModel) -> int | None:
    """The most tokens that vLLM lets the model read; None where only vLLM can know, e.g. with hf_overrides."""
    from ray_distil.chat.auto_classes import AutoConfig

    assert checked.engine is not None
    changes = {"hf_overrides", "trust_remote_code"} & checked.engine.engine_kwargs.keys()
    if changes or "VLLM_ALLOW_LONG_MAX_MODEL_LEN" in {*os.environ, *checked.engine.env_vars}:
        return None
    try:
        length = token_rows.model_length(checked.model)
        config = AutoConfig.from_pretrained(local_copy(checked.model)).get_text_config()
    except (UserError, ValueError):
        return None
    scaling = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    return None if "factor" in str(scaling) else length  # RoPE scaling: reads more than config.json says


def template(checked: CheckedModel) -> Iterator[Finding]:
    """Remarks on what the chat template adds or ignores."""
    system_prompt = default_system_prompt(checked.model, checked.chat)
    if system_prompt and checked.system_prompt is None:
        yield remark(
            checked.name, f"its chat template adds the system prompt {system_prompt[:150]!r}; system_prompt decides"
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


def vocabulary(checked: CheckedModel) -> Iterator[Finding]:
    """A tokenizer with ids beyond the model's embeddings belongs to another model."""
    from ray_distil.chat.auto_classes import AutoConfig

    try:
        config = AutoConfig.from_pretrained(local_copy(checked.model)).get_text_config()
    except ValueError as error:  # an architecture that transformers lacks; vLLM may have it
        if checked.engine is None:
            reason = (str(error).strip().splitlines() or [""])[0][:200]
            yield Finding(
                checked.section, f"transformers cannot read its config.json ({reason}); train another student"
            )
        return
    size = getattr(config, "vocab_size", None)
    largest = max(load_tokenizer(checked.model).get_vocab().values(), default=0)
    if size is not None and largest >= size:
        yield Finding(
            checked.section,
            f"the tokenizer of {checked.name} has {largest + 1:,} tokens and the model {size:,}; it is another's",
        )


def weights(checked: CheckedModel) -> Iterator[Finding]:
    """A model folder without weights, and each weight file that is truncated."""
    from safetensors import SafetensorError, safe_open

    folder = Path(checked.model)
    load_format = checked.engine.engine_kwargs.get("load_format") if checked.engine is not None else None
    if not folder.is_dir() or load_format is not None:
        return
    files = [file for file in folder.iterdir() if file.suffix in WEIGHTS]
    if not files:
        yield Finding(checked.section, f"{checked.model!r} has no weights (*.safetensors); copy the whole model")
    for file in (file for file in files if file.suffix == ".safetensors"):
        try:
            with safe_open(file, "pt") as opened:
                opened.keys()
        except SafetensorError as error:
            yield Finding(checked.section, f"{str(file)!r} is no whole file of weights ({error}); copy it again")


CHECKS: tuple[Callable[[CheckedModel], Iterator[Finding]], ...] = (example, context, template, vocabulary, weights)
