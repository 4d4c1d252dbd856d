"""The functions for programs: `from ray_distil import load_config, make_plan, run_pipeline, read_report`.

docs/api.md has an example. Mistakes of configuration or input raise UserError, a stage that cannot finish StageError.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ray_distil.commands import pipeline, plan
from ray_distil.commands.plan import Plan
from ray_distil.config import DistillConfig, StagesConfig
from ray_distil.config import keys as config
from ray_distil.errors import DistilError, StageError, UserError
from ray_distil.report import report
from ray_distil.report.contents import Report
from ray_distil.runtime.progress import Display
from ray_distil.store.artifact_reader import frame
from ray_distil.store.storage import Folder

if TYPE_CHECKING:
    import pandas

__all__ = [
    "DistilError", "DistillConfig", "Plan", "Report", "StageError", "UserError", "load_config", "make_plan",
    "read_report", "read_rows", "run_pipeline",
]  # fmt: skip


def load_config(path: str | Path | None = None, overrides: Sequence[str] | str = ()) -> DistillConfig:
    """The configuration from a YAML file; without a path, the tiny recipe. `overrides`: e.g. ["run.name=first"].

    One override may be a text by itself. Raises UserError with one line for each mistake.
    """
    return config.load(None if path is None else str(path), [overrides] if isinstance(overrides, str) else overrides)


def make_plan(config: StagesConfig) -> Plan:
    """Rows, tokens, seconds, dollars and bytes that a run will take, and remarks. Starts nothing, writes nothing.

    Raises UserError for settings that cannot be right, e.g. a model without a chat template, or `max_tokens` that
    exceed the context.
    """
    _check_is_config(config, "make_plan")
    return plan.checked(config)


def run_pipeline(config: DistillConfig, display: Display | None = None) -> Report:
    """Make what the run does not have yet, and its report; a second call with the same configuration takes seconds.

    Joins the cluster that RAY_ADDRESS names, or on which the submitted job runs; without one, starts its own Ray.
    `display`: where progress is shown; None: on stdout. Raises UserError before anything is spent, and StageError
    where a stage cannot finish. What libraries print goes to this process's stdout and stderr, as ever.
    """
    _check_is_config(config, "run_pipeline")
    return pipeline.run(config, display, quiet=False)


def _check_is_config(config: object, function: str) -> None:
    """Raises UserError where a function gets something else, such as the name of a recipe."""
    if not isinstance(config, StagesConfig):
        loaded = repr(str(config)) if isinstance(config, str | Path) else ""
        raise UserError(f"{function} needs a configuration, not {config!r}: {function}(load_config({loaded}))")


def read_report(run: str | Path) -> Report:
    """The report of a run, finished or not, in a folder or under a URI: "runs/tiny", "s3://BUCKET/runs/first".

    Its `costs` are those of `report.json`. Raises UserError where there is no run.
    """
    folder = Folder.at(str(run))
    return report.with_costs(folder, report.read(folder))


def read_rows(
    run: str | Path, artifact: str, columns: Sequence[str] | None = None, rejects: bool = False
) -> "pandas.DataFrame":
    """The rows of a finished artifact ("responses", "sft_examples", "eval/fast/tiny", ...), as its manifest lists them.

    All are in memory at once; `columns`: only these. `rejects`: the rejected rows instead, with the columns `id`,
    `stage`, `reason`, `detail` and `row`, the row's JSON. Raises UserError for an artifact that is not finished.
    """
    return frame(Folder.at(str(run)), artifact, columns, rejects)
