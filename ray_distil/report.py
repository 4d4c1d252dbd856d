"""The report of a run: one self-contained HTML page, the same facts in Markdown and JSON.

Reads manifests, Parquet shards, `config.yaml` and `checkpoint/metrics.jsonl`, and nothing else; what a run does not
hold is said on the page, so that a run can be reported at any point. Needs neither Ray nor torch.
"""

import json
import platform
from dataclasses import dataclass
from html import escape
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml
from rich.table import Table

from ray_distil import UserError, excerpts, figures
from ray_distil.config import TRAINED
from ray_distil.evaluation import compare, pareto_front
from ray_distil.manifest import Manifest, read_manifest
from ray_distil.runs import NOTES
from ray_distil.storage import Folder

ARTIFACTS = ("instructions", "responses", "rewrites", "sft_examples", "packed", "checkpoint")
PACKAGES = ("ray", "vllm", "torch", "transformers", "deepspeed", "math-verify", "pyarrow")
MODEL_HEADER = ("Model", "Accuracy", "95% interval", "Tokens", "Completed", "Speed gain", "Problems")
STAGE_HEADER = ("Stage", "In", "Out", "Rejected", "Seconds", "Counted in", "Why rejected")
DASH = "–"


@dataclass(frozen=True)
class Report:
    """`models` and `stages` as report.json has them; `units` says what each stage counts."""

    run: str
    models: list[dict[str, Any]]
    stages: list[dict[str, Any]]
    units: list[str]
    baseline: str
    student: str | None  # the model that the run trained

    def model_rows(self) -> list[list[str]]:
        return [
            [
                model["name"],
                _shown(model["accuracy"], "{:.1%}"),
                _interval(model.get("accuracy_interval")),
                _shown(model["mean_tokens"], "{:,.1f}"),
                _shown(model["completion_rate"], "{:.1%}"),
                _shown(model["speed_gain"], "{:.1f}x"),
                f"{model['num_problems']:,}" + _of_them(model.get("num_rejected", 0)),
            ]
            for model in self.models
        ]

    def stage_rows(self) -> list[list[str]]:
        rows = []
        for stage, unit in zip(self.stages, self.units, strict=True):
            why = ", ".join(f"{reason} {count:,}" for reason, count in stage["rejects"].items())
            counts = [f"{stage[key]:,}" for key in ("rows_in", "rows_out", "rows_rejected")]
            rows.append([stage["name"], *counts, f"{stage['seconds']:,.1f}", unit, why or DASH])
        return rows

    def to_json(self) -> str:
        facts = {"run": self.run, "models": self.models, "stages": self.stages}
        return json.dumps(facts, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def read(run_folder: Folder) -> Report:
    """What the manifests of a run say. Raises UserError without a run folder."""
    if not run_folder.exists():
        raise UserError(f"there is no run folder {str(run_folder)!r}; a run lives in STORAGE_PATH/NAME, e.g. runs/tiny")
    compared = _compared(run_folder)
    artifacts = [*ARTIFACTS, *(f"eval/{name}" for name in compared["names"])]
    found = [m for m in (read_manifest(run_folder / artifact) for artifact in artifacts) if m is not None]
    models = [m.summary for m in found if m.artifact.startswith("eval/")]
    return Report(
        run=run_folder.name,
        models=compare(models, compared["baseline"]),
        stages=[_stage_entry(m) for m in found],
        units=[m.unit for m in found],
        baseline=compared["baseline"],
        student=compared["student"] if any(m["name"] == compared["student"] for m in models) else None,
    )


def build(run_folder: Folder) -> Report:
    """Write report/report.html, report.md and report.json; returns what they hold."""
    report = read(run_folder)
    folder = run_folder / "report"
    page = _page(run_folder, report)
    folder.write_text("report.html", _html(page))
    folder.write_text("report.md", _markdown(page))
    folder.write_text("report.json", report.to_json())
    return report


def stages_table(report: Report) -> Table:
    """The finished stages as a table for the console."""
    rows = [[*row[:-1], row[-1].replace(", ", "\n")] for row in report.stage_rows()]
    return _console_table("Stages", STAGE_HEADER, rows, left=(0, 5, 6))


def models_table(report: Report) -> Table:
    """The compared models as a table for the console, in the form of the recipe's own."""
    benchmark = report.models[0]["benchmark"] if report.models else ""
    return _console_table(f"Models on {benchmark}", MODEL_HEADER, report.model_rows(), left=(0,))


def headline(report: Report) -> str:
    """The result in one sentence, whichever way it went."""
    named = {model["name"]: model for model in report.models}
    slow, fast = named.get(report.baseline), named.get(str(report.student))
    if not slow or not fast or not slow["mean_tokens"] or not fast["mean_tokens"]:
        return "This run compares no student with its baseline"
    share = fast["mean_tokens"] / slow["mean_tokens"]
    said = f"{fast['name']} answers with {share:.0%} of the tokens of {slow['name']}"
    if slow["accuracy"] is None or fast["accuracy"] is None:
        return said
    return f"{said}: accuracy {fast['accuracy']:.1%} against {slow['accuracy']:.1%}"


def _stage_entry(manifest: Manifest) -> dict[str, Any]:
    return {
        "name": manifest.stage,
        "rows_in": manifest.rows_in,
        "rows_out": manifest.rows_out,
        "rows_rejected": manifest.rows_rejected,
        "rejects": manifest.rejects,
        "seconds": manifest.seconds,
    }


def _compared(run_folder: Folder) -> dict[str, Any]:
    """Names of the models that the run compares, the baseline and the trained student, by its saved configuration."""
    saved = yaml.safe_load(_text(run_folder, "config.yaml")) or {}
    evaluation = saved.get("evaluation", {})
    return {
        "names": [model["name"] for model in evaluation.get("models", [])],
        "baseline": evaluation.get("baseline", "slow"),
        "student": next((m["name"] for m in evaluation.get("models", []) if m.get("model_source") == TRAINED), None),
    }


def _of_them(num_rejected: int) -> str:
    return f" ({num_rejected:,} answers rejected)" if num_rejected else ""


def _shown(value: float | None, form: str) -> str:
    return DASH if value is None else form.format(value)


def _interval(bounds: list[float] | None) -> str:
    return DASH if bounds is None else f"{100 * bounds[0]:.1f}–{100 * bounds[1]:.1f}%"


def _console_table(title: str, header: tuple[str, ...], rows: list[list[str]], left: tuple[int, ...]) -> Table:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for index, name in enumerate(header):
        table.add_column(name, justify="left" if index in left else "right", no_wrap=index not in left[1:])
    for row in rows:
        table.add_row(*row)
    return table


def _page(run_folder: Folder, report: Report) -> dict[str, Any]:
    """Everything that the page and the Markdown show."""
    return {
        "run": report.run,
        "headline": headline(report),
        "baseline": report.baseline,
        "student": report.student,
        "model_header": MODEL_HEADER,
        "models": report.model_rows(),
        "benchmark": report.models[0]["benchmark"] if report.models else "",
        "stage_header": STAGE_HEADER,
        "stages": report.stage_rows(),
        "notes": json.loads(_text(run_folder, NOTES) or "[]"),
        "pictures": _pictures(run_folder, report),
        "examples": excerpts.side_by_side(run_folder, [report.baseline, str(report.student)]),
        "rewritten": excerpts.rewritten(run_folder),
        "rejected": excerpts.rejected(run_folder, [*ARTIFACTS, *(f"eval/{m['name']}" for m in report.models)]),
        "versions": _versions(),
        "config": _text(run_folder, "config.yaml"),
    }


def _why_uncounted(num_rewrites: int) -> str:
    if not num_rewrites:
        return "This run holds no rewrites."
    return f"The slow responses were imported: their tokens are not known, before {num_rewrites:,} rewrites."


def _pictures(run_folder: Folder, report: Report) -> list[dict[str, str]]:
    """Title, SVG ("" without data) and caption of each picture."""
    num_rewrites, (before, after) = excerpts.numbers(run_folder / "rewrites", ["original_tokens", "rewritten_tokens"])
    points = [m for m in report.models if None not in (m["mean_tokens"], m["accuracy"])]
    student = report.student
    asked = [name for name in (report.baseline, student) if name is not None]
    answers = [(name, excerpts.numbers(run_folder / "eval" / name, ["num_generated_tokens"])[1][0]) for name in asked]
    answers = [(name, tokens) for name, tokens in answers if len(tokens)]
    losses = [json.loads(line) for line in _text(run_folder / "checkpoint", "metrics.jsonl").splitlines()]
    rejects = [(f"{s['name']}: {reason}", n) for s in report.stages for reason, n in s["rejects"].items()]
    return [
        {
            "title": "Reasoning before and after the rewrite",
            "svg": figures.token_histogram("tokens", [("slow", before), ("rewritten", after)]) if len(before) else "",
            "caption": f"{len(before):,} rewrites." if len(before) else _why_uncounted(num_rewrites),
        },
        {
            "title": "Answers before and after the distillation",
            "svg": figures.token_histogram("answers", answers) if len(answers) == 2 else "",
            "caption": f"{len(answers[0][1]):,} answers of each, reasoning included."
            if len(answers) == 2
            else "This run compares no student with its baseline.",
        },
        {
            "title": "Accuracy against tokens",
            "svg": figures.accuracy_scatter(points, pareto_front(points), report.baseline, student) if points else "",
            "caption": "Better is up and to the left. Bars: 95% intervals; line: the models that no other one beats."
            if points
            else "This run holds no measured accuracy.",
        },
        {
            "title": "Training loss",
            "svg": figures.loss_curve([m["step"] for m in losses], [m["loss"] for m in losses]) if losses else "",
            "caption": f"{len(losses):,} steps, the last at {losses[-1]['loss']:.3g}."
            if losses
            else "This run holds no training metrics.",
        },
        {
            "title": "Rejected rows by stage and reason",
            "svg": figures.reject_bars(rejects) if rejects else "",
            "caption": f"{sum(n for _, n in rejects):,} rows in all." if rejects else "No row was rejected.",
        },
    ]


def _text(folder: Folder, file: str) -> str:
    """What the file says; "" where it is not there."""
    try:
        return folder.read_text(file)
    except FileNotFoundError:
        return ""


def _versions() -> list[tuple[str, str]]:
    found = [("python", platform.python_version())]
    for package in PACKAGES:
        for distribution in (package, f"{package}-cpu"):
            try:
                found.append((distribution, metadata.version(distribution)))
                break
            except metadata.PackageNotFoundError:
                continue
    return found


def _html(page: dict[str, Any]) -> str:
    import jinja2

    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)
    return environment.get_template("report.html.jinja").render(page)


def _markdown(page: dict[str, Any]) -> str:
    def table(header: tuple[str, ...], rows: list[list[str]]) -> str:
        lines = [list(header), ["---"] * len(header)]
        lines += [[escape(cell, quote=False).replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows]
        return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)

    parts = [f"# {escape(page['headline'], quote=False)}", f"Run {page['run']}."]
    if page["models"]:
        parts += [f"## Models on {page['benchmark']}", table(MODEL_HEADER, page["models"])]
    if page["notes"]:
        parts += ["## Notes", "\n".join(f"- {escape(note, quote=False)}" for note in page["notes"])]
    parts += ["## Stages", table(STAGE_HEADER, page["stages"]), "## How to reproduce"]
    parts += [", ".join(f"{name} {version}" for name, version in page["versions"]), f"```yaml\n{page['config']}```"]
    return "\n\n".join(parts) + "\n"
