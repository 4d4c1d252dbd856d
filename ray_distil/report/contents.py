"""The contents of a report: models and stages, in the form of report.json, and their rows in tables."""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.table import Table

from ray_distil.report import cost
from ray_distil.report.benchmark_tables import DASH, MODEL_COLUMNS, SAMPLE_COLUMNS, SPEED_COLUMNS, STAGE_HEADER, rows_of
from ray_distil.report.cost import Cost, StageFiles
from ray_distil.runtime.session import counted


@dataclass(frozen=True)
class Report:
    """`models` and `stages`: entries of report.json. `units`: what each stage counts, e.g. "responses"."""

    run: str
    models: list[dict[str, Any]]
    stages: list[dict[str, Any]]
    units: list[str]
    baseline: str
    student: str | None  # the model that the run trained
    kept_out: list[dict[str, Any]] = field(default_factory=list)  # one entry for each gate, from `kept_out.by_gate`
    curation: dict[str, Any] = field(default_factory=dict)  # from `kept_out.curation`
    rewriting: str = ""  # tokens before and after it, in a sentence
    ablation: dict[str, Any] | None = None  # from `ablation.read`
    files: list[StageFiles] = field(default_factory=list)  # of each stage
    configs: dict[tuple[str, str], dict[str, Any]] = field(
        default_factory=dict
    )  # (model, benchmark) -> its configuration
    earlier: dict[str, str] = field(default_factory=dict)  # stage of earlier settings -> what has changed since
    versions: dict[str, str] = field(
        default_factory=dict
    )  # library -> its versions, e.g. "0.28.0, 0.29.0" of two stages
    costs: list[Cost] = field(default_factory=list)  # empty before `report.with_costs`
    num_steps: int | None = None  # of the student's training
    facts: dict[str, str] = field(default_factory=dict)  # who is who, when and where; from `provenance.facts`

    @property
    def benchmarks(self) -> list[str]:
        """The names of the benchmarks, in the order of the models."""
        return list(dict.fromkeys(model["benchmark"] for model in self.models))

    def of(self, benchmark: str | None) -> list[dict[str, Any]]:
        """The models on a benchmark; None: on the first."""
        name = benchmark or next(iter(self.benchmarks), None)
        return [model for model in self.models if model["benchmark"] == name]

    @property
    def compared_model(self) -> str | None:
        """The first model that is not the baseline."""
        return next((model["name"] for model in self.models if model["name"] != self.baseline), None)

    def of_run(self, run: str, benchmark: str) -> list[dict[str, Any]]:
        """The models of one run on a benchmark, in a report of several runs."""
        return [model for model in self.of(benchmark) if model.get("run") == run]

    def model_rows(self, benchmark: str | None = None) -> list[list[str]]:
        return rows_of(MODEL_COLUMNS, self.of(benchmark))

    def sample_rows(self, benchmark: str | None = None) -> list[list[str]]:
        """For each model: its tokens in more detail, and figures of several samples of a problem."""
        return rows_of(SAMPLE_COLUMNS, self.of(benchmark))

    def speed_rows(self, benchmark: str | None = None) -> list[list[str]]:
        """For each timed model: seconds of a problem alone, gains in seconds and tokens, tokens/s of many requests."""
        return rows_of(SPEED_COLUMNS, (m for m in self.of(benchmark) if m.get("seconds") or m.get("tokens_per_s")))

    def stages_table(self, without: Collection[str] = ()) -> Table:
        """The finished stages for the console; `without`: names of stages to leave out."""
        rows = [[*row[:-1], row[-1].replace(", ", "\n")] for row in self.stage_rows() if row[0] not in without]
        return console_table("Stages", STAGE_HEADER, rows, left=(0, 5, 6))

    def models_tables(self) -> list[Table]:
        """The compared models for the console, a table for each benchmark."""
        return [
            console_table(f"Models on {name}", list(MODEL_COLUMNS), self.model_rows(name), left=(0,))
            for name in self.benchmarks
        ]

    def __str__(self) -> str:
        """The stages, the models and the costs, as the command prints them."""
        costs = [console_table("Cost so far", cost.HEADER, cost.rows_of(self.costs), left=(0,))] if self.costs else []
        with (console := Console(width=140, color_system=None)).capture() as printed:
            console.print(self.stages_table(), *self.models_tables(), *costs, sep="\n", soft_wrap=True)
        return printed.get()

    def comparisons(self, benchmark: str | None = None) -> list[str]:
        """A sentence for each model that is compared with the baseline."""
        models = self.of(benchmark)
        lines = [f"{m['name']} is of earlier settings: {m['earlier']}" for m in models if m.get("earlier")]
        return lines + [compared_sentence(m["name"], self.baseline, m["against"]) for m in models if m.get("against")]

    def stage_rows(self) -> list[list[str]]:
        rows = []
        for stage, unit in zip(self.stages, self.units, strict=True):
            why = ", ".join(f"{reason} {count:,}" for reason, count in stage["rejects"].items())
            counts = [f"{stage[key]:,}" for key in ("rows_in", "rows_out", "rows_rejected")]
            name = stage["name"] + (" (of earlier settings)" if stage["name"] in self.earlier else "")
            rows.append([name, *counts, f"{stage['seconds']:,.1f}", unit, why or DASH])
        return rows

    def to_json(self) -> str:
        values = {"run": self.run, "facts": self.facts, "models": self.models, "stages": self.stages}
        values |= {"curation": self.curation, "kept_out": self.kept_out, "costs": cost.to_json(self.costs)}
        return json.dumps(values, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def difference_seen(accuracy: dict[str, Any] | None) -> str:
    """What follows on two accuracies: ", on 300 problems", or ", no difference seen on 6 problems"; "" without a pair."""
    if accuracy is None:
        return ""
    low, high = accuracy["interval"]
    remark = "no difference seen " if low <= 0 <= high else ""
    return f", {remark}on {counted(accuracy['problems'], 'problem')}"


def compared_sentence(name: str, baseline: str, against: dict[str, Any]) -> str:
    """E.g. "fast beside slow: accuracy +0.7 points (-1.2 to +2.6), no difference seen on 300 problems; ..."."""
    parts = []
    if accuracy := against["accuracy"]:
        low, high = (100 * bound for bound in accuracy["interval"])
        points = f"accuracy {100 * accuracy['difference']:+.1f} points ({low:+.1f} to {high:+.1f})"
        parts.append(points + difference_seen(accuracy))
    if gained := against["tokens"]:
        low, high = gained["interval"]
        parts.append(f"speed gain {gained['gain']:.2f} ({low:.2f} to {high:.2f})")
    return (
        f"{name} beside {baseline}: {'; '.join(parts)}" if parts else f"{name} and {baseline} have no problem in common"
    )


def console_table(title: str, header: Sequence[str], rows: list[list[str]], left: tuple[int, ...]) -> Table:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for index, name in enumerate(header):
        is_whole = index not in left[1:]  # a long word of another one goes on in the next line
        table.add_column(
            name,
            justify="left" if index in left else "right",
            no_wrap=is_whole,
            overflow="ellipsis" if is_whole else "fold",
        )
    for row in rows:
        table.add_row(*row)
    return table
