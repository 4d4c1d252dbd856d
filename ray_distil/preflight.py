"""What is checked in the first seconds, before Ray starts: what would fail, or be wrong, after the whole bill.

`check` raises ConfigError with a line for each thing that cannot be right, and returns remarks on what may be: what a chat
template adds, where nothing is checked for correctness.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ray_distil import UserError, engine, instructions
from ray_distil.chat_templates import PLAIN, ChatSettings, default_system_prompt, takes_system_turn, writes_date
from ray_distil.config import TRAINED, StagesConfig
from ray_distil.engine_config import EngineConfig
from ray_distil.models import is_hub_name, local_copy, model_sources, resolve_model
from ray_distil.section import ConfigError
from ray_distil.session import is_local
from ray_distil.tokenization import encode_example, encode_prompt, load_tokenizer, template_difference

NOT_TRIED = "whether packed examples see each other could not be tried"
NUM_PROMPTS = 200  # whose lengths are looked at, evenly over all


@dataclass
class _Spoken:
    """A model that is asked or trained: where it stands in the configuration, and with what."""

    key: str
    model: str
    chat: ChatSettings = PLAIN
    system_prompt: str | None = None
    engine: EngineConfig | None = None
    max_tokens: int | None = None
    prompts: list[str] = field(default_factory=list)


def check(
    config: StagesConfig, models: dict[str, str], problems: pa.Table | None = None, planned: bool = False
) -> list[str]:
    """Remarks. Raises ConfigError, a line a mistake. `problems`: INSTRUCTIONS rows, where they are known.

    `planned`: only a plan is made, maybe on another machine than the run; what this one has not is a remark then.
    """
    wrong: list[str] = []
    remarks: list[str] = []
    if is_local():
        (remarks if planned else wrong).extend(_what_cannot_come(config))
    student = models.get("training.student")
    for spoken in _all_spoken(config, models, problems):
        if not _at_hand(spoken.model):
            continue
        try:
            wrong += _too_long(spoken)
            remarks += _template_adds(spoken)
            wrong += _foreign_tokenizer(spoken)
        except UserError as error:
            wrong.append(f"{spoken.key}: {error}")
    if wrong:
        raise ConfigError("\n".join(dict.fromkeys(wrong)))
    if config.training is not None and config.packing.enabled and student and _at_hand(student):
        found = _packed(student, config.training.attn_implementation)
        if found.startswith(NOT_TRIED):
            remarks.append(f"training.student: {found}")
        elif found:
            raise ConfigError(f"training.student: {found}; set packing.enabled=false, or train another student")
    engine.check(config.engines)  # the last: it loads vLLM, for seconds
    if config.packing.template is not None and config.training is not None and student and _at_hand(student):
        chat = ChatSettings.of(config.training.chat_template_kwargs)
        if other := template_difference(config.packing.template, student, config.training.system_prompt, chat):
            remarks.append(f"packing.template writes {other}; the exported student has its own chat template")
    if problems is not None and (unchecked := instructions.unchecked(config.instructions, problems)):
        remarks.append(unchecked)
    return list(dict.fromkeys(remarks))


def check_plan(config: StagesConfig, problems: pa.Table | None) -> list[str]:
    """`check` for a plan: models that only a hub or another machine has are not looked at, and said."""
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")  # nothing is run, and the console is for the plan
    models, absent = {}, []
    for key, source in model_sources(config).items():
        try:
            models[key.removesuffix(".engine.model_source")] = resolve_model(source, key)
        except ConfigError:
            if not is_hub_name(source):
                raise
            absent.append(source)
    remarks = check(config, models, problems, planned=True)
    if absent:
        remarks.append(f"not on this machine, and not checked: {', '.join(dict.fromkeys(absent))}")
    return remarks


def _all_spoken(config: StagesConfig, models: dict[str, str], problems: pa.Table | None) -> Iterator[_Spoken]:
    train, held_out = (_prompts(config, problems, split) for split in ("train", "eval"))
    for name in ("direct", "slow"):
        asked = getattr(config.teachers, name) if config.teachers is not None else None
        key = f"teachers.{name}"
        if asked is not None and asked.engine is not None and key in models:
            chat = ChatSettings.of(asked.engine.chat_template_kwargs)
            most = asked.sampling_params.max_tokens
            yield _Spoken(key, models[key], chat, asked.system_prompt, asked.engine, most, train)
    rewriter = config.long2short
    if rewriter.enabled and rewriter.engine is not None and "long2short" in models:
        chat = ChatSettings.of(rewriter.engine.chat_template_kwargs)
        most = rewriter.sampling_params.max_tokens
        yield _Spoken("long2short", models["long2short"], chat, "given", rewriter.engine, most)
    if config.training is not None and "training.student" in models:
        chat = ChatSettings.of(config.training.chat_template_kwargs)
        yield _Spoken("training.student", models["training.student"], chat, config.training.system_prompt)
    for index, evaluated in enumerate(config.evaluation.models):
        settings = config.evaluation.engine
        assert settings is not None  # the configuration has seen to it
        key = "training.student" if evaluated.model_source == TRAINED else f"evaluation.models.{index}.model_source"
        if key in models:
            chat = ChatSettings.of(settings.chat_template_kwargs)
            most = config.evaluation.sampling_params.max_tokens
            where = f"evaluation.models.{index}"
            yield _Spoken(where, models[key], chat, evaluated.system_prompt, settings, most, held_out)


def _packed(student: str, attn_implementation: str) -> str:
    """See `leak`; what begins with NOT_TRIED is no verdict."""
    from ray_distil.leaks import leak

    try:
        return leak(student, attn_implementation)
    except Exception as error:  # noqa: BLE001  what the code of an architecture raises at unusual sizes has no list
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:150]
        return f"{NOT_TRIED} on a small copy of its architecture ({type(error).__name__}: {reason})"


def _prompts(config: StagesConfig, problems: pa.Table | None, split: str) -> list[str]:
    if problems is None:
        return []
    chosen = problems.filter(pc.and_(pc.is_null(problems["reject_reason"]), pc.equal(problems["split"], split)))
    texts = chosen["instruction"].to_pylist()
    return [text + config.instructions.suffix for text in texts[:: max(1, len(texts) // NUM_PROMPTS)]]


def _at_hand(model: str) -> bool:
    """Whether its tokenizer is on this machine; a name of the hub that is not in its cache is left to the engines."""
    if "://" in model or Path(model).is_dir():
        return True
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(model, "tokenizer_config.json"), str)


def _too_long(spoken: _Spoken) -> list[str]:
    """Where the engine's max_model_len leaves no room, or is more than the model reads."""
    if spoken.engine is None:  # trained: an example can be made of it
        encode_example("question", "answer", spoken.model, None, spoken.system_prompt, spoken.chat)
        return []
    kwargs = spoken.engine.engine_kwargs
    most = engine.model_length(spoken.model)
    given = kwargs.get("max_model_len")
    section = "evaluation" if spoken.key.startswith("evaluation") else spoken.key
    if isinstance(given, int) and given > most and not {"hf_overrides", "rope_scaling"} & kwargs.keys():
        return [f"{section}.engine.engine_kwargs.max_model_len: {given:,}, and the model reads {most:,} tokens"]
    length = given if isinstance(given, int) else most
    system = [] if spoken.system_prompt is None else [{"role": "system", "content": spoken.system_prompt}]
    shortest = min(
        (
            len(encode_prompt([*system, {"role": "user", "content": text}], spoken.model, spoken.chat))
            for text in spoken.prompts or ["?"]
        ),
    )
    if shortest + (spoken.max_tokens or 0) > length:
        return [
            f"{section}.sampling_params.max_tokens: {spoken.max_tokens:,} and a prompt of {shortest:,} tokens, the "
            f"shortest, are more than the engine's {length:,}; lower it to {length - shortest:,} or less, or raise "
            f"{section}.engine.engine_kwargs.max_model_len"
        ]
    return []


