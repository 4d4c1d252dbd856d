"""How a configuration's models are asked: engine or endpoint, chat template, sampling; and what changes their texts."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from ray_distil.config import StagesConfig
from ray_distil.config.engine_config import Asked, SamplingParams
from ray_distil.generate import endpoint, engine
from ray_distil.generate.engine_arguments import of_texts
from ray_distil.generate.generation import Generate
from ray_distil.run.runs import Run
from ray_distil.store import hub
from ray_distil.store.manifest import model_fingerprint
from ray_distil.store.model_files import local_copy
from ray_distil.texts.chat_templates import ChatSettings, writes_date

# The sampling parameters that `vllm serve` takes from a model's generation_config.json. max_new_tokens is not among them
# here: `max_tokens` is always set.
OF_THE_MODEL = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
# An endpoint's request_params, and vLLM's engine arguments, that change no text: they set place, speed and batch size.
SILENT_PARAMS = {"stream_options", "user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key"}
# Those of earlier versions of this package, whose runs have all others in the marks of their texts.
SILENT_BEFORE = {
    "block_size", "compilation_config", "cpu_offload_gb", "disable_log_stats", "distributed_executor_backend",
    "download_dir", "enable_chunked_prefill", "enable_prefix_caching", "enforce_eager", "gpu_memory_utilization",
    "kv_cache_memory_bytes", "load_format", "max_model_len", "max_num_batched_tokens", "max_num_seqs",
    "max_parallel_loading_workers", "pipeline_parallel_size", "swap_space", "tensor_parallel_size",
}  # fmt: skip


def generate(run: Run, asked: Asked, model: str, num_rows: int) -> Generate:
    """Generation of at most `num_rows` rows by the engine or the endpoint of a section.

    `model`: folder, hub name, or its name at the endpoint.
    """
    if asked.engine is not None:
        chat = chat_settings(run, model, asked.engine.chat_template_kwargs)
        return engine.build(asked.engine, model, chat, num_rows)
    assert asked.endpoint is not None  # the configuration requires one of the two
    return endpoint.build(asked.endpoint, num_rows)


def rewriter(run: Run) -> tuple[Asked, str] | None:
    """Who rewrites, and with which model; None where nobody does.

    That is where long2short is off, where no rewrite is a candidate of curation, and where there is neither a slow teacher
    nor another rewriter.
    """
    config, teachers = run.config.long2short, run.config.teachers
    slow = teachers.slow if teachers is not None else None
    if not config.enabled or "rewrite" not in run.config.candidates:
        return None
    if config.engine or config.endpoint:
        return config, run.models["long2short"]
    return (slow, run.models["teachers.slow"]) if slow is not None else None


def one_at_a_time(asked: Asked) -> Asked:
    """The same section with one engine, or one connection, that works on one request at a time."""
    if asked.engine is not None:
        alone = {"concurrency": (1, 1), "batch_size": 1, "max_concurrent_batches": 1}
        return asked.model_copy(update={"engine": asked.engine.model_copy(update=alone)})
    assert asked.endpoint is not None
    return asked.model_copy(update={"endpoint": asked.endpoint.model_copy(update={"max_concurrency": 1})})


def imports(*asked: Asked) -> tuple[str, ...]:
    """Names of the modules that generation by these sections imports."""
    return engine.IMPORTS if any(one.engine is not None for one in asked) else ()


def params(sampling: SamplingParams, asked: Asked, model: str) -> dict[str, Any]:
    """Sampling parameters for a request, without those that nobody sets.

    Where temperature or top_p is null, the model's own values take the place of what is not set. An endpoint sets them
    itself; for an engine they are read from the model's generation_config.json.
    """
    given = sampling.model_dump()
    if asked.engine is not None and None in (sampling.temperature, sampling.top_p):
        own = _generation_config(model)
        given |= {name: own.get(name) for name in OF_THE_MODEL if given[name] is None}
    return {name: value for name, value in given.items() if value is not None}


def bought_for_nothing(config: StagesConfig) -> Iterator[str]:
    """A line for each teacher whose samples are all equal, or none of whose texts may be learnt."""
    yield from same_samples(config)
    yield from never_learnt(config)


def never_learnt(config: StagesConfig) -> Iterator[str]:
    """A line for each teacher that is asked, and none of whose texts may be learnt."""
    learnt_from = {"direct": {"direct"}, "slow": {"slow", "rewrite"}}
    for name in config.teachers.given if config.teachers is not None else ():
        if not learnt_from[name] & set(config.candidates):
            yield (
                f"teachers.{name}: it is asked, and none of its texts is learnt; curation.candidates is "
                f"{', '.join(config.candidates)}"
            )


def same_samples(config: StagesConfig) -> Iterator[str]:
    """A line for each section that asks for several samples at temperature 0: they would all be the same text."""
    teachers = config.teachers.given if config.teachers is not None else {}
    asked = [
        (f"teachers.{name}", one.num_samples, one.sampling_params)
        for name, one in teachers.items()
        if one.responses is None
    ]
    given = config.evaluation
    for one in given.benchmarks if given.models else ():
        asked.append((f"evaluation/{one.name}", given.samples_of(one), given.sampling_of(one)))
    for key, number, sampling in asked:
        if number > 1 and sampling.temperature == 0:
            yield f"{key}: {number} samples at temperature 0 are one text {number} times; set a temperature, or one sample"


def _generation_config(model: str) -> dict[str, Any]:
    from ray_distil.texts.auto_classes import GenerationConfig

    try:
        return dict(GenerationConfig.from_pretrained(local_copy(model)).to_diff_dict())
    except OSError:  # no generation_config.json
        return {}


def chat_settings(run: Run, model: str, template_kwargs: dict[str, Any]) -> ChatSettings:
    """What the model's chat template is given. The date is given only to a template that writes one."""
    return ChatSettings.of(template_kwargs, run.date if writes_date(model) else None)


def texts_of(run: Run, asked: Asked, model: str, before: bool = False) -> dict[str, Any]:
    """What changes the texts: the model and its arguments, without the number of engines and the endpoint's addresses.

    `max_model_len` is left out, as max_tokens is: a text that ends in time is the same under a larger limit. `before`: by
    the rule of earlier versions.
    """
    if asked.engine is None:
        assert asked.endpoint is not None
        params = {k: v for k, v in asked.endpoint.request_params.items() if k not in SILENT_PARAMS}
        return {"model": model} | ({"request_params": params} if params else {})
    chat = chat_settings(run, model, asked.engine.chat_template_kwargs)
    kwargs = asked.engine.engine_kwargs
    kwargs = {k: v for k, v in kwargs.items() if k not in SILENT_BEFORE} if before else of_texts(kwargs)
    if before and "revision" in kwargs and hub.is_at_commit(model):
        model = hub.split(model)[0]  # the revision was not looked up
    return {"model": model_fingerprint(model), "engine_kwargs": kwargs, "chat": asdict(chat)}
