"""The ordered stages of a run; those already complete are skipped."""

import importlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from ray_distil.checks import checks_apart
from ray_distil.checks.losses import refuse_losses
from ray_distil.commands import export, last_command
from ray_distil.config import DistillConfig, StagesConfig
from ray_distil.config.models import share_tiny_models
from ray_distil.records.problem_facts import Figures
from ray_distil.report import report
from ray_distil.report.contents import Report
from ray_distil.runner import frozen
from ray_distil.runner.lease import run_lock
from ray_distil.runner.runs import Run, beside
from ray_distil.runner.shipped_logs import shipped
from ray_distil.runtime import gpu_hours
from ray_distil.runtime.progress import Display
from ray_distil.runtime.session import SUBMITTED, in_background, messages_to
from ray_distil.stages import (
    expected,
    make_benchmarks,
    make_checkpoint,
    make_examples,
    make_given_evaluations,
    make_instructions,
    make_packed,
    make_responses,
    make_rewrites,
    make_student_evaluations,
    make_timings,
    read_problems,
    refuse_lost_answers,
)


def run(config: DistillConfig, display: Display | None = None, quiet: bool = True) -> Report:
    """Make what the run does not have yet, and its report; where nothing is trained, its examples as records too
    (`export.write_examples`). `quiet`: see `opened`.

    Raises UserError for mistakes, before anything is written, and StageError where a stage cannot finish.
    """
    with last_command.refusal(config.run_folder):
        records = read_problems(config)
    display = display or Display()

    # The stages.
    with opened(config, display, records, quiet) as this:
        refuse_losses(this, records)
        problems = make_instructions(this, records)
        benchmarks = make_benchmarks(this, problems)
        refuse_lost_answers(this, benchmarks)
        responses = make_responses(this, problems)
        with beside(lambda: make_given_evaluations(this, benchmarks), config.run.parallel_engines, display.say):
            rewrites = make_rewrites(this, responses)
            examples = make_examples(this, responses, rewrites)
            checkpoint = make_checkpoint(this, make_packed(this, examples)) if config.training is not None else None
        if checkpoint is not None:
            make_student_evaluations(this, benchmarks, checkpoint)
            make_timings(this, benchmarks, checkpoint)
        if checkpoint is None:
            export.write_examples(this.folder)
        this.save_settings()  # also those that have begun no stage, such as the prices of the plan
        return report.build(this.folder)


@contextmanager
def opened(config: StagesConfig, display: Display, records: Figures | None = None, quiet: bool = True) -> Iterator[Run]:
    """A run that only this process makes. The checks come before the first stage; then the configuration is saved.

    `quiet`: what libraries print on this process's stdout and stderr goes to the log. A command has this process for
    itself; a program that calls the package may print while the run works, and keeps its stdout.
    """
    with last_command.refusal(config.run_folder):
        models, commits = frozen.resolved(config)
    at_hand = models
    log = log_folder(config) / "driver.log"
    with (
        run_lock(config.run_folder, config.run.take_over, display.say),
        last_command.recorded(config.run_folder),
        messages_to(log) if quiet else nullcontext(),
        shipped(log, config.run_folder),
        display.live(),
        gpu_hours.counted(config.run.name, config.plan.usd_per_gpu_hour),
    ):
        if SUBMITTED in os.environ:
            models = share_tiny_models(models, config.run_folder)
        run = Run(config, models, display)
        run.before_making = lambda: check(config, at_hand, records, commits)
        if quiet:
            display.say(f"messages of the libraries: {log}")

        def save_settings() -> None:
            frozen.save(run.folder, commits)
            expected.save(run)

        run.save_settings = save_settings
        yield run


def check(config: StagesConfig, models: dict[str, str], records: Figures | None, commits: dict[str, str]) -> list[str]:
    """The remarks of the checks, and on models of which the hub has another commit than the run.

    While another process does the checks, this one imports what its stages need of Transformers.
    """
    moved = in_background(lambda: frozen.moved(commits))
    loading = in_background(lambda: importlib.import_module("ray_distil.chat.auto_classes") if models else None)
    remarks = checks_apart.check(config, models, records)
    loading.result()
    return remarks + moved.result()


def log_folder(config: StagesConfig) -> Path:
    """The folder of the logs: RUN/logs; for a run in an object store, a temporary folder of the driver's machine, from which
    they are copied into the run.
    """
    return (config.run_folder.local or Path(tempfile.gettempdir()) / "ray-distil" / config.run.name) / "logs"
