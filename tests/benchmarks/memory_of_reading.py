"""Memory of a training's worker for its data: what the process grows by until it has seen all sequences once.

    python -m tests.benchmarks.memory_of_reading [--tokens 1000000 10000000]

Sequences of 4,096 tokens in shards of 500; each size in a process of its own, in the order of training.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LENGTH, ROWS = 4096, 500


def write(folder: Path, tokens: int) -> None:
    import numpy as np
    import pyarrow as pa

    from ray_distil.store.manifest import Manifest, write_manifest
    from ray_distil.store.schemas import PACKED
    from ray_distil.store.storage import Folder

    generator = np.random.default_rng(0)
    for shard in range(-(-tokens // LENGTH // ROWS)):
        rows = min(ROWS, tokens // LENGTH - shard * ROWS)
        ids = generator.integers(0, 150_000, (rows, LENGTH), dtype=np.int32)
        positions = np.tile(np.arange(LENGTH, dtype=np.int32) % 512, (rows, 1))
        table = pa.table(
            {
                "sequence_id": [f"{shard:06}-{k:06}" for k in range(rows)],
                "input_ids": list(ids),
                "labels": list(np.where(positions % 2, ids, -100).astype(np.int32)),
                "position_ids": list(positions),
                "lengths": [[512] * (LENGTH // 512)] * rows,
                "example_ids": [["e"]] * rows,
            },
            schema=PACKED,
        )
        Folder.at(folder).write_table(f"part-{shard:06}.parquet", table)
    shards = Folder.at(folder).files("part-")
    write_manifest(Folder.at(folder), Manifest("packed", "packed", "f", "examples", 1, 1, 0, {}, 1.0, shards))


def measure(folder: Path) -> dict[str, float]:
    import psutil
    import torch  # noqa: F401  what is imported is not what is read

    from ray_distil.store.storage import Folder
    from ray_distil.train.batches import epoch_order, tensors_of
    from ray_distil.train.sequence_file import TRAINED, read_sequences, write_sequences

    process = psutil.Process()
    peak = before = process.memory_info().rss
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as place:
        write_sequences(Folder.at(folder), Path(place), 0)
        peak = max(peak, _peak())
        written = time.monotonic()
        sequences = read_sequences(Path(place), TRAINED)
        order = epoch_order(len(sequences["labels"]), 0, 0)
        for start in range(0, len(order), 4):
            tensors_of(sequences, order[start : start + 4], True)
            peak = max(peak, process.memory_info().rss)
    seconds = time.monotonic() - written
    return {"MiB": (peak - before) / 2**20, "copied in s": written - started, "sequences/s": len(order) / seconds}


def _peak() -> int:
    """Bytes; of all the time that the process has been there."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, nargs="+", default=[1_000_000, 10_000_000])
    parser.add_argument("--measure", type=Path)
    given = parser.parse_args()
    if given.measure:
        print(json.dumps(measure(given.measure)))
        return
    for tokens in given.tokens:
        with tempfile.TemporaryDirectory() as folder:
            write(Path(folder), tokens)
            command = [sys.executable, "-m", "tests.benchmarks.memory_of_reading", "--measure", folder]
            made = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        print(f"{tokens:>11,} tokens: " + ", ".join(f"{name} {value:,.1f}" for name, value in made.items()))


if __name__ == "__main__":
    main()
