"""Checks in the first seconds, before Ray starts, for mistakes that would show only after the money is spent.

`check` raises ConfigError with a line for each setting that cannot be right. It returns remarks on settings that may be
right, e.g. a system prompt that a chat template adds, or instructions without a reference answer.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from ray_distil.config import TRAINED, StagesConfig, TrainingConfig
from ray_distil.config.engine_config import Asked, EngineConfig, SamplingParams
from ray_distil.config.evaluation_config import HELD_OUT
from ray_distil.config.models import model_sources, resolve_model
from ray_distil.errors import ConfigError, UserError
from ray_distil.generate import endpoint, engine
from ray_distil.rows import instructions
from ray_distil.rows.problems import Figures
from ray_distil.run import asking, export_check, frozen
from ray_distil.run.resources import what_cannot_come
from ray_distil.runtime.session import is_local
from ray_distil.store import hub
from ray_distil.store.model_files import local_copy
from ray_distil.texts.chat_templates import (
    PLAIN,
    ChatSettings,
    default_system_prompt,
    render_prompt,
    takes_system_turn,
    writes_date,
    writes_today,
)
from ray_distil.texts.prompts import LONG2SHORT, instruction_messages
from ray_distil.texts.reasoning_marks import THINK_END
from ray_distil.texts.tokenization import encode_example, encode_prompt, load_tokenizer
from ray_distil.train.attention import FLAT

NOT_TRIED = "whether packed examples see each other could not be tried"


@dataclass
class _Spoken:
    """A model that is asked or trained: its key and its engine's key in the configuration, and how it is asked."""

    key: str
    engine_key: str
    model: str
    chat: ChatSettings = PLAIN
    system_prompt: str | None = None
    engine: EngineConfig | None = None
    sampling: SamplingParams | None = None
    prompts: list[str] = field(default_factory=list)


def check(
    config: StagesConfig, models: dict[str, str], problems: Figures | None = None, planned: bool = False
) -> list[str]:
    """Remarks. Raises ConfigError with one line for each mistake. `problems`: None where they are not known.

    `planned`: only a plan is made, maybe not on the machine of the run: missing CPUs and GPUs are then only remarks.
    """
    wrong: list[str] = []
    remarks: list[str] = []
    if is_local():
        (remarks if planned else wrong).extend(
            [*what_cannot_come(config), *endpoint.what_cannot_open(config.endpoints)]
        )
    student = models.get("training.student")
    for spoken in _all_spoken(config, models, problems):
        if not _at_hand(spoken.model):
            continue
        try:
            if spoken.engine is None:  # trained: tries to make an example
                encode_example("question", "answer", spoken.model, None, spoken.system_prompt, spoken.chat)
            wrong += _too_long(spoken)
            remarks += _template_adds(spoken)
            wrong += _foreign_tokenizer(spoken)
            wrong += _no_weights(spoken)
        except (UserError, OSError) as error:
            wrong.append(f"{spoken.key}: {error}")
    if wrong:
        raise ConfigError("\n".join(dict.fromkeys(wrong)))
    if config.training is not None and student and _at_hand(student):
        remarks += _thinks_twice(config, student)
        if told := "\n".join(_cannot_be_learnt(config, student, _prompts(config, problems, "train"))):
            raise ConfigError(told)
    remarks += [*_short_for_chains(config), *asking.bought_for_nothing(config)]
    if config.training is not None and student and _at_hand(student):
        found = _packed(student, config.training, config.packing.enabled)
        if found.startswith(NOT_TRIED):
            remarks.append(f"training.student: {found}")
        elif found:
            raise ConfigError(f"training.student: {found}")
    engine.check(config.engines)
    if config.training is not None and student and _at_hand(student):
        remarks += export_check.before_training(config, config.training, student)
    if problems is not None:
        remarks += instructions.left_out(config.instructions)
        remarks += filter(None, [instructions.unchecked(config.instructions, problems.facts)])
    return list(dict.fromkeys(remarks))


