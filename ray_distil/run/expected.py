"""The settings of each artifact of a run by its configuration, whether the artifact is there or not.

They are saved with the configuration when the first stage of a command begins. The report compares them with the
settings of the artifacts that are there.
"""

import json
from typing import Any

from ray_distil.config import TRAINED
from ray_distil.config.evaluation_config import HELD_OUT, folder_of
from ray_distil.report.settings import EXPECTED
from ray_distil.run import asking, comparing, made_of
from ray_distil.run.runs import Run


def save(run: Run) -> None:
    """Save the run's configuration, and the settings of its artifacts."""
    run.folder.write_text("config.yaml", run.config.to_yaml())
    run.folder.write_text(EXPECTED, json.dumps(settings_of(run), indent=1, ensure_ascii=False) + "\n")


def settings_of(run: Run) -> dict[str, dict[str, Any]]:
    """Artifact -> its settings, as a manifest has them. Those of a run whose rows are imported are left out."""
    config, training = run.config, run.config.training
    known = {}
    if config.teachers is not None:
        known["instructions"] = made_of.of_instructions(config)
        known["responses"] = made_of.of_responses(run)
        if (rewriter := asking.rewriter(run)) is not None:
            known["rewrites"] = made_of.of_rewrites(run, *rewriter)
        known["sft_examples"] = made_of.of_examples(config)
        if training is not None:
            student = run.models["training.student"]
            known["packed"] = made_of.of_packed(run, student, training)
            known["checkpoint"] = made_of.of_checkpoint(run, student, training)

    settings = {name: one.readable for name, one in known.items()}
    marks = {model.name: (source, mark) for model, source, mark in comparing.models_before_training(run)}
    for evaluated in config.evaluation.models:
        for benchmark in config.evaluation.benchmarks:
            name = f"eval/{evaluated.name}/{folder_of(config.evaluation.label(benchmark))}"
            source, mark = marks.get(evaluated.name, ("", ""))
            if evaluated.model_source == TRAINED:
                one = made_of.of_evaluation(run, evaluated, benchmark, source, mark).readable
                settings[name] = {key: value for key, value in one.items() if key != "model"}
            elif source and (benchmark.name != HELD_OUT or config.teachers is not None):
                settings[name] = made_of.of_evaluation(run, evaluated, benchmark, source, mark).readable
    return settings
