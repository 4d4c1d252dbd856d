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

from ray_distil import UserError, excerpts, pictures, scores
from ray_distil.config import TRAINED
from ray_distil.evaluation_config import HELD_OUT, folder_of
from ray_distil.manifest import Manifest, read_manifest
from ray_distil.runs import NOTES
from ray_distil.storage import Folder

ARTIFACTS = ("instructions", "responses", "rewrites", "sft_examples", "packed", "checkpoint")
PACKAGES = ("ray", "vllm", "torch", "transformers", "deepspeed", "math-verify", "pyarrow")
MODEL_HEADER = ("Model", "Accuracy", "95% interval", "Tokens", "Completed", "Speed gain", "Problems")
SAMPLE_HEADER = (
    "Model", "Median", "90%", "Thinking", "Right", "Wrong", "Cut", "A right answer", "Without answer", "Samples",
    "Majority", "One of all",
)  # fmt: skip
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

    @property
    def benchmarks(self) -> list[str]:
        """The names of the benchmarks, in their order."""
        return list(dict.fromkeys(model["benchmark"] for model in self.models))

    def of(self, benchmark: str | None) -> list[dict[str, Any]]:
        """The models on a benchmark; None: on the first."""
        chosen = benchmark or next(iter(self.benchmarks), None)
        return [model for model in self.models if model["benchmark"] == chosen]

    def model_rows(self, benchmark: str | None = None) -> list[list[str]]:
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
            for model in self.of(benchmark)
        ]

    def sample_rows(self, benchmark: str | None = None) -> list[list[str]]:
        """Of each model: its tokens in more detail, and what several samples of a problem tell."""
        tokens = ("median_tokens", "p90_tokens", "mean_thinking_tokens", "tokens_of_right", "tokens_of_wrong")
        rows = []
        for model in self.of(benchmark):
            spent = [_shown(model.get(key), "{:,.0f}") for key in (*tokens, "tokens_of_cut", "tokens_per_correct")]
            most = str(model.get("num_samples") or 0)
            rows.append([
                model["name"],
                *spent,
                _shown(model.get("no_answer_rate"), "{:.1%}"),
                most,
                _shown(model.get("majority"), "{:.1%}"),
                _shown(model.get("pass_at", {}).get(most), "{:.1%}"),
            ])  # fmt: skip
        return rows

    def comparisons(self) -> list[str]:
        """Each other model beside the baseline, in a sentence."""
        return [_compared_sentence(m["name"], self.baseline, m["against"]) for m in self.models if m.get("against")]

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
    own = [f"benchmarks/{name}" for name in compared["benchmarks"]]
    artifacts = ["instructions", *own, *ARTIFACTS[1:], *_evaluations(compared)]
    found = [m for m in (read_manifest(run_folder / artifact) for artifact in artifacts) if m is not None]
    summaries = [m.summary for m in found if m.artifact.startswith("eval/")]
    models = []
    for benchmark in compared["benchmarks"]:
        of_it = [one for one in summaries if one["benchmark"] == benchmark]
        of_it = _beside_baseline(run_folder, of_it, compared["baseline"], folder_of(benchmark))
        models += scores.compare(of_it, compared["baseline"])
    return Report(
        run=run_folder.name,
        models=models,
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


def models_tables(report: Report) -> list[Table]:
    """The compared models as tables for the console, one a benchmark, in the form of the recipe's own."""
    return [
        _console_table(f"Models on {name}", MODEL_HEADER, report.model_rows(name), left=(0,))
        for name in report.benchmarks
    ]


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
    given = evaluation.get("benchmarks", [{"name": HELD_OUT}])
    return {
        "names": [model["name"] for model in evaluation.get("models", [])],
        "baseline": evaluation.get("baseline", "slow"),
        "student": next((m["name"] for m in evaluation.get("models", []) if m.get("model_source") == TRAINED), None),
        "benchmarks": [evaluation.get("benchmark", HELD_OUT) if b["name"] == HELD_OUT else b["name"] for b in given],
    }


def _evaluations(compared: dict[str, Any]) -> list[str]:
    """The artifacts of all models on all benchmarks."""
    return [f"eval/{name}/{folder_of(b)}" for b in compared["benchmarks"] for name in compared["names"]]


def _beside_baseline(
    run_folder: Folder, models: list[dict[str, Any]], baseline: str, benchmark: str
) -> list[dict[str, Any]]:
    """The models with `against`: accuracy and tokens beside the baseline's, problem by problem; None of itself."""
    if baseline not in [model["name"] for model in models]:
        return models
    columns = ["instruction_id", "correct", "complete", "answer", "num_generated_tokens"]
    base = excerpts.answers(run_folder / "eval" / baseline / benchmark, columns)
    made = []
    for model in models:
        own = (
            None
            if model["name"] == baseline
            else excerpts.answers(run_folder / "eval" / model["name"] / benchmark, columns)
        )
        pair = {"accuracy": scores.difference(own, base), "tokens": scores.gain(own, base)} if own is not None else None
        made.append(model | {"against": pair})
    return made


def _compared_sentence(name: str, baseline: str, against: dict[str, Any]) -> str:
    """As "fast beside slow on 300 problems: accuracy +0.7 points (-1.2 to +2.6), no difference seen; ..."."""
    said = []
    if apart := against["accuracy"]:
        low, high = (100 * bound for bound in apart["interval"])
        seen = ", no difference seen" if low <= 0 <= high else ""
        points = f"accuracy {100 * apart['difference']:+.1f} points ({low:+.1f} to {high:+.1f}){seen}"
        said.append(f"{points}, on {apart['problems']:,} problems")
    if gained := against["tokens"]:
        low, high = gained["interval"]
        said.append(f"speed gain {gained['gain']:.2f} ({low:.2f} to {high:.2f})")
    return (
        f"{name} beside {baseline}: {'; '.join(said)}" if said else f"{name} and {baseline} have no problem in common"
    )


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
    compared = _compared(run_folder)
    first = folder_of(report.models[0]["benchmark"]) if report.models else ""
    return {
        "run": report.run,
        "headline": headline(report),
        "baseline": report.baseline,
        "student": report.student,
        "model_header": MODEL_HEADER,
        "models": report.model_rows(),
        "comparisons": report.comparisons(),
        "sample_header": SAMPLE_HEADER,
        "samples": report.sample_rows(),
        "benchmark": report.models[0]["benchmark"] if report.models else "",
        "stage_header": STAGE_HEADER,
        "stages": report.stage_rows(),
        "notes": json.loads(_text(run_folder, NOTES) or "[]"),
        "pictures": pictures.pictures(run_folder, report.models, report.stages, report.baseline, report.student),
        "examples": excerpts.side_by_side(run_folder, [report.baseline, str(report.student)], first),
        "rewritten": excerpts.rewritten(run_folder),
        "rejected": excerpts.rejected(run_folder, [*ARTIFACTS, *_evaluations(compared)]),
        "versions": _versions(),
        "config": _text(run_folder, "config.yaml"),
    }


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
        parts += ["\n".join(f"- {escape(said, quote=False)}" for said in page["comparisons"])]
        parts += ["## Tokens and samples", table(SAMPLE_HEADER, page["samples"])]
    if page["notes"]:
        parts += ["## Notes", "\n".join(f"- {escape(note, quote=False)}" for note in page["notes"])]
    parts += ["## Stages", table(STAGE_HEADER, page["stages"]), "## How to reproduce"]
    parts += [", ".join(f"{name} {version}" for name, version in page["versions"]), f"```yaml\n{page['config']}```"]
    return "\n\n".join(parts) + "\n"