def check_plan(config: StagesConfig, problems: Figures | None) -> list[str]:
    """`check` for a plan. A hub's model that is not on this machine is not checked; a remark names it."""
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")  # only the plan goes to the console
    models, absent = {}, []
    for key, source in model_sources(config).items():
        try:
            models[key.removesuffix(".engine.model_source")] = resolve_model(source, key)
        except ConfigError:
            if not hub.is_hub_name(source):
                raise
            absent.append(source)
    models, _ = frozen.freeze(config, models)
    remarks = check(config, models, problems, planned=True)
    if absent:
        remarks.append(f"not on this machine, and not checked: {', '.join(dict.fromkeys(absent))}")
    return remarks


def _all_spoken(config: StagesConfig, models: dict[str, str], problems: Figures | None) -> Iterator[_Spoken]:
    """The models in `models`, once for each way in which the configuration asks them."""
    train, held_out = (_prompts(config, problems, split) for split in ("train", "eval"))
    asked: list[tuple[str, str, Asked | None, str | None, SamplingParams, list[str]]] = []
    if config.teachers is not None:
        for name, teacher in (("direct", config.teachers.direct), ("slow", config.teachers.slow)):
            if teacher is not None:
                key = f"teachers.{name}"
                asked.append((key, key, teacher, teacher.system_prompt, teacher.sampling_params, train))
    rewriter = config.long2short
    if rewriter.enabled and "rewrite" in config.candidates:
        own = rewriter.engine or rewriter.endpoint
        slow = config.teachers.slow if config.teachers is not None else None
        prompt = rewriter.system_prompt or LONG2SHORT
        by = ("long2short", rewriter) if own else ("teachers.slow", slow)
        asked.append(("long2short", by[0], by[1], prompt, rewriter.sampling_params, []))
    for section, key, who, system_prompt, sampling, prompts in asked:
        if who is not None and who.engine is not None and key in models:
            chat = ChatSettings.of(who.engine.chat_template_kwargs)
            yield _Spoken(section, f"{key}.engine", models[key], chat, system_prompt, who.engine, sampling, prompts)
    trained = config.training
    if trained is not None and "training.student" in models:
        chat = ChatSettings.of(trained.chat_template_kwargs)
        yield _Spoken("training.student", "", models["training.student"], chat, trained.system_prompt)
    for index, evaluated in enumerate(config.evaluation.models):
        key = "training.student" if evaluated.model_source == TRAINED else f"evaluation.models.{index}.model_source"
        if key in models and evaluated.endpoint is None:
            system_prompt, variables = config.asked_with(evaluated)
            chat, given = ChatSettings.of(variables), config.evaluation
            for benchmark in given.benchmarks:
                own = benchmark.sampling_params is not None
                name = f"evaluation.benchmarks.{benchmark.name}" if own else "evaluation"
                prompts = held_out if benchmark.name == HELD_OUT else []
                where = (name, "evaluation.engine", models[key], chat, system_prompt)
                yield _Spoken(*where, given.engine, given.sampling_of(benchmark), prompts)


def _packed(student: str, training: TrainingConfig, packing: bool) -> str:
    """See `leak`. A text that begins with NOT_TRIED says that the check itself failed."""
    from ray_distil.run.leaks import leak

    chosen = training.attn_implementation
    together = packing or (chosen in FLAT and training.train_micro_batch_size_per_gpu > 1)
    try:
        return leak(student, chosen, together)
    except Exception as error:  # noqa: BLE001  model code may raise any error at unusual sizes
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:150]
        return f"{NOT_TRIED} on a small copy of its architecture ({type(error).__name__}: {reason})"


def _wrong_targets(student: str, targets: str | list[str]) -> str:
    """See `lora.wrong_targets`, on a small copy of the student; "" where no copy can be built."""
    from ray_distil.texts.auto_classes import AutoConfig
    from ray_distil.train.lora import wrong_targets
    from ray_distil.train.small_copies import small_copy

    try:
        small = small_copy(AutoConfig.from_pretrained(local_copy(student)), "eager")
    except Exception:  # noqa: BLE001  as above; the training worker raises the error
        return ""
    return wrong_targets(small, targets)


