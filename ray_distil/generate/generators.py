"""Which models of a configuration generate texts, and how: the one place that reads this from its sections.

`models`: section -> model, as `config.models.resolve_models` returns them; or `named_models`, before they are resolved.
A generator whose model is not in `models` is left out.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace

from ray_distil.chat import prompts
from ray_distil.config import TRAINED, EvaluatedModel, StagesConfig
from ray_distil.config.evaluation_config import HELD_OUT, BenchmarkConfig
from ray_distil.generate.generator import Generator

Date = Callable[[], str] | None


def teachers(config: StagesConfig, models: dict[str, str], date: Date = None) -> dict[str, Generator]:
    """Name -> the teacher, without those whose responses are imported."""
    sections = config.teachers.sections if config.teachers is not None else {}
    return {
        name: Generator(
            section,
            section,
            models[section],
            backend,
            teacher.sampling_params,
            teacher.system_prompt,
            config.instructions.suffix,
            config.run.seed,
            split="train",
            date=date,
        )
        for name, teacher in sections.items()
        if (backend := teacher.engine or teacher.endpoint or teacher.backend)
        and (section := f"teachers.{name}") in models
    }


def rewriter(config: StagesConfig, models: dict[str, str], date: Date = None) -> Generator | None:
    """Who rewrites; None where long2short is off, no rewrite is a candidate of curation, or nobody is there."""
    is_on = config.long2short.enabled and "rewrite" in config.candidates
    return possible_rewriter(config, models, date) if is_on else None


def possible_rewriter(config: StagesConfig, models: dict[str, str], date: Date = None) -> Generator | None:
    """Who rewrites where rewriting is on: long2short's own model, else the slow teacher."""
    long2short, slow = config.long2short, teachers(config, models, date).get("slow")
    prompt = long2short.system_prompt or prompts.LONG2SHORT
    if backend := long2short.engine or long2short.endpoint or long2short.backend:
        if (model := models.get("long2short")) is None:
            return None
        section, sampling, seed = "long2short", long2short.sampling_params, config.run.seed
        return Generator(section, section, model, backend, sampling, prompt, seed=seed, date=date)
    if slow is None:
        return None
    sampling = long2short.sampling_params
    return replace(slow, section="long2short", sampling=sampling, system_prompt=prompt, suffix="", split="")


def evaluated(
    config: StagesConfig, model: EvaluatedModel, benchmark: BenchmarkConfig, source: str, date: Date = None
) -> Generator:
    """A compared model on a benchmark. source: its folder or name. The run's student is asked as it was trained."""
    evaluation, training = config.evaluation, config.training
    prompt, backend = model.system_prompt, model.endpoint or evaluation.engine
    assert backend is not None  # the configuration requires one of the two

    backend_section = "evaluation"
    if model.endpoint is not None:
        index = [candidate.name for candidate in evaluation.models].index(model.name)
        backend_section = f"evaluation.models.{index}"
    elif model.model_source == TRAINED and training is not None and evaluation.engine is not None:
        prompt = training.system_prompt if prompt is None else prompt
        variables = evaluation.engine.chat_template_kwargs | training.chat_template_kwargs
        backend = evaluation.engine.model_copy(update={"chat_template_kwargs": variables})

    is_held_out = benchmark.name == HELD_OUT
    has_own_sampling = benchmark.sampling_params is not None
    return Generator(
        f"evaluation.benchmarks.{benchmark.name}" if has_own_sampling else "evaluation",
        backend_section,
        source,
        backend,
        evaluation.sampling_of(benchmark),
        prompt,
        config.instructions.suffix if is_held_out else "",  # a benchmark's prompts are complete
        config.run.seed,
        split="eval" if is_held_out else "",
        date=date,
    )


def source_key(config: StagesConfig, model: EvaluatedModel) -> str:
    """The key of `models` that has a compared model; of the run's student, the model that it is trained from."""
    if model.model_source == TRAINED:
        return "training.student"
    index = [candidate.name for candidate in config.evaluation.models].index(model.name)
    return f"evaluation.models.{index}.model_source"


def generators(config: StagesConfig, models: dict[str, str], date: Date = None) -> Iterator[Generator]:
    """All generators of a configuration. The untrained student stands for the trained one."""
    yield from teachers(config, models, date).values()
    if (long2short_rewriter := rewriter(config, models, date)) is not None:
        yield long2short_rewriter
    for model in config.evaluation.models:
        key = source_key(config, model)
        for benchmark in config.evaluation.benchmarks if key in models else ():
            yield evaluated(config, model, benchmark, models[key], date)
