"""Training on one GPU: a Qwen2.5 of random weights in DeepSpeed, its own training step, packed rows; one change at a time.

python -m tests.benchmarks.packing_on_gpu --shapes 2x4096 1x8192 1x16384 --ways learnt varlen head fused float32

A shape is ROWSxLENGTH: the sequences of a micro-batch. A way is a change on top of those before it in WAYS.
MFU counts 6 FLOPs a parameter and token, and 6 x layers x width x length^2 of each example for causal attention,
recompute not counted. "made": without the output layer's work at positions of which nothing is learnt, which is left out.
"""

import argparse
import cProfile
import os
import pstats
import random
import tempfile
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch.multiprocessing import start_processes
from transformers import Qwen2Config, Qwen2ForCausalLM

from ray_distil import loss, sft
from ray_distil.attention import FLAT
from ray_distil.batches import tensors_of
from ray_distil.deepspeed_config import BatchArithmetic
from ray_distil.sft import build_engine, train_step

PEAK_FLOPS = {"H100": 989e12, "H200": 989e12}  # dense bf16, from NVIDIA's data sheets
WARM_UP = 4
SETTINGS = {
    "bf16": True,
    "weight_decay": 0.05,
    "learning_rate": 2e-5,
    "adam_betas": [0.9, 0.95],
    "lr_scheduler_type": "constant",
    "warmup_ratio": 0.0,
    "gradient_clipping": 1.0,
}
SHAPES = {
    "0.5B": {"hidden_size": 896, "num_hidden_layers": 24, "num_attention_heads": 14, "intermediate_size": 4864},
    "1.5B": {"hidden_size": 1536, "num_hidden_layers": 28, "num_attention_heads": 12, "intermediate_size": 8960},
}
# attention, loss head, fused AdamW, no search for what is not finite, float32 sums, layers compiled, recompute
WAYS = {
    "learnt": ("sdpa", False, False, False, False, False, False),
    "varlen": ("varlen", False, False, False, False, False, False),
    "head": ("varlen", True, False, False, False, False, False),
    "fused": ("varlen", True, True, False, False, False, False),
    "unsearched": ("varlen", True, True, True, False, False, False),
    "float32": ("varlen", True, True, True, True, False, False),
    "compiled": ("varlen", True, True, True, True, True, False),
    "recompute": ("varlen", True, True, True, True, False, True),
    "both": ("varlen", True, True, True, True, True, True),
}


def student(folder: str, shape: str, vocabulary: int) -> int:
    """A Qwen2.5 of random weights in a folder; the number of its parameters."""
    sizes: dict[str, Any] = dict(SHAPES[shape])
    config = Qwen2Config(
        vocab_size=vocabulary,
        num_key_value_heads=2,
        tie_word_embeddings=True,
        max_position_embeddings=32768,
        **sizes,
    )
    with torch.device("cuda"):  # random numbers take long on a CPU
        torch.set_default_dtype(torch.bfloat16)
        model = Qwen2ForCausalLM(config)
        torch.set_default_dtype(torch.float32)
    model.save_pretrained(folder)
    torch.cuda.empty_cache()
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


def compiled(prepare: Any, model: Any) -> bool:
    for layer in model.base_model.layers:
        layer.compile(dynamic=True)
    return bool(prepare(model))


def changed(way: str) -> ExitStack:
    """The training of that way, while it is open: what the way has not is taken out."""
    _, head, fused, unsearched, float32, layers, _ = WAYS[way]
    stack = ExitStack()
    if layers:
        stack.enter_context(patch.object(loss, "prepare", partial(compiled, loss.prepare)))
    if not head:
        stack.enter_context(patch.object(loss, "_has_plain_logits", lambda model: False))
    if not fused:
        slow = torch.optim.AdamW
        stack.enter_context(patch("torch.optim.AdamW", lambda *args, fused, **more: slow(*args, **more)))
    made = sft.deepspeed_config

    def configured(*args: Any) -> dict[str, Any]:
        config = made(*args)
        if not unsearched:
            config["bf16"].pop("check_grad_overflow")
        if not float32:
            del config["data_types"], config["communication_data_type"]
        return config

    stack.enter_context(patch.object(sft, "deepspeed_config", configured))
    return stack


def measure(_: int, chosen: argparse.Namespace, folder: str, way: str, shape: str, answer: Any) -> None:
    """Puts seconds a micro-step after the first ones, and the peak of memory in GiB. A process of its own."""
    parts, groups = inputs(chosen, shape)
    sequences = rows_of(parts, int(shape.split("x")[1]), chosen.vocabulary)
    micro = [tensors_of(sequences, group, WAYS[way][0] in FLAT, chosen.multiple) for group in groups]
    accumulation = chosen.accumulation
    batch = BatchArithmetic(len(micro), 1, 1, accumulation, 1)
    settings = SETTINGS | {"student": folder, "zero_stage": chosen.stage, "gradient_checkpointing": WAYS[way][-1]}
    with changed(way):
        engine = build_engine(settings | {"attn_implementation": WAYS[way][0]}, batch, torch.device("cuda"))
        started = 0.0
        steps = [micro[k : k + accumulation] for k in range(0, len(micro), accumulation)]
        for k, some in enumerate(steps):
            if k == WARM_UP:
                torch.cuda.synchronize()
                torch.cuda.reset_peak_memory_stats()
                started = time.monotonic()
            try:
                train_step(engine, some, engine.device)
            except torch.OutOfMemoryError:
                return
        torch.cuda.synchronize()
        seconds = (time.monotonic() - started) / ((len(steps) - WARM_UP) * accumulation)
        answer.put((seconds, torch.cuda.max_memory_allocated() / 2**30))
        if chosen.profile:
            profiled(engine, steps, Path(chosen.profile), f"{way}-{shape}")