def _prompts(config: StagesConfig, problems: Figures | None, split: str) -> list[str]:
    if problems is None:
        return []
    return [text + config.instructions.suffix for text in problems.samples[split]]


def _at_hand(model: str) -> bool:
    """Whether the model's tokenizer is on this machine. A hub model that is not in the cache is left to the engines."""
    if "://" in model or Path(model).is_dir():
        return True
    return hub.cached(model, "tokenizer_config.json") is not None


def _too_long(spoken: _Spoken) -> Iterator[str]:
    """A line where prompt and max_tokens exceed the engine's max_model_len, or max_model_len what the model reads."""
    if spoken.engine is None or spoken.sampling is None:
        return
    given = engine.context_of(spoken.engine)
    if given is not None and (most := _reads(spoken)) is not None and given > most:
        yield f"{spoken.engine_key}.engine_kwargs.max_model_len: {given:,}, and the model reads {most:,} tokens"
        return
    length, most = given or engine.model_length(spoken.model), spoken.sampling.max_tokens
    shortest = min(
        len(encode_prompt(instruction_messages(text, "", spoken.system_prompt), spoken.model, spoken.chat))
        for text in spoken.prompts or ["?"]
    )
    if shortest >= length:
        yield f"{spoken.key}: the shortest prompt has {shortest:,} tokens, and the engine reads {length:,} in all"
    elif shortest + most > length:
        yield (
            f"{spoken.key}.sampling_params.max_tokens: {most:,} and a prompt of {shortest:,} tokens, the shortest, are "
            f"more than the engine's {length:,}; lower it to {length - shortest:,} or less, or raise "
            f"{spoken.engine_key}.engine_kwargs.max_model_len"
        )


def _no_weights(spoken: _Spoken) -> Iterator[str]:
    """A line for a model folder without weights, and for each weight file that is truncated."""
    folder = Path(spoken.model)
    given = spoken.engine.engine_kwargs.get("load_format") if spoken.engine is not None else None
    if not folder.is_dir() or given is not None:
        return
    files = [file for file in folder.iterdir() if file.suffix in (".safetensors", ".bin", ".pt", ".gguf")]
    if not files:
        yield f"{spoken.key}: {spoken.model!r} has no weights (*.safetensors); copy the whole model"
    for file in files:
        if file.suffix == ".safetensors":
            from safetensors import SafetensorError, safe_open

            try:
                with safe_open(file, "pt") as opened:
                    opened.keys()
            except SafetensorError as error:
                yield f"{spoken.key}: {str(file)!r} is no whole file of weights ({error}); copy it again"


def _cannot_be_learnt(config: StagesConfig, student: str, prompts: list[str]) -> Iterator[str]:
    """Settings of training under which no worker would start, or no example would be left."""
    trained = config.training
    assert trained is not None
    if trained.attn_implementation == "flash_attention_2":
        if not trained.use_gpu:
            yield "training.attn_implementation: flash_attention_2 needs a GPU; use sdpa, or set training.use_gpu=true"
        elif is_local() and find_spec("flash_attn") is None:
            yield "training.attn_implementation: flash_attention_2 needs the package flash-attn; install it, or use sdpa"
    if trained.lora is not None and (found := _wrong_targets(student, trained.lora.target_modules)):
        yield f"training.lora.target_modules: {found}"
    most = config.packing.max_length
    if most is None or not prompts or config.packing.template is not None:
        return
    chat = ChatSettings.of(trained.chat_template_kwargs)
    turns = (instruction_messages(text, "", trained.system_prompt) for text in prompts)
    shortest = min(len(encode_prompt(turn, student, chat)) for turn in turns)
    if shortest >= most:
        yield f"packing.max_length: {most:,}, and the shortest prompt has {shortest:,} tokens; no example would be left"


