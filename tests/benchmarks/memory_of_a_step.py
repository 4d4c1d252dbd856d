"""The most memory that one training step of a long row takes on a CPU: a student of one layer and a large vocabulary.

python -m tests.benchmarks.memory_of_a_step [--lengths 4096 16384] [--ways plain now]

plain   the model's own logits of all positions, a float32 loss on them, sdpa under a block mask
now     attention by segments, and the loss head
Each length and way is a process of its own. `plain` at 16,384 tokens takes more than 28 GiB.
"""

import argparse
import resource
import time
from typing import Any

import torch
from torch.multiprocessing import start_processes
from transformers import Qwen2Config, Qwen2ForCausalLM

from ray_distil.train import attention, loss
from ray_distil.train.batches import tensors_of
from tests.benchmarks.packing_on_gpu import lengths, packed, rows_of
from tests.reference import token_loss

VOCABULARY = 151_936


def step(_: int, length: int, way: str) -> None:
    torch.set_num_threads(1)
    attention.register()
    config = Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=128,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=384,
        tie_word_embeddings=True,
    )
    config._attn_implementation = "varlen" if way == "now" else "sdpa"
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(config)
    sequences: dict[str, list[Any]] = rows_of(packed(lengths(length // 100), length)[:1], length, VOCABULARY)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.monotonic()
    if way == "now":
        assert loss.prepare(model)
        total = model(**tensors_of(sequences, [0], flat=True))
    else:
        row = {name: tensors[0][None] for name, tensors in sequences.items()}
        total = token_loss(loss.packed_logits(model, row), row["labels"])
    total.backward()
    seconds = time.monotonic() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(
        f"{length} tokens, {way}: loss {total.item():.2f}, {peak / 2**20:.2f} GiB at most, {before / 2**20:.2f} before "
        f"the step, {seconds:.1f} s",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lengths", type=int, nargs="+", default=[4096, 16384])
    parser.add_argument("--ways", nargs="+", choices=["plain", "now"], default=["now"])
    chosen = parser.parse_args()
    for length in chosen.lengths:
        for way in chosen.ways:
            start_processes(step, (length, way), nprocs=1, start_method="spawn")


if __name__ == "__main__":
    main()
