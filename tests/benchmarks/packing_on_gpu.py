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
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch.multiprocessing import start_processes
from transformers import Qwen2Config, Qwen2ForCausalLM

from ray_distil.train import loss, sft, student_engine
from ray_distil.train.attention import FLAT
from ray_distil.train.batches import tensors_of
from ray_distil.train.deepspeed_config import BatchArithmetic
from ray_distil.train.meter import peak_flops, step_flops
from ray_distil.train.student_engine import build_engine, train_step
from tests.reference import training_settings

WARM_UP = 4
SETTINGS = {
    "bf16": True,
    "weight_decay": 0.05,
    "learning_rate": 2e-5,
    "adam_betas": [0.9, 0.95],
    "lr_scheduler_type": "constant",
    "warmup_ratio": 0.0,
    "gradient_clipping": 1.0,
    "offload_optimizer": False,
    "lora": None,
    "seed": 0,
}
SHAPES = {
    "0.5B": {"hidden_size": 896, "num_hidden_layers": 24, "num_attention_heads": 14, "intermediate_size": 4864},
    "1.5B": {"hidden_size": 1536, "num_hidden_layers": 28, "num_attention_heads": 12, "intermediate_size": 8960},
}


@dataclass(frozen=True)
class Way:
    """What a training has."""

    attention: str = "varlen"
    loss_head: bool = False
    fused: bool = False
    searched: bool = True  # each gradient, for what is not finite
    float32: bool = False  # sums of gradients
    stage: int = 2
    multiple: int = 1  # of so many tokens are the rows
    torch_compile: bool = False
    recompute: bool = False


def _ways() -> dict[str, Way]:
    """Each is the one before it and a change; the last two are changes of their own on top of `aligned`."""
    ways = {"learnt": Way("sdpa"), "varlen": Way()}
    for name, change in (
        ("head", {"loss_head": True}),
        ("fused", {"fused": True}),
        ("unsearched", {"searched": False}),
        ("float32", {"float32": True}),
        ("zero1", {"stage": 1}),
        ("aligned", {"multiple": sft.ALIGNED}),
        ("compiled", {"torch_compile": True}),
        ("both", {"recompute": True}),
    ):
        ways[name] = replace(list(ways.values())[-1], **change)
    ways["recompute"] = replace(ways["aligned"], recompute=True)
    ways["compiled2"] = replace(ways["compiled"], stage=2)
    return ways


WAYS = _ways()


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


def changed(way: Way) -> ExitStack:
    """The training of that way, while it is open: what the way has not is taken out."""
    stack = ExitStack()
    if not way.loss_head:
        stack.enter_context(patch.object(loss, "_has_plain_logits", lambda model: False))
    if not way.fused:
        slow = torch.optim.AdamW
        stack.enter_context(patch("torch.optim.AdamW", lambda *args, fused, **more: slow(*args, **more)))
    made = student_engine.deepspeed_config

    def configured(*args: Any) -> dict[str, Any]:
        config = made(*args)
        if way.searched:
            config["bf16"].pop("check_grad_overflow")
        if not way.float32:
            del config["data_types"], config["communication_data_type"]
        return config

    stack.enter_context(patch.object(student_engine, "deepspeed_config", configured))
    return stack


def measure(_: int, chosen: argparse.Namespace, folder: str, name: str, answer: Any) -> None:
    """Puts for each shape seconds a micro-step after the first ones, and the peak of memory in GiB.

    In a process of its own: what an engine holds stays until that ends.
    """
    import deepspeed  # noqa: F401  before AdamW is replaced: it derives classes from it

    way, accumulation = WAYS[name], chosen.accumulation
    settings = SETTINGS | {
        "student": folder,
        "zero_stage": way.stage,
        "gradient_checkpointing": way.recompute,
        "torch_compile": way.torch_compile,
        "attn_implementation": way.attention,
    }
    with changed(way):
        engine = build_engine(
            training_settings(settings), BatchArithmetic(1000, 1, 1, accumulation, 1), torch.device("cuda")
        )
    for shape in chosen.shapes:
        parts, groups = inputs(chosen, shape)
        sequences = rows_of(parts, int(shape.split("x")[1]), chosen.vocabulary)
        micro = [tensors_of(sequences, group, way.attention in FLAT, way.multiple) for group in groups]
        steps = [micro[k : k + accumulation] for k in range(0, len(micro), accumulation)]
        started = 0.0
        try:
            for k, some in enumerate(steps):
                if k == WARM_UP:
                    torch.cuda.synchronize()
                    torch.cuda.reset_peak_memory_stats()
                    started = time.monotonic()
                train_step(engine, some, engine.device)
        except torch.OutOfMemoryError:
            answer.put((shape, 0.0, 0.0))
            return
        torch.cuda.synchronize()
        seconds = (time.monotonic() - started) / ((len(steps) - WARM_UP) * accumulation)
        answer.put((shape, seconds, torch.cuda.max_memory_allocated() / 2**30))
        if chosen.profile:
            profiled(engine, steps, Path(chosen.profile), f"{name}-{shape}")


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
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=["aligned", "compiled"])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--accumulation", type=int, default=1, help="micro-steps a step")
    parser.add_argument("--vocabulary", type=int, default=151_936)
    parser.add_argument("--one", action="store_true", help="rows that are one example each")
    parser.add_argument("--profile", default="", help="a folder for what a profiler saw in three steps")
    chosen = parser.parse_args()
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="29518", RANK="0", WORLD_SIZE="1", LOCAL_RANK="0")
    card = torch.cuda.get_device_name()
    print(f"{card}; torch {torch.__version__}; {chosen.accumulation} micro-steps a step")
    with tempfile.TemporaryDirectory() as folder:
        num_parameters = student(folder, chosen.model, chosen.vocabulary)
        for name in chosen.ways:
            answer = torch.multiprocessing.get_context("spawn").SimpleQueue()
            start_processes(measure, (chosen, folder, name, answer), nprocs=1, start_method="spawn")
            while not answer.empty():
                shape, seconds, memory = answer.get()
                print(
                    f"{chosen.model} {name:<10} {told(chosen, shape, num_parameters, seconds, memory, card)}",
                    flush=True,
                )


def told(chosen: argparse.Namespace, shape: str, num_parameters: int, seconds: float, memory: float, card: str) -> str:
    """A line on a shape."""
    if not seconds:
        return f"{shape} out of memory"
    parts, groups = inputs(chosen, shape)
    after = groups[WARM_UP * chosen.accumulation :]
    measured = [n for group in after for row in group for n in parts[row]]
    tokens, learnt = sum(measured) / len(after), sum(n - n // 2 for n in measured) / len(after)
    sizes = SHAPES[chosen.model]
    flops = step_flops(num_parameters, sizes["num_hidden_layers"], sizes["hidden_size"], measured) / len(after)
    made = flops - 6 * chosen.vocabulary * sizes["hidden_size"] * (tokens - learnt)
    line = f"{shape}: {tokens / seconds:,.0f} tokens/s, {1000 * seconds:.1f} ms for {tokens:,.0f}, {memory:.1f} GiB"
    peak = peak_flops(card)
    if peak is None:
        return line
    used = [100 * work / (seconds * peak) for work in (flops, made)]
    return f"{line}, MFU {used[0]:.1f} % (made {used[1]:.1f} %, {100 * learnt / tokens:.0f} % learnt)"


if __name__ == "__main__":
    main()