def inputs(chosen: argparse.Namespace, shape: str) -> tuple[list[list[int]], list[list[int]]]:
    """The examples' lengths of each row, and the rows of each micro-batch."""
    rows, length = map(int, shape.split("x"))
    num_rows = chosen.steps * chosen.accumulation * rows
    parts = packed(lengths(num_rows * length // 400), length)[:num_rows]
    parts = [[length]] * len(parts) if chosen.one else parts
    return parts, [list(range(k, k + rows)) for k in range(0, len(parts) - rows + 1, rows)]


def profiled(engine: Any, steps: list[list[dict[str, Any]]], folder: Path, name: str) -> None:
    """What kernels, and what functions of Python, took in three steps each."""
    with torch.profiler.profile() as found:
        started = time.monotonic()
        for some in steps[:3]:
            train_step(engine, some, engine.device)
        torch.cuda.synchronize()
        seconds = time.monotonic() - started
    averages = found.key_averages()
    text = f"{seconds:.3f} s with the profiler, 3 steps\n"
    for key in ("self_cuda_time_total", "self_cpu_time_total"):
        text += averages.table(sort_by=key, row_limit=45, max_name_column_width=70)
    (folder / f"{name}-kernels.txt").write_text(text)
    functions = cProfile.Profile()
    functions.enable()
    for some in steps[:3]:
        train_step(engine, some, engine.device)
    functions.disable()
    with open(folder / f"{name}-python.txt", "w") as file:
        for key in ("tottime", "cumtime"):
            pstats.Stats(functions, stream=file).sort_stats(key).print_stats(40)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=SHAPES, default="0.5B")
    parser.add_argument("--shapes", nargs="+", default=["2x4096"], help="ROWSxLENGTH")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=["float32"])
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--stage", type=int, default=2)
    parser.add_argument("--accumulation", type=int, default=1, help="micro-steps a step")
    parser.add_argument("--multiple", type=int, default=1, help="of this many tokens is a flat row")
    parser.add_argument("--vocabulary", type=int, default=151_936)
    parser.add_argument("--one", action="store_true", help="rows that are one example each")
    parser.add_argument("--profile", default="", help="a folder for what a profiler saw in three steps")
    chosen = parser.parse_args()
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="29518", RANK="0", WORLD_SIZE="1", LOCAL_RANK="0")
    card = torch.cuda.get_device_name()
    peak_flops = next((flops for name, flops in PEAK_FLOPS.items() if name in card), None)
    print(f"{card}; torch {torch.__version__}; ZeRO-{chosen.stage}, {chosen.accumulation} micro-steps a step")
    with tempfile.TemporaryDirectory() as folder:
        num_parameters = student(folder, chosen.model, chosen.vocabulary)
        sizes = SHAPES[chosen.model]
        head = chosen.vocabulary * sizes["hidden_size"]
        for shape in chosen.shapes:
            parts, groups = inputs(chosen, shape)
            after = groups[WARM_UP * chosen.accumulation :]
            measured = [n for group in after for row in group for n in parts[row]]
            tokens, learnt = sum(measured) / len(after), sum(n - n // 2 for n in measured) / len(after)
            attention = (
                6 * sizes["num_hidden_layers"] * sizes["hidden_size"] * sum(n * n for n in measured) / len(after)
            )
            flops = 6 * num_parameters * tokens + attention
            print(
                f"{chosen.model} ({num_parameters / 1e6:.0f} M), {shape}: {tokens:,.0f} tokens a micro-step, "
                f"{100 * learnt / tokens:.0f} % of them learnt, attention {100 * attention / flops:.1f} % of the work",
                flush=True,
            )
            for way in chosen.ways:
                answer = torch.multiprocessing.get_context("spawn").SimpleQueue()
                start_processes(measure, (chosen, folder, way, shape, answer), nprocs=1, start_method="spawn")
                if answer.empty():
                    print(f"{shape} {way:<10} out of memory", flush=True)
                    continue
                seconds, memory = answer.get()
                share = ""
                if peak_flops:
                    made = flops - 6 * head * (tokens - learnt)
                    used = [100 * work / (seconds * peak_flops) for work in (flops, made)]
                    share = f"  MFU {used[0]:4.1f} % (made {used[1]:4.1f} %)"
                print(
                    f"{shape} {way:<10} {tokens / seconds:>9,.0f} tokens/s  {1000 * seconds:6.1f} ms  "
                    f"{memory:5.1f} GiB{share}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