def _template_adds(spoken: _Spoken) -> Iterator[str]:
    name = spoken.model.rstrip("/").rpartition("/")[2]
    own = default_system_prompt(spoken.model, spoken.chat)
    if own and spoken.system_prompt is None:
        yield f"{name}: its chat template adds the system prompt {own[:150]!r}; system_prompt decides"
    if spoken.system_prompt and not takes_system_turn(spoken.model, spoken.chat):
        yield f"{name}: its chat template has no system turn; the system prompt goes before the user's text"
    if writes_date(spoken.model):
        yield f"{name}: its chat template writes a date; it is that of run.date, or of the day on which the run began"


def _foreign_tokenizer(spoken: _Spoken) -> Iterator[str]:
    """A tokenizer with ids for which the model has no embedding: it is another model's."""
    from transformers import AutoConfig

    size = getattr(AutoConfig.from_pretrained(local_copy(spoken.model)).get_text_config(), "vocab_size", None)
    largest = max(load_tokenizer(spoken.model).get_vocab().values(), default=0)
    if size is not None and largest >= size:
        yield f"{spoken.key}: its tokenizer has {largest + 1:,} tokens and the model {size:,}; it is another model's"


def _what_cannot_come(config: StagesConfig) -> Iterator[str]:
    """What no engine or worker would ever get: the Ray of this machine does not grow."""
    cpus = config.ray.num_cpus or os.cpu_count() or 1
    gpus = _lazily(_num_gpus)
    for key, asked in config.engines.items():
        sizes = (asked.engine_kwargs.get(f"{kind}_parallel_size", 1) for kind in ("tensor", "pipeline"))
        workers = max(1, _product(size for size in sizes if isinstance(size, int)))
        yield from _missing(key, asked.num_gpus * workers, asked.num_cpus, asked.resources, cpus, gpus, "an engine")
    trained = config.training
    if trained is not None:
        many = trained.num_workers
        if many * trained.cpus_per_worker > cpus:
            yield (
                f"training.num_workers: {many} workers of {trained.cpus_per_worker:g} CPU, and this Ray has {cpus}"
                f"; lower it, or raise ray.num_cpus"
            )
        needed = many if trained.use_gpu else 0
        yield from _missing("training", needed, 0, trained.resources_per_worker, cpus, gpus, f"{many} workers")


def _missing(
    key: str, gpus: float, cpus: float, resources: dict[str, float], has: int, has_gpus: Callable[[], int], who: str
) -> Iterator[str]:
    if cpus > has:
        yield f"{key}.num_cpus: {who} reserves {cpus:g} CPUs, and this Ray has {has}; lower it, or raise ray.num_cpus"
    if gpus > 0 and gpus > has_gpus():
        name = "use_gpu" if key == "training" else "num_gpus"
        yield f"{key}.{name}: {who} would need {gpus:g} GPUs, and this machine has {has_gpus() or 'none'}"
    for name in resources:
        yield f"{key}.resources: {name!r} is on no node; the Ray that a run starts has CPUs and GPUs only"


def _num_gpus() -> int:
    import torch

    return int(torch.cuda.device_count())


def _lazily(work: Callable[[], int]) -> Callable[[], int]:
    known: list[int] = []

    def value() -> int:
        if not known:
            known.append(work())
        return known[0]

    return value


def _product(numbers: Any) -> int:
    made = 1
    for number in numbers:
        made *= number
    return made
