"""The report's pictures of a run, each with its caption, from the rows that the run holds."""

import json
from typing import Any

from ray_distil import excerpts, figures
from ray_distil.evaluation_config import folder_of
from ray_distil.figures import Model
from ray_distil.scores import pareto_front
from ray_distil.storage import Folder


def pictures(
    run_folder: Folder, models: list[Model], stages: list[dict[str, Any]], baseline: str, student: str | None
) -> list[dict[str, str]]:
    """Title, SVG ("" without data) and caption of each picture; models and stages as report.json has them."""
    num_rewrites, (before, after) = excerpts.numbers(run_folder / "rewrites", ["original_tokens", "rewritten_tokens"])
    points = [m for m in models if None not in (m["mean_tokens"], m["accuracy"])]
    asked = [name for name in (baseline, student) if name is not None]
    first = folder_of(models[0]["benchmark"]) if models else ""
    answers = [
        (name, excerpts.numbers(run_folder / "eval" / name / first, ["num_generated_tokens"])[1][0]) for name in asked
    ]
    answers = [(name, tokens) for name, tokens in answers if len(tokens)]
    try:
        lines = (run_folder / "checkpoint").read_text("metrics.jsonl").splitlines()
    except FileNotFoundError:
        lines = []
    losses = [json.loads(line) for line in lines]
    rejects = [(f"{s['name']}: {reason}", n) for s in stages for reason, n in s["rejects"].items()]
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
            "svg": figures.accuracy_scatter(points, pareto_front(points), baseline, student) if points else "",
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


def _why_uncounted(num_rewrites: int) -> str:
    if not num_rewrites:
        return "This run holds no rewrites."
    return f"The slow responses were imported: their tokens are not known, before {num_rewrites:,} rewrites."
