"""The ordered stages of a run; those already complete are skipped."""

import fcntl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa

from ray_distil import UserError, instructions, schemas
from ray_distil.config import DistillConfig
from ray_distil.shards import Artifact, Manifest, fingerprint, write_text

# Writes the artifact's shards; returns how many rows went in, and the manifest's summary.
Make = Callable[[Artifact], tuple[int, dict[str, Any]]]


class Run:
    """A run's folder while its stages are made."""

    def __init__(self, config: DistillConfig, say: Callable[[str], None] = print) -> None:
        self.config, self.say, self.folder = config, say, config.run_folder

    def stage(
        self,
        module: Any,
        artifact: str,
        schema: pa.Schema,
        unit: str,
        settings: dict[str, Any],
        inputs: list[str],
        make: Make,
    ) -> Artifact:
        """One stage: skipped if its artifact is complete, else made (or gone on with) and its manifest written."""
        made_of = fingerprint(module.STAGE, module.VERSION, settings, inputs)
        target = Artifact(self.folder / artifact, schema, made_of)
        manifest = target.manifest()
        if manifest is not None:
            self.say(f"{module.STAGE:<12} complete: {_counts(manifest)}")
            return target
        started = time.monotonic()
        target.start()
        rows_in, summary = make(target)
        manifest = target.finish(module.STAGE, unit, rows_in, time.monotonic() - started, summary)
        self.say(f"{module.STAGE:<12} {manifest.seconds:6.1f} s: {_counts(manifest)}")
        return target


def run(config: DistillConfig, say: Callable[[str], None] = print) -> Path:
    """Make what the run does not have yet; returns its folder.

    Raises UserError for mistakes, before anything is written, and StageError where a stage cannot finish.
    """
    records = instructions.collect(config.instructions, config.run.seed)
    this = Run(config, say)
    with run_lock(this.folder):
        write_text(this.folder / "config.yaml", config.to_yaml())
        _instructions(this, records)
    return this.folder


def _instructions(this: Run, records: pa.Table) -> Artifact:
    config = this.config.instructions
    settings = config.model_dump(mode="json", exclude={"suffix"}) | {"seed": this.config.run.seed}

    def make(artifact: Artifact) -> tuple[int, dict[str, Any]]:
        artifact.write_table(records, instructions.STAGE)
        return records.num_rows, {}

    inputs = instructions.source_fingerprint(config)
    return this.stage(instructions, "instructions", schemas.INSTRUCTIONS, "instructions", settings, inputs, make)


@contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """One process at a time in a run's folder. Raises UserError where another one is in it."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"another process is making {folder}; wait for it, or give this run another run.name"
            ) from None
        yield


def _counts(manifest: Manifest) -> str:
    return f"{manifest.rows_in:,} in, {manifest.rows_out:,} out, {manifest.rows_rejected:,} rejected ({manifest.unit})"
