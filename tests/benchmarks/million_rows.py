"""Many rows through read -> generate -> write, with an engine that answers at once: what the rows themselves cost.

    python -m tests.benchmarks.million_rows --rows 100000 1000000

For each number: rows a second, peak memory of the driver and of the largest worker (without what they share), and the
seconds of the same command when all rows are there but the manifest, and when a tenth of the shards is missing.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa

from ray_distil import schemas, teacher
from ray_distil.blocks import table_of
from ray_distil.config import load
from ray_distil.manifest import MANIFEST, read_manifest
from ray_distil.runs import Run
from ray_distil.shards import Artifact
from ray_distil.storage import Folder

BATCH_SIZE = 128
SHARD_BYTES = 2**20  # of a finished artifact: rows so small make many shards of it all the same
ANSWER = "Step 1: 3 + 4 = 7.\n\nThe final answer is \\boxed{7}."
PROBLEM = "Ann has {} pens. She buys 4 more pens, and gives 2 of them to each of her friends. How many are there now?"


class NullEngine:
    """Answers at once; the contract of `engine.py`."""

    def __call__(self, batch: pa.Table) -> pa.Table:
        kept, n = batch.drop_columns(["messages", "sampling_params"]), batch.num_rows
        added = {
            "generated_text": pa.array([ANSWER] * n),
            "finish_reason": pa.array(["stop"] * n),
            "num_prompt_tokens": pa.array([40] * n, pa.int32()),
            "num_generated_tokens": pa.array([20] * n, pa.int32()),
            "num_thinking_tokens": pa.array([0] * n, pa.int32()),
            "error": pa.array([""] * n),
        }
        for name, column in added.items():
            kept = kept.append_column(name, column)
        return kept


def generate(dataset: Any) -> Any:
    import ray.data

    return dataset.repartition(target_num_rows_per_block=BATCH_SIZE).map_batches(
        NullEngine, batch_size=BATCH_SIZE, batch_format="pyarrow", compute=ray.data.ActorPoolStrategy(size=1)
    )


def artifacts(folder: Path) -> tuple[Run, Artifact, Artifact]:
    run = Run(load(None, [f"run.storage_path={folder}", "run.name=rows"]), {})
    problems = Artifact(run.folder, "instructions", schemas.INSTRUCTIONS, "rows")
    return run, problems, Artifact(run.folder, "responses", schemas.RESPONSES, "rows")


def prepare(folder: Path, num_rows: int) -> None:
    _, problems, _ = artifacts(folder)
    problems.start()
    for start in range(0, num_rows, 10_000):
        texts = [PROBLEM.format(k) for k in range(start, min(num_rows, start + 10_000))]
        rows = [
            {"instruction_id": schemas.instruction_id(t, "rows"), "instruction": t, "source": "rows", "split": "train"}
            for t in texts
        ]
        problems.write_table(table_of(rows, schemas.INSTRUCTIONS), "instructions")
    problems.finish("instructions", "instructions", num_rows, 0)


def respond(folder: Path, num_rows: int) -> None:
    run, problems, responses = artifacts(folder)
    responses.start()
    asked = {"fraction": 1.0, "num_samples": 1, "sampling_params": {"max_tokens": 64}, "seed": 0, "suffix": ""}
    run.generate(
        responses,
        num_rows,
        teacher.STAGE,
        lambda done: [teacher.responses(problems.read(), generate, "direct", "null", done=done, **asked)],
        parallel=False,
    )
    responses.finish(teacher.STAGE, "responses", num_rows, 0, max_shard_bytes=SHARD_BYTES)


def memory_of(process: psutil.Process) -> float:
    """MiB that are the process's own."""
    with suppress(psutil.Error):
        return float(process.memory_full_info().uss) / 2**20
    return 0.0


def watched(folder: Path, num_rows: int) -> tuple[float, float, float]:
    """Seconds of a process that responds; peak MiB of it and of the largest worker of its Ray."""
    command = [sys.executable, "-m", __spec__.name, "--phase", "generate", str(folder), "--rows", str(num_rows)]
    started = time.monotonic()
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        driver, peak, worker_peak = psutil.Process(process.pid), 0.0, 0.0
        while process.poll() is None:
            peak = max(peak, memory_of(driver))
            with suppress(psutil.Error):
                workers = [p for p in driver.children(recursive=True) if "ray::" in " ".join(p.cmdline()[:1])]
                worker_peak = max([worker_peak, *map(memory_of, workers)])
            time.sleep(0.5)
    if process.returncode:
        raise SystemExit(f"it failed: {' '.join(command)}")
    return time.monotonic() - started, peak, worker_peak


def measure(folder: Path, num_rows: int) -> None:
    prepare_command = [sys.executable, "-m", __spec__.name, "--phase", "prepare", str(folder), "--rows", str(num_rows)]
    subprocess.run(prepare_command, check=True)
    responses = folder / "rows" / "responses"
    seconds, driver, worker = watched(folder, num_rows)
    num_shards = len(list(responses.glob("part-*.parquet")))
    print(
        f"{num_rows:>9,} rows: {seconds:6.1f} s, {num_rows / seconds:7,.0f} rows/s, {num_shards:,} shards; "
        f"peak MiB: driver {driver:,.0f}, worker {worker:,.0f}",
        flush=True,
    )
    for what, missing in (("all there", slice(0)), ("a tenth missing", slice(None, None, 10))):
        (responses / MANIFEST).unlink()
        for shard in sorted(responses.glob("part-*.parquet"))[missing]:
            shard.unlink()
        seconds, driver, worker = watched(folder, num_rows)
        manifest = read_manifest(Folder.at(responses))
        assert manifest is not None
        assert manifest.rows_out == num_rows
        print(f"{'':>9} {what}: {seconds:6.1f} s; peak MiB: driver {driver:,.0f}, worker {worker:,.0f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--phase", nargs=2, metavar=("PHASE", "FOLDER"), help="one part of it, in a folder")
    chosen = parser.parse_args()
    if chosen.phase:
        phase, folder = chosen.phase
        {"prepare": prepare, "generate": respond}[phase](Path(folder), chosen.rows[0])
        return
    for num_rows in chosen.rows:
        with tempfile.TemporaryDirectory() as folder:
            measure(Path(folder), num_rows)


if __name__ == "__main__":
    main()
