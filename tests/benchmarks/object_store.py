"""What reading, counting and merging the shards of a stage take on an object store that is far away.

    python -m tests.benchmarks.object_store --blocks 400 --latency 0.05
    python -m tests.benchmarks.object_store --blocks 3125 --merged

A stage's artifact of blocks of 16 rows, every eighth of them rejected, on an S3 server in memory whose requests take
`--latency` seconds. For each operation: seconds, requests a block. `--merged`: the blocks are written as a stage writes
them, which merges small shards meanwhile; else they all lie side by side.
"""

import argparse
import os
import time
from collections.abc import Callable
from typing import Any

import pyarrow as pa

from ray_distil.runtime.session import start_ray
from ray_distil.store import artifact as artifact_module
from ray_distil.store.ahead import do_all
from ray_distil.store.artifact import Artifact
from ray_distil.store.schemas import RESPONSES, stable_id
from ray_distil.store.shards import reject, table_of, write_block
from ray_distil.store.storage import Folder
from tests.object_store import CREDENTIALS
from tests.slow_store import SlowStore

ROWS = 16
MAX_SHARD_BYTES = 32 * 2**20


def row(k: int) -> dict[str, Any]:
    made = {
        "response_id": stable_id("response", k),
        "instruction_id": stable_id("instruction", k),
        "instruction": f"How many are {k} and 4?",
        "reference_answer": "7",
        "teacher": "direct",
        "sample_index": 0,
        "response": f"Together they are {k}. " * 20,
        "reasoning": "",
        "answer": "7",
        "finish_reason": "stop",
        "num_prompt_tokens": 40,
        "num_generated_tokens": 80,
        "model": "m",
        "sampling_params": "{}",
    }
    return reject(made, "prompt_too_long") if k % 8 == 0 else made


def block(k: int) -> pa.Table:
    return table_of([row(ROWS * k + n) for n in range(ROWS)], RESPONSES)


def write_as_a_stage(artifact: Artifact, num_blocks: int) -> None:
    import ray.data

    start_ray(2)
    numbers = ray.data.range(num_blocks, override_num_blocks=num_blocks)
    blocks = numbers.map_batches(lambda batch: block(int(batch["id"][0])), batch_size=None)
    for _ in artifact.written([blocks], "responses", max_shard_bytes=MAX_SHARD_BYTES):
        pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--blocks", type=int, default=400)
    parser.add_argument("--latency", type=float, default=0.05)
    parser.add_argument("--merged", action="store_true")
    chosen = parser.parse_args()
    os.environ |= CREDENTIALS
    with SlowStore() as store:
        artifact = Artifact(Folder(store.uri("run")), "responses", RESPONSES, "f" * 16)
        artifact.start()

        def write(k: int) -> None:
            write_block(block(k), artifact.folder, RESPONSES, "responses", artifact.attempt)

        if chosen.merged:
            write_as_a_stage(artifact, chosen.blocks)
        else:
            do_all(write, range(chosen.blocks))
        print(f"{len(artifact.folder.files(suffix='.parquet', recursive=True)):,} files of {chosen.blocks:,} blocks\n")
        store.set(latency=chosen.latency)

        def measure(name: str, operation: Callable[[], Any]) -> Any:
            store.count()
            started = time.monotonic()
            result = operation()
            seconds = time.monotonic() - started
            requests = {method: round(n / chosen.blocks, 2) for method, n in sorted(store.count().items())}
            print(f"| {name} | {seconds:.1f} | {requests} |", flush=True)
            return result

        print("| operation | s | requests a block |\n|---|---|---|")
        measure("write a block", lambda: write(chosen.blocks))
        measure("forget_rejects", lambda: artifact.forget_rejects(lambda reason: reason == "timeout"))
        measure("done_ids", artifact.done_ids)
        merge = artifact_module.merge_all
        artifact_module.merge_all = lambda *where: measure("merge, in finish", lambda: merge(*where))  # type: ignore[assignment]
        num_rows = ROWS * (chosen.blocks + 1)
        measure("finish", lambda: artifact.finish("responses", "rows", num_rows, 1.0, max_shard_bytes=MAX_SHARD_BYTES))
        measure("count", lambda: artifact.count("teacher"))


if __name__ == "__main__":
    main()
