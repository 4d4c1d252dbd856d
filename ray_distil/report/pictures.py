"""The pictures in the report of a run, each with its caption, drawn from the run's rows."""

import json
from collections.abc import Iterator
from typing import Any

from ray_distil.config.evaluation_config import folder_of
from ray_distil.drawing import figures
from ray_distil.drawing.figures import Model
from ray_distil.evaluation.scores import pareto_front
from ray_distil.report import excerpts
from ray_distil.store.storage import Folder


def pictures(
    run_folder: Folder, models: list[Model], stages: list[dict[str, Any]], baseline: str, student: str | None
) -> list[dict[str, str]]:
    """Title, SVG ("" without data) and caption of each picture. `models`, `stages`: entries of report.json.

    `student`: the model that is drawn beside the baseline.
    """
    num_rewrites, (original, rewritten) = excerpts.numbers(
        run_folder / "rewrites", ["original_tokens", "rewritten_tokens"]
    )

    # A run that trains nothing has no losses.
    try:
        lines = (run_folder / "checkpoint").read_text("metrics.jsonl").splitlines()
    except FileNotFoundError:
        lines = []
    logged = [json.loads(line) for line in lines]
    losses = [(line["step"], line["loss"]) for line in logged]
    held_out = [(line["step"], line["eval_loss"]) for line in logged if "eval_loss" in line]

    rejects = [(f"{s['name']}: {reason}", n) for s in stages for reason, n in s["rejects"].items()]
    return [
        {
            "title": "Reasoning before and after the rewrite",
            "svg": figures.token_histogram("tokens", [("slow", original), ("rewritten", rewritten)])
            if len(original)
            else "",
            "caption": f"{len(original):,} rewrites." if len(original) else _why_uncounted(num_rewrites),
        },
        *_histograms(run_folder, models, [name for name in (baseline, student) if name is not None]),
        *scatters(models, baseline, student),
        {
            "title": "Training loss",
            "svg": figures.loss_curve(losses, held_out) if losses else "",
            "caption": f"{losses[-1][0]:,} steps, the last at {losses[-1][1]:.3g}" + _held_out(held_out)
            if losses
            else "This run holds no training metrics.",
        },
        {
            "title": "Rejected rows by stage and reason",
            "svg": figures.reject_bars(rejects) if rejects else "",
            "caption": f"{sum(n for _, n in rejects):,} rows in all." if rejects else "No row was rejected.",
        },
    ]


def _held_out(losses: list[tuple[int, float]]) -> str:
    return f"; on held-out sequences {losses[-1][1]:.3g} at step {losses[-1][0]:,}." if losses else "."


def _by_benchmark(models: list[Model]) -> dict[str, list[Model]]:
    """Benchmark -> its models. Without a model: {"": []}, for one picture without data."""
    names = dict.fromkeys(model["benchmark"] for model in models)
    return {name: [m for m in models if m["benchmark"] == name] for name in names} or {"": []}


def _histograms(run_folder: Folder, models: list[Model], names: list[str]) -> Iterator[dict[str, str]]:
    """For each benchmark, a histogram of the tokens of two models' answers."""
    several = len(_by_benchmark(models)) > 1
    for number, name in enumerate(_by_benchmark(models)):
        places = [run_folder / "eval" / model / folder_of(name) for model in names]
        counts = [excerpts.numbers(place, ["num_generated_tokens"])[1][0] for place in places] if name else []
        answers = [(model, tokens) for model, tokens in zip(names, counts, strict=False) if len(tokens)]
        yield {
            "title": f"Tokens of answers on {name}" if several else "Answers before and after the distillation",
            "svg": figures.token_histogram(f"answers{number or ''}", answers) if len(answers) == 2 else "",
            "caption": f"{len(answers[0][1]):,} answers of each, reasoning included."
            if len(answers) == 2
            else _why_not_drawn(models, name, names),
        }


def _why_not_drawn(models: list[Model], benchmark: str, names: list[str]) -> str:
    """Why there is no picture of two models' tokens: one of them was not measured, or its tokens were not counted."""
    measured = {model["name"] for model in models if model["benchmark"] == benchmark}
    if len(names) == 2 and measured.issuperset(names):
        return "The tokens of these answers were not counted."
    return "This run compares no student with its baseline."


def scatters(models: list[Model], baseline: str, student: str | None) -> Iterator[dict[str, str]]:
    """For each benchmark, accuracy against tokens, with the Pareto front."""
    several = len(_by_benchmark(models)) > 1
    for number, (name, of_benchmark) in enumerate(_by_benchmark(models).items()):
        points = [m for m in of_benchmark if None not in (m["mean_tokens"], m["accuracy"])]
        front, place = pareto_front(points), f"accuracy{number or ''}"
        yield {
            "title": f"Accuracy against tokens{f' on {name}' if several else ''}",
            "svg": figures.accuracy_scatter(points, front, baseline, student, place) if points else "",
            "caption": "Better is up and to the left. Bars: 95% intervals; line: the models that no other one beats."
            if points
            else "This run holds no model with measured accuracy and counted tokens.",
        }


def _why_uncounted(num_rewrites: int) -> str:
    if not num_rewrites:
        return "This run holds no rewrites."
    return (
        f"{num_rewrites:,} rewrites, whose tokens before or after are not known: those of imported responses are not, nor those "
        "of an endpoint that does not count them."
    )
