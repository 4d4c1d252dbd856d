"""The memory that the export of a student takes on rank 0's host: one layer and a large vocabulary, on a CPU.

python -m tests.benchmarks.memory_of_export [--stages 2 3] [--ranks 1 2] [--hidden 512]

What the process of rank 0 grows by from before the export to its highest within, sampled each 2 ms. Weights are float32,
the output layer is one of its own. Each stage and number of ranks is a start of its own.
"""

import argparse
import tempfile
import threading
import time
from pathlib import Path

import psutil
import torch
from torch.multiprocessing import start_processes
from transformers import Qwen2Config, Qwen2ForCausalLM

from ray_distil.chat.tokenization import end_of_turn, load_tokenizer
from ray_distil.config.models import resolve_model
from ray_distil.train.checkpoint import export_student
from ray_distil.train.deepspeed_config import BatchArithmetic
from ray_distil.train.student_engine import build_engine
from tests.benchmarks import packing_on_gpu
from tests.integration.cluster import free_port
from tests.ranks import join
from tests.reference import training_settings

VOCABULARY = 151_936
TOKENIZER = resolve_model("tiny:student-base", "k")
SETTINGS = packing_on_gpu.SETTINGS | {
    "bf16": False,
    "gradient_checkpointing": False,
    "torch_compile": False,
    "attn_implementation": "varlen",
}


def student(folder: str, hidden: int) -> int:
    """A student of random weights; its bytes."""
    config = Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=hidden,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=2 * hidden,
        tie_word_embeddings=False,
    )
    model = Qwen2ForCausalLM(config)
    model.save_pretrained(folder)
    load_tokenizer(TOKENIZER).save_pretrained(folder)
    return sum(4 * p.numel() for p in model.parameters())


def measure(rank: int, ranks: int, port: int, stage: int, folder: str) -> None:
    join(rank, ranks, port)
    settings = SETTINGS | {"student": folder, "zero_stage": stage}
    engine = build_engine(training_settings(settings), BatchArithmetic(10, ranks, 1, 1, 1), torch.device("cpu"))
    process, over, seen = psutil.Process(), threading.Event(), [0]

    def sample() -> None:
        while not over.wait(0.002):
            seen.append(process.memory_info().rss)

    before = process.memory_info().rss
    thread = threading.Thread(target=sample)
    thread.start()
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as place:
        export_student(engine, load_tokenizer(TOKENIZER), end_of_turn(TOKENIZER), Path(place), rank)
    seconds = time.monotonic() - started
    over.set()
    thread.join()
    if rank == 0:
        print(
            f"ZeRO-{stage}, {ranks} ranks: {(max(seen) - before) / 2**20:,.0f} MiB above {before / 2**20:,.0f}, "
            f"{seconds:.1f} s",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stages", type=int, nargs="+", default=[2, 3])
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--hidden", type=int, default=512)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(f"the student has {student(folder, chosen.hidden) / 2**20:,.0f} MiB")
        for stage in chosen.stages:
            for ranks in chosen.ranks:
                start_processes(measure, (ranks, free_port(), stage, folder), nprocs=ranks, start_method="spawn")


if __name__ == "__main__":
    main()