def _thinks_twice(config: StagesConfig, student: str) -> Iterator[str]:
    """A line where completions are chains of thought, but the prompt ends with an empty, closed think block."""
    thinks = config.teachers is not None and config.teachers.slow is not None and "slow" in config.candidates
    if not thinks or config.training is None or config.packing.template is not None:
        return
    chat = ChatSettings.of(config.training.chat_template_kwargs)
    if (
        render_prompt(instruction_messages("question", "", config.training.system_prompt), student, chat)
        .rstrip()
        .endswith(THINK_END)
    ):
        yield (
            "training.student: its prompt holds an empty think block, and the slow teacher's completions think behind "
            "it; set training.chat_template_kwargs so that the prompt leaves thinking open"
        )


def _short_for_chains(config: StagesConfig) -> Iterator[str]:
    """A line where the rewriter's engine cannot read the longest chain that the slow teacher may write."""
    slow = config.teachers.slow if config.teachers is not None else None
    rewriter = config.long2short
    asked = rewriter.engine or (None if rewriter.endpoint or slow is None else slow.engine)
    length = engine.context_of(asked) if asked is not None else None
    if slow is None or slow.responses is not None or not rewriter.enabled or length is None:
        return
    needed = slow.sampling_params.max_tokens + rewriter.sampling_params.max_tokens
    if needed > length:
        yield (
            f"long2short: a chain of {slow.sampling_params.max_tokens:,} tokens and a rewrite of "
            f"{rewriter.sampling_params.max_tokens:,} are more than its engine reads ({length:,}); longer ones are "
            "rejected as prompt_too_long"
        )


def _reads(spoken: _Spoken) -> int | None:
    """The most tokens that vLLM lets the model read; None where only vLLM can know, e.g. with hf_overrides."""
    from ray_distil.texts.auto_classes import AutoConfig

    assert spoken.engine is not None
    changes = {"hf_overrides", "trust_remote_code"} & spoken.engine.engine_kwargs.keys()
    if changes or "VLLM_ALLOW_LONG_MAX_MODEL_LEN" in {*os.environ, *spoken.engine.env_vars}:
        return None
    try:
        most = engine.model_length(spoken.model)
        config = AutoConfig.from_pretrained(local_copy(spoken.model)).get_text_config()
    except (UserError, ValueError):
        return None
    scaled = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    return None if "factor" in str(scaled) else most  # RoPE scaling: reads more than config.json says


def _template_adds(spoken: _Spoken) -> Iterator[str]:
    name = spoken.model.rstrip("/").rpartition("/")[2]
    own = default_system_prompt(spoken.model, spoken.chat)
    if own and spoken.system_prompt is None:
        yield f"{name}: its chat template adds the system prompt {own[:150]!r}; system_prompt decides"
    if spoken.system_prompt and not takes_system_turn(spoken.model, spoken.chat):
        yield f"{name}: its chat template has no system turn; the system prompt goes before the user's text"
    template = str(load_tokenizer(spoken.model).chat_template)
    for variable in json.loads(spoken.chat.template_kwargs):
        if variable not in template:
            yield f"{spoken.key}: the chat template of {name} does not look at {variable!r} of chat_template_kwargs"
    if writes_today(spoken.model):
        yield f"{name}: its chat template writes the day on which it is used, in a form that run.date does not reach"
    elif writes_date(spoken.model):
        yield f"{name}: its chat template writes a date; it is that of run.date, or of the day on which the run began"


def _foreign_tokenizer(spoken: _Spoken) -> Iterator[str]:
    """A line for a tokenizer with ids beyond the model's embeddings: it belongs to another model."""
    from ray_distil.texts.auto_classes import AutoConfig

    try:
        config = AutoConfig.from_pretrained(local_copy(spoken.model)).get_text_config()
    except ValueError as error:  # an architecture that transformers lacks; vLLM may have it
        if spoken.engine is None:
            told = (str(error).strip().splitlines() or [""])[0][:200]
            yield f"{spoken.key}: transformers cannot read its config.json ({told}); train another student"
        return
    size = getattr(config, "vocab_size", None)
    largest = max(load_tokenizer(spoken.model).get_vocab().values(), default=0)
    if size is not None and largest >= size:
        name = spoken.model.rstrip("/").rpartition("/")[2]
        yield f"{spoken.key}: the tokenizer of {name} has {largest + 1:,} tokens and the model {size:,}; it is another's"
