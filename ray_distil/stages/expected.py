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
from ray_distil.config.evaluation_config import HELD_OUT, BenchmarkConfig
from ray_distil.errors import UserError
from ray_distil.generate import generators
from ray_distil.report.provenance import EXPECTED
from ray_distil.runner.runs import Run
from ray_distil.runner.stage_settings import StageSettings
from ray_distil.stages import (
    checkpoint,
    instructions,
    models_before_training,
    packed,
    responses,
    rewrites,
    sft_examples,
)
from ray_distil.stages.eval import artifact_of, generator_of
from ray_distil.stages.eval import settings_of as eval_settings
from ray_distil.store.superseded import saved_made_of


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
    settings = {}
    students = {model.name for model in run.config.evaluation.models if model.model_source == TRAINED}
    for name, make in _makers(run):
        with suppress(UserError, OSError):
            # An evaluation of the student has the mark of its training, which is not known before.
            is_of_student = name.startswith("eval/") and name.split("/")[1] in students
            unknown = {"model"} if is_of_student else set()
            settings[name] = make().readable_like(saved_made_of(run.folder / name).get("settings", {}), unknown)
    return settings


def _makers(run: Run) -> Iterator[tuple[str, Callable[[], StageSettings]]]:
    """(artifact, function that returns its settings)."""
    config, training = run.config, run.config.training
    if config.teachers is not None:
        yield "instructions", lambda: instructions.settings_of(config)
        teachers = generators.teachers(config, run.models, run.date)
        yield "responses", lambda: responses.settings_of(config, teachers)
        if (rewriter := generators.rewriter(config, run.models, run.date)) is not None:
            yield "rewrites", lambda: rewrites.settings_of(config, rewriter)
        yield "sft_examples", lambda: sft_examples.settings_of(config)
        if training is not None:
            student = run.models["training.student"]
            yield "packed", lambda: packed.settings_of(run, student, training)
            yield "checkpoint", lambda: checkpoint.settings_of(run, student, training)

    for evaluated, source, mark in models_before_training(run):
        for benchmark in config.evaluation.benchmarks:
            if benchmark.name != HELD_OUT or config.teachers is not None:
                yield artifact_of(run, evaluated, benchmark), partial(_eval, run, evaluated, benchmark, source, mark)
    for evaluated in config.evaluation.models:
        for benchmark in config.evaluation.benchmarks if evaluated.model_source == TRAINED else ():
            yield artifact_of(run, evaluated, benchmark), partial(_eval, run, evaluated, benchmark, "", "")


def _eval(run: Run, evaluated: EvaluatedModel, benchmark: BenchmarkConfig, model: str, mark: str) -> StageSettings:
    generator = generator_of(run, evaluated, benchmark, model)
    return eval_settings(run.config, evaluated.name, benchmark, generator, mark)
