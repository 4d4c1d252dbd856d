"""The student with and without a gate or the rewriting: accuracy and tokens compared with the full run's.

    {"seeds": 3, "checkpoint": FINGERPRINT, "variants": [{"without": "", ...}, ...]}   report/ablation.json

Reads the answers in the runs of an ablation; `commands/ablate.py` makes these runs.
"""

import json
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from ray_distil.config.evaluation_config import folder_of
from ray_distil.evaluation import scores
from ray_distil.report import excerpts
from ray_distil.report.benchmark_tables import DASH, formatted, interval
from ray_distil.store.manifest import read_manifest
from ray_distil.store.storage import Folder

FILE = "ablation.json"
HEADER = (
    "Without", "Learnt", "Steps", "Accuracy", "95% interval", "By seed", "Beside all", "Tokens", "Tokens beside all",
)  # fmt: skip
COLUMNS = ["instruction_id", "correct", "complete", "answer", "num_generated_tokens"]


def read(variants: Mapping[str, list[Folder]], student: str, benchmarks: list[str]) -> dict[str, Any]:
    """The figures of the runs: an entry for each benchmark and variant. variants: what is left out -> a run per seed.

    The first variant is the full run; the others are compared with it, problem by problem. A problem's share of right
    answers is the mean over the seeds.
    """
    first = next(iter(variants))
    entries = []

    for benchmark in benchmarks:
        reference = pa.concat_tables(_answers(variants[first], student, benchmark))
        for name, runs in variants.items():
            tables = _answers(runs, student, benchmark)
            answers = pa.concat_tables(tables)
            figures = scores.summary(answers)

            entries.append({
                "benchmark": benchmark,
                "without": name,
                "runs": [run.name for run in runs],
                "learnt": _learnt(runs[0]),
                "steps": _steps(runs[0]),
                "accuracy": figures["accuracy"],
                "accuracy_interval": figures["accuracy_interval"],
                "by_seed": [scores.summary(table)["accuracy"] for table in tables],
                "completion_rate": figures["completion_rate"],
                "mean_tokens": figures["mean_tokens"],
                "accuracy_beside_all": None if name == first else scores.difference(answers, reference),
                "tokens_beside_all": None if name == first else scores.gain(answers, reference),
            })  # fmt: skip

    return {"seeds": len(variants[first]), "checkpoint": _student_of(variants[first][0]), "variants": entries}


def _answers(runs: list[Folder], student: str, benchmark: str) -> list[pa.Table]:
    return [excerpts.answers(run / "eval" / student / folder_of(benchmark), COLUMNS) for run in runs]


def _learnt(run: Folder) -> int | None:
    """The number of examples that the student has learnt: those that pass the gates and fit into a sequence."""
    manifest = read_manifest(run / "packed")
    return manifest.rows_out if manifest is not None else None


def _steps(run: Folder) -> int | None:
    """The optimiser steps of the student's training."""
    manifest = read_manifest(run / "checkpoint")
    return manifest.summary.get("num_steps") if manifest is not None else None


def saved(run: Folder) -> dict[str, Any] | None:
    """The ablation of a run; None where there is none, or where it belongs to another student than the run's."""
    try:
        table = dict(json.loads((run / "report").read_text(FILE)))
    except FileNotFoundError:
        return None
    return table if table["checkpoint"] == _student_of(run) else None


def _student_of(run: Folder) -> str | None:
    manifest = read_manifest(run / "checkpoint")
    return manifest.fingerprint if manifest is not None else None


def table(ablation: dict[str, Any], benchmark: str) -> list[list[str]]:
    """The table of a benchmark, without its HEADER: one row for each variant."""
    rows = []
    for variant in ablation["variants"]:
        if variant["benchmark"] != benchmark:
            continue
        accuracy, gained = variant["accuracy_beside_all"], variant["tokens_beside_all"]
        rows.append([
            variant["without"] or "nothing",
            formatted(variant["learnt"], "{:,}"),
            formatted(variant.get("steps"), "{:,}"),
            formatted(variant["accuracy"], "{:.1%}"),
            interval(variant["accuracy_interval"]),
            ", ".join(formatted(share, "{:.1%}") for share in variant["by_seed"]),
            _points(accuracy) if accuracy else DASH,
            formatted(variant["mean_tokens"], "{:,.1f}"),
            _times(gained) if gained else DASH,
        ])  # fmt: skip
    return rows


def _points(difference: dict[str, Any]) -> str:
    low, high = (100 * bound for bound in difference["interval"])
    remark = ", no difference seen" if low <= 0 <= high else ""
    return f"{100 * difference['difference']:+.1f} points ({low:+.1f} to {high:+.1f}){remark}"


def _times(gained: dict[str, Any]) -> str:
    """Tokens as a multiple of the full run's tokens: the inverse of a speed gain."""
    low, high = gained["interval"]
    return f"x {1 / gained['gain']:.2f} ({1 / high:.2f} to {1 / low:.2f})"
