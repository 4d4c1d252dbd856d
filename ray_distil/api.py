"""The functions for programs: `from ray_distil import load_config, make_plan, run_pipeline, read_report`.

docs/api.md has an example. Mistakes of configuration or input raise UserError, a stage that cannot finish StageError.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ray_distil.config import DistillConfig, StagesConfig
from ray_distil.config import keys as config
from ray_distil.errors import DistilError, StageError, UserError
from ray_distil.report import report
from ray_distil.report.report import Report
from ray_distil.run import pipeline, plan, preflight
from ray_distil.run.plan import Plan
from ray_distil.runtime.progress import Display
from ray_distil.store.storage import Folder

__all__ = [
    "DistilError", "DistillConfig", "Plan", "Report", "StageError", "UserError", "load_config", "make_plan",
    "read_report", "run_pipeline",
]  # fmt: skip


def load_config(path: str | Path | None = None, overrides: Sequence[str] = ()) -> DistillConfig:
    """The configuration from a YAML file; without a path, the tiny recipe. `overrides`: e.g. ["run.name=first"].

    Raises UserError with one line for each mistake.
    """
    return config.load(None if path is None else str(path), overrides)


def make_plan(config: StagesConfig) -> Plan:
    """Rows, tokens, seconds, dollars and bytes that a run will take, and remarks. Starts nothing, writes nothing.

    Raises UserError for settings that cannot be right, e.g. a model without a chat template, or `max_tokens` that
    exceed the context.
    """
    planned = plan.make(config)
    return replace(planned, remarks=[*planned.remarks, *preflight.check_plan(config, planned.problems)])


def run_pipeline(config: DistillConfig, display: Display | None = None) -> Report:
    """Make what the run does not have yet, and its report; a second call with the same configuration takes seconds.

    Joins the cluster that RAY_ADDRESS names, or on which the submitted job runs; without one, starts its own Ray.
    `display`: where progress is shown; None: on stdout. Raises UserError before anything is spent, and StageError
    where a stage cannot finish.
    """
    return pipeline.run(config, display)


def read_report(run: str | Path) -> Report:
    """The report of a run, finished or not, in a folder or under a URI: "runs/tiny", "s3://BUCKET/runs/first".

    Raises UserError where there is no run.
    """
    return report.read(Folder.at(str(run)))
