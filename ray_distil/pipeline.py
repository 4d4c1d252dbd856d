"""The ordered stages of a run; those already complete are skipped."""

from collections.abc import Callable

from ray_distil import instructions, report, stages
from ray_distil.config import DistillConfig, resolve_model
from ray_distil.report import Report
from ray_distil.runs import Run, run_lock
from ray_distil.shards import write_text

STUDENT = "student"  # as a model to evaluate: the one that the run trains


def run(config: DistillConfig, say: Callable[[str], None] = print) -> Report:
    """Make what the run does not have yet, and its report.

    Raises UserError for mistakes, before anything is written, and StageError where a stage cannot finish.
    """
    models = resolve_models(config)
    records = instructions.collect(config.instructions, config.run.seed)
    this = Run(config, models, say)
    with run_lock(this.folder):
        write_text(this.folder / "config.yaml", config.to_yaml())
        problems = stages.make_instructions(this, records)
        responses = stages.make_responses(this, problems)
        rewrites = stages.make_rewrites(this, responses)
        examples = stages.make_examples(this, responses, rewrites)
        packed = stages.make_packed(this, examples)
        checkpoint = stages.make_checkpoint(this, packed)
        stages.make_evaluation(this, problems, checkpoint)
        return report.build(this.folder)


def resolve_models(config: DistillConfig) -> dict[str, str]:
    """Key of the configuration -> folder or hub name of its model. Raises ConfigError for one that is not there."""
    named = {"training.student": config.training.student}
    for name, asked in (("direct", config.teachers.direct), ("slow", config.teachers.slow)):
        if asked is not None:
            named[f"teachers.{name}.engine.model_source"] = asked.engine.model_source
    if config.long2short.engine is not None:
        named["long2short.engine.model_source"] = config.long2short.engine.model_source
    for index, model in enumerate(config.evaluation.models):
        if model.model_source != STUDENT:
            named[f"evaluation.models.{index}.model_source"] = model.model_source
    return {key: resolve_model(source, key) for key, source in named.items()}
