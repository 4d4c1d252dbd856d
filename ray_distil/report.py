"""What a run holds, from its manifests: the table of stages."""

from pathlib import Path
from typing import Any

from rich.table import Table

from ray_distil import UserError
from ray_distil.shards import Manifest, read_manifest

ARTIFACTS = ("instructions", "responses", "rewrites", "sft_examples", "packed", "checkpoint", "eval")


def read_manifests(run_folder: Path) -> list[Manifest]:
    """The manifests of the finished artifacts, in the order of the stages. Raises UserError without a run folder."""
    if not run_folder.is_dir():
        raise UserError(f"there is no run folder {str(run_folder)!r}; a run lives in STORAGE_PATH/NAME, e.g. runs/tiny")
    found = [read_manifest(run_folder / artifact) for artifact in ARTIFACTS]
    return [manifest for manifest in found if manifest is not None]


def stage_entry(manifest: Manifest) -> dict[str, Any]:
    """A stage as report.json has it."""
    return {
        "name": manifest.stage,
        "rows_in": manifest.rows_in,
        "rows_out": manifest.rows_out,
        "rows_rejected": manifest.rows_rejected,
        "rejects": manifest.rejects,
        "seconds": manifest.seconds,
    }


def stages_table(manifests: list[Manifest]) -> Table:
    """The finished stages as a table for the console."""
    table = Table(title="Stages", title_justify="left", box=None, pad_edge=False)
    for heading in ("stage", "in", "out", "rejected", "seconds"):
        table.add_column(heading, justify="left" if heading == "stage" else "right")
    table.add_column("unit")
    table.add_column("why rejected")
    for m in manifests:
        why = ", ".join(f"{reason} {count:,}" for reason, count in m.rejects.items())
        counts = (f"{m.rows_in:,}", f"{m.rows_out:,}", f"{m.rows_rejected:,}", f"{m.seconds:.1f}")
        table.add_row(m.stage, *counts, m.unit, why or "-")
    return table
