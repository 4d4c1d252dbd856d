"""Many problems through the stages, with an engine that needs no model: what the rows themselves cost.

    python -m tests.benchmarks.million_rows --rows 100000 1000000
    python -m tests.benchmarks.million_rows --rows 10000000 --stages instructions

Problems of 300 bytes, from a file of JSON lines; every fourth is also asked of the slow teacher, whose answers are
rewritten. For each stage: rows, seconds, peak memory of the driver and of the largest worker (without what they share).
All stages are one process's; a stage has what those before have left behind. `--resume`: the seconds of the teachers
when all rows are there but the manifest, and when a tenth of the shards is missing. `--preflight`: with the checks that
a run begins with.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import psutil

from ray_distil import stages
from ray_distil.checks import checks_apart
from ray_distil.config import load
from ray_distil.config.models import resolve_models
from ray_distil.problems import collecting
from ray_distil.runner.runs import Run
from ray_distil.store.artifact import Artifact
from ray_distil.store.manifest import MANIFEST
from tests import null_engine

STAGES = ("instructions", "responses", "rewrites", "sft_examples", "packed")
SECONDS = 0.25  # between two looks at the memory
NUM_BYTES = 300  # of a problem
PROBLEM = "Ann has {} pens. She buys {} more, and gives 2 to each of her 3 friends. How many are left? "
SYLLABLES = [a + b for a in "bdfgklmnprst" for b in ("a", "en", "i", "os", "ut ", "er ", "al ")]


def problem(k: int) -> dict[str, Any]:
    """A text of NUM_BYTES that zstd makes about a third of, as it does with English."""
    dice = random.Random(k)
    text = PROBLEM.format(k, k % 97) + "".join(dice.choices(SYLLABLES, k=100))
    return {"instruction": text[: NUM_BYTES - 1] + ".", "answer": k + k % 97 - 6}


def settings(folder: Path, batch_size: int) -> list[str]:
    return [
        f"teachers.direct.engine.batch_size={batch_size}",
        f"teachers.slow.engine.batch_size={batch_size}",
        f"run.storage_path={folder}",
        "run.name=rows",
        f"instructions.path={folder / 'problems.jsonl'}",
        "packing.max_length=1024",
    ]


class Memory:
    """Peaks since the last `take`, MiB that are a process's own: the driver's, and the largest worker's of its Ray."""

    def __init__(self) -> None:
        self.driver = self.worker = 0.0
        threading.Thread(target=self._look, daemon=True).start()

    def take(self) -> tuple[float, float]:
        self._driver()
        taken, self.driver, self.worker = (self.driver, self.worker), 0.0, 0.0
        return taken

    def _driver(self) -> None:
        self.driver = max(self.driver, own(psutil.Process()))

    def _look(self) -> None:
        number = 0
        while True:
            self._driver()
            number += 1
            if number % 8 == 0:
                with suppress(psutil.Error):
                    children = psutil.Process().children(recursive=True)
                    workers = [p for p in children if "ray::" in " ".join(p.cmdline()[:1])]
                    self.worker = max([self.worker, *map(own, workers)])
            time.sleep(SECONDS)


def own(process: psutil.Process) -> float:
    with suppress(psutil.Error):
        return float(process.memory_full_info().uss) / 2**20
    return 0.0


def make(folder: Path, last: str, checked: bool, batch_size: int) -> None:
    """The stages up to `last`; prints a line of JSON for each."""
    null_engine.install(0)
    memory = Memory()
    config = load(None, settings(folder, batch_size))
    run = Run(config, resolve_models(config))
    begun = time.monotonic()

    def tell(stage: str, artifact: Artifact | None) -> Artifact | None:
        nonlocal begun
        seconds, begun = time.monotonic() - begun, time.monotonic()
        manifest = artifact.manifest() if artifact is not None else None
        driver, worker = memory.take()
        rows = (manifest.rows_in, manifest.rows_out) if manifest is not None else (0, 0)
        print("MADE", json.dumps([stage, *rows, seconds, driver, worker]), flush=True)
        return artifact

    tell("start", None)
    records = collecting.collect(config.instructions, config.run.seed)
    tell("read", None)
    if checked:
        checks_apart.check(config, run.models, records)
        tell("preflight", None)
    made: dict[str, Any] = {}
    steps: dict[str, Callable[[], Artifact | None]] = {
        "instructions": lambda: stages.make_instructions(run, records),
        "responses": lambda: stages.make_responses(run, made["instructions"]),
        "rewrites": lambda: stages.make_rewrites(run, made["responses"]),
        "sft_examples": lambda: stages.make_examples(run, made["responses"], made["rewrites"]),
        "packed": lambda: stages.make_packed(run, made["sft_examples"]),
    }
    for stage in STAGES[: STAGES.index(last) + 1]:
        made[stage] = tell(stage, steps[stage]())


def measure(folder: Path, last: str, *options: str) -> None:
    """`make` in a process of its own, told as a table: stage, rows in, rows out, seconds, MiB of driver and of worker."""
    command = [sys.executable, "-m", __spec__.name, "--one", str(folder), "--stages", last, *options]
    with open(folder / "log", "w") as log, subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith(b"MADE"):
                stage, num_in, num_out, seconds, driver, worker = json.loads(line[4:])
                print(
                    f"| {stage} | {num_in:,} | {num_out:,} | {seconds:.1f} | {driver:,.0f} | {worker:,.0f} |",
                    flush=True,
                )
    if process.returncode:
        raise SystemExit(f"it failed: {' '.join(command)}\n{(folder / 'log').read_text()[-4000:]}")


def resume(folder: Path, *options: str) -> None:
    responses = folder / "rows" / "responses"
    for what, missing in (("all there", slice(0)), ("a tenth missing", slice(None, None, 10))):
        (responses / MANIFEST).unlink()
        for shard in sorted(responses.glob("part-*.parquet"))[missing]:
            shard.unlink()
        print(f"teacher, {what}:", flush=True)
        measure(folder, "responses", *options)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--stages", choices=STAGES, default=STAGES[-1], help="up to which stage")
    parser.add_argument("--resume", action="store_true", help="and how long it takes when most is there")
    parser.add_argument("--preflight", action="store_true", help="with the checks that a run begins with")
    parser.add_argument("--batch-size", type=int, default=64, help="rows of a block, and of a shard before merging")
    parser.add_argument("--keep", metavar="FOLDER", help="where the runs stay; what is there already is not made again")
    parser.add_argument("--one", metavar="FOLDER", help="make a run that is prepared")
    chosen = parser.parse_args()
    if chosen.one:
        make(Path(chosen.one), chosen.stages, chosen.preflight, chosen.batch_size)
        return
    options = [f"--batch-size={chosen.batch_size}", *(["--preflight"] if chosen.preflight else [])]
    for num_rows in chosen.rows:
        with tempfile.TemporaryDirectory() if chosen.keep is None else nullcontext(f"{chosen.keep}/{num_rows}") as name:
            folder = Path(name)
            folder.mkdir(parents=True, exist_ok=True)
            if not (folder / "problems.jsonl").exists():
                with open(folder / "problems.jsonl", "w") as file:
                    file.writelines(json.dumps(problem(k)) + "\n" for k in range(num_rows))
            print(
                f"\n{num_rows:,} problems\n\n| stage | rows in | rows out | s | driver, peak MiB | worker, peak MiB |"
            )
            print("|---|---|---|---|---|---|", flush=True)
            measure(folder, chosen.stages, *options)
            if chosen.resume:
                resume(folder, *options)


if __name__ == "__main__":
    main()
