"""What packing brings on one GPU: a student of 0.5B parameters in DeepSpeed, its own training step, three inputs.

python -m tests.benchmarks.packing_on_gpu

padded   one example a row, padded to the longest of the micro-batch
packed   the same examples in rows of --length, kept apart
one      rows of --length that are one example each: what keeping apart costs at most
"""

import argparse
import os
import random
import tempfile
import time
from typing import Any

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from ray_distil.deepspeed_config import BatchArithmetic
from ray_distil.sft import build_engine, take, train_step

PEAK_FLOPS = {"H100": 989e12, "H200": 989e12}  # dense bf16, from NVIDIA's data sheets
WARM_UP = 3
SETTINGS = {
    "zero_stage": 2,
    "bf16": True,
    "gradient_checkpointing": False,
    "weight_decay": 0.05,
    "learning_rate": 2e-5,
    "adam_betas": [0.9, 0.95],
    "lr_scheduler_type": "constant",
    "warmup_ratio": 0.0,
    "gradient_clipping": 1.0,
}


def student(folder: str, vocabulary: int) -> int:
    """A Qwen2.5-0.5B of random weights in a folder; the number of its parameters."""
    model = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=vocabulary,
            hidden_size=896,
            num_hidden_layers=24,
            num_attention_heads=14,
            num_key_value_heads=2,
            intermediate_size=4864,
            tie_word_embeddings=True,
            max_position_embeddings=32768,
        )
    ).to(torch.bfloat16)
    model.save_pretrained(folder)
    return sum(p.numel() for p in model.parameters())


def lengths(number: int) -> list[int]:
    """Of examples, in tokens: log-normal about 400, as short reasoning has."""
    draw = random.Random(0)
    return [min(2048, max(32, round(draw.lognormvariate(6.0, 0.6)))) for _ in range(number)]


def rows_of(parts: list[list[int]], length: int, vocabulary: int) -> dict[str, list[Any]]:
    """Rows of examples of these lengths, padded to `length`; the second half of each example is learnt."""
    draw = torch.Generator().manual_seed(0)
    rows: dict[str, list[Any]] = {"input_ids": [], "labels": [], "position_ids": []}
    for examples in parts:
        padding = length - sum(examples)
        ids = torch.randint(vocabulary, (length,), generator=draw)
        positions = torch.cat([torch.arange(n) for n in [*examples, padding]])
        learnt = torch.cat([torch.arange(n) >= n // 2 for n in examples] + [torch.zeros(padding, dtype=torch.bool)])
        rows["input_ids"].append(ids)
        rows["labels"].append(torch.where(learnt, ids, -100))
        rows["position_ids"].append(positions)
    return rows


def packed(examples: list[int], length: int) -> list[list[int]]:
    """First fit."""
    parts: list[list[int]] = []
    for n in examples:
        place = next((part for part in parts if sum(part) + n <= length), None)
        if place is None:
            parts.append(place := [])
        place.append(n)
    return parts


def steps_of(
    parts: list[list[int]], length: int | None, rows: int, vocabulary: int
) -> list[tuple[dict[str, Any], int]]:
    """Micro-batches of so many rows each, with the tokens of their examples; no length: that of the longest row."""
    made = []
    for first in range(0, len(parts) - rows + 1, rows):
        held = parts[first : first + rows]
        tensors = rows_of(held, length or max(map(sum, held)), vocabulary)
        made.append((take(tensors, list(range(rows))), sum(map(sum, held))))
    return made


def measure(folder: str, attention: str, micro: list[tuple[dict[str, Any], int]]) -> tuple[float, float]:
    """Tokens of examples a second over the micro-batches, and the peak of memory in GiB."""
    batch = BatchArithmetic(len(micro), 1, 1, 1, 1)
    engine = build_engine(SETTINGS | {"student": folder, "attn_implementation": attention}, batch, torch.device("cuda"))
    torch.cuda.reset_peak_memory_stats()
    tokens = 0
    for k, (tensors, num_tokens) in enumerate(micro):
        if k == WARM_UP:
            torch.cuda.synchronize()
            started, tokens = time.monotonic(), 0
        train_step(engine, [tensors], engine.device)
        tokens += num_tokens
    torch.cuda.synchronize()
    return tokens / (time.monotonic() - started), torch.cuda.max_memory_allocated() / 2**30


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--length", type=int, default=4096)
    parser.add_argument("--rows", type=int, default=4, help="packed rows in a step")
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--attention", nargs="+", default=["sdpa"])
    parser.add_argument("--vocabulary", type=int, default=151_936)
    chosen = parser.parse_args()
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="29518", RANK="0", WORLD_SIZE="1", LOCAL_RANK="0")
    card = torch.cuda.get_device_name()
    peak = next((flops for name, flops in PEAK_FLOPS.items() if name in card), None)
    print(f"{card}; torch {torch.__version__}; rows of {chosen.length}, {chosen.rows} a step, {chosen.steps} steps")
    with tempfile.TemporaryDirectory() as folder:
        num_parameters = student(folder, chosen.vocabulary)
        examples = lengths(chosen.steps * chosen.rows * chosen.length // 400)
        parts = packed(examples, chosen.length)[: chosen.steps * chosen.rows]
        # As many padded examples in a step as packed rows hold, eight at a time: memory is that of the longest.
        alone = [[n] for part in parts for n in part]
        inputs = {"padded": steps_of(alone, None, 8 * chosen.rows, chosen.vocabulary)[: chosen.steps]}
        for name, held in (("packed", parts), ("one", [[chosen.length]] * len(parts))):
            inputs[name] = steps_of(held, chosen.length, chosen.rows, chosen.vocabulary)
        fill = sum(map(sum, parts)) / (len(parts) * chosen.length)
        print(f"{num_parameters / 1e6:.0f} M parameters; rows are full to {100 * fill:.1f} %")
        for attention in chosen.attention:
            rates = {}
            for name in ("padded", "packed", "one"):
                rates[name], memory = measure(folder, attention, inputs[name])
                share = f", {100 * 6 * num_parameters * rates[name] / peak:.1f} % of the card's peak" if peak else ""
                print(f"{attention} {name:<7} {rates[name]:>9,.0f} tokens/s  {memory:5.1f} GiB{share}", flush=True)
            over = ", ".join(f"packed / {name} {rates['packed'] / rates[name]:.2f}" for name in ("padded", "one"))
            print(f"{attention}: {over}")


if __name__ == "__main__":
    main()
