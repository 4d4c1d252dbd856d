"""The ordered stages of a run; those already complete are skipped."""

from collections.abc import Callable

from ray_distil import instructions, report, stages
from ray_distil.config import TRAINED, DistillConfig, resolve_model
from ray_distil.report import Report
from ray_distil.runs import Run, beside, run_lock
from ray_distil.session import stderr_to
from ray_distil.shards import write_text


def run(config: DistillConfig, say: Callable[[str], None] = print) -> Report:
    """Make what the run does not have yet, and its report.

    Raises UserError for mistakes, before anything is written, and StageError where a stage cannot finish.
    """
    models = resolve_models(config)
    records = instructions.collect(config.instructions, config.run.seed)
    this = Run(config, models, say)
    logs = this.folder / "logs"
    with run_lock(this.folder), stderr_to(logs / "driver.log"):
        say(f"messages of the libraries: {logs / 'driver.log'}")
        write_text(this.folder / "config.yaml", config.to_yaml())
        problems = stages.make_instructions(this, records)
        responses = stages.make_responses(this, problems)
        with beside(lambda: stages.make_given_evaluations(this, problems), config.run.parallel_engines):
            rewrites = stages.make_rewrites(this, responses)
            examples = stages.make_examples(this, responses, rewrites)
            packed = stages.make_packed(this, examples)
            checkpoint = stages.make_checkpoint(this, packed)
        stages.make_student_evaluations(this, problems, checkpoint)
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
        if model.model_source != TRAINED:
            named[f"evaluation.models.{index}.model_source"] = model.model_source
    return {key: resolve_model(source, key) for key, source in named.items()}
