"""The settings of each artifact of a run by its configuration, whether the artifact is there or not.

They are saved with the configuration when the first stage of a command begins. The report compares them with the
settings of the artifacts that are there.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any

from ray_distil.config import TRAINED, EvaluatedModel
from ray_distil.config.evaluation_config import HELD_OUT, BenchmarkConfig, folder_of
from ray_distil.errors import UserError
from ray_distil.generate import generators
from ray_distil.report.settings import EXPECTED
from ray_distil.run import comparing, made_of
from ray_distil.run.runs import Run


def save(run: Run) -> None:
    """Save the run's configuration, and the settings of its artifacts."""
    settings = json.dumps(settings_of(run), indent=1, ensure_ascii=False) + "\n"
    for file, text in (("config.yaml", run.config.to_yaml()), (EXPECTED, settings)):
        if not run.folder.exists(file) or run.folder.read_text(file) != text:
            run.folder.write_text(file, text)


def settings_of(run: Run) -> dict[str, dict[str, Any]]:
    """Artifact -> its settings, as a manifest has them. Those of a run whose rows are imported are left out.

    So are those that cannot be known yet, because a model is not there: where its stage begins, that is an error.
    """
    found = {}
    for name, make in _makers(run):
        with suppress(UserError, OSError):
            found[name] = make()
    return found


def _makers(run: Run) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    """(artifact, function that returns its settings)."""
    config, training = run.config, run.config.training
    if config.teachers is not None:
        yield "instructions", lambda: made_of.of_instructions(config).readable
        yield (
            "responses",
            lambda: made_of.of_responses(config, generators.teachers(config, run.models, run.date)).readable,
        )
        if (rewriter := generators.rewriter(config, run.models, run.date)) is not None:
            yield "rewrites", lambda: made_of.of_rewrites(config, rewriter).readable
        yield "sft_examples", lambda: made_of.of_examples(config).readable
        if training is not None:
            student = run.models["training.student"]
            yield "packed", lambda: made_of.of_packed(run, student, training).readable
            yield "checkpoint", lambda: made_of.of_checkpoint(run, student, training).readable

    for evaluated, source, mark in comparing.models_before_training(run):
        for benchmark in config.evaluation.benchmarks:
            if benchmark.name != HELD_OUT or config.teachers is not None:
                asked = (run, evaluated, benchmark, source, mark)
                yield _artifact_of(run, evaluated, benchmark), partial(_evaluation, *asked)
    for evaluated in config.evaluation.models:
        for benchmark in config.evaluation.benchmarks if evaluated.model_source == TRAINED else ():
            yield _artifact_of(run, evaluated, benchmark), partial(_of_the_student, run, evaluated, benchmark)


def _artifact_of(run: Run, evaluated: EvaluatedModel, benchmark: BenchmarkConfig) -> str:
    return f"eval/{evaluated.name}/{folder_of(run.config.evaluation.label(benchmark))}"


def _evaluation(
    run: Run, evaluated: EvaluatedModel, benchmark: BenchmarkConfig, model: str, mark: str
) -> dict[str, Any]:
    generator = comparing.generator_of(run, evaluated, benchmark, model)
    return made_of.of_evaluation(run.config.evaluation, evaluated.name, benchmark, generator, mark).readable


def _of_the_student(run: Run, evaluated: EvaluatedModel, benchmark: BenchmarkConfig) -> dict[str, Any]:
    """Without the mark of the model, which its training makes."""
    return {key: value for key, value in _evaluation(run, evaluated, benchmark, "", "").items() if key != "model"}
