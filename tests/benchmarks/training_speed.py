"""Learnt tokens a second of our training and of TRL's SFTTrainer: one model, the same examples, one process, one thread.

pip install --no-deps --target FOLDER trl==1.16.0
PYTHONPATH=FOLDER python -m tests.benchmarks.training_speed [--examples 480] [--turns 3]

padded      SFTTrainer, one example a micro-step, eight a step, as EasyDistill has it
packed      SFTTrainer with packing by best fit, as many tokens a step
ours        flat rows, attention by segments, loss of learnt positions only, in DeepSpeed

Examples of the tiny world: a quarter are slow, of some 240 learnt tokens, the others fast, of some 55. A way is a process
of its own and a turn of all of them follows the other, so that only ratios within a turn mean something. Its seconds are
those of one epoch, without start.
"""

import argparse
import json
import random
import tempfile
import time
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch.multiprocessing import start_processes

from ray_distil.chat.tokenization import IGNORE_INDEX, encode_example, padding_token
from ray_distil.config.models import resolve_model
from ray_distil.stages.packed import best_fit, pack_group
from ray_distil.tiny.world import training_problems
from tests.benchmarks import memory_of_export
from tests.integration.cluster import free_port
from tests.ranks import join
from tests.reference import training_settings
from tools.tiny.texts import short_response, slow_reasoning, slow_response

STUDENT = resolve_model("tiny:student-base", "k")
LENGTH = 512
SEQUENCES = 2  # of LENGTH tokens a step: about as many tokens as eight examples
LEARNING_RATE = 1e-3
WAYS = ("padded", "packed", "ours")


def examples(number: int) -> list[tuple[str, str]]:
    """Problems and what is learnt of each."""
    chance = random.Random(0)
    made = []
    for k, problem in enumerate(islice(training_problems(7), number)):
        slow = slow_response(problem, slow_reasoning(problem, chance)) if k % 4 == 0 else ""
        made.append((problem.question, slow or short_response(problem)))
    return made


def with_trl(pairs: list[tuple[str, str]], packing: bool) -> float:
    """Seconds of an epoch."""
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import SFTConfig, SFTTrainer

    class Clock(TrainerCallback):
        began = ended = 0.0

        def on_train_begin(self, *_: Any, **__: Any) -> None:
            self.began = time.monotonic()

        def on_train_end(self, *_: Any, **__: Any) -> None:
            self.ended = time.monotonic()

    rows = [
        {"prompt": [{"role": "user", "content": asked}], "completion": [{"role": "assistant", "content": answer}]}
        for asked, answer in pairs
    ]
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        settings = SFTConfig(
            output_dir=folder,
            per_device_train_batch_size=1,
            gradient_accumulation_steps=SEQUENCES if packing else 8,
            num_train_epochs=1,
            learning_rate=LEARNING_RATE,
            lr_scheduler_type="constant",
            weight_decay=0.0,
            max_length=LENGTH,
            packing=packing,
            packing_strategy="bfd",
            optim="adamw_torch_fused",
            bf16=False,
            use_cpu=True,
            gradient_checkpointing=False,
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        trainer = SFTTrainer(STUDENT, args=settings, train_dataset=Dataset.from_list(rows), callbacks=[clock])
        trainer.train()
    return clock.ended - clock.began


def with_ours(pairs: list[tuple[str, str]]) -> float:
    """Seconds of an epoch."""
    from ray_distil.train.batches import epoch_order, micro_batches, tensors_of
    from ray_distil.train.deepspeed_config import BatchArithmetic
    from ray_distil.train.student_engine import build_engine, train_step

    join(0, 1, free_port())
    packed = sequences(pairs)
    batch = BatchArithmetic(len(packed["labels"]), 1, SEQUENCES, 1, 1)
    alone = {"zero_stage": 2, "weight_decay": 0.0, "learning_rate": LEARNING_RATE, "adam_betas": (0.9, 0.999)}
    config = memory_of_export.SETTINGS | alone | {"student": STUDENT}
    engine = build_engine(training_settings(config), batch, torch.device("cpu"))
    order = epoch_order(batch.num_sequences, 0, 0)
    began = time.monotonic()
    for step in range(batch.num_steps):
        micro = [tensors_of(packed, indices, flat=True) for indices in micro_batches(order, step, 0, batch)]
        train_step(engine, micro, torch.device("cpu"))
    return time.monotonic() - began


def encoded(pairs: list[tuple[str, str]]) -> list[tuple[str, list[int], list[int]]]:
    return [(str(k), *encode_example(asked, answer, STUDENT)) for k, (asked, answer) in enumerate(pairs)]


def sequences(pairs: list[tuple[str, str]]) -> dict[str, list[torch.Tensor]]:
    """The examples in sequences of LENGTH, as a run packs them."""
    rows = encoded(pairs)
    groups = best_fit([len(ids) for _, ids, _ in rows], LENGTH)
    packed = [pack_group([rows[k] for k in group], LENGTH, padding_token(STUDENT)) for group in groups]
    return {name: [torch.tensor(row[name]) for row in packed] for name in ("input_ids", "labels", "position_ids")}


def measure(_: int, way: str, number: int, result: Path) -> None:
    torch.set_num_threads(1)
    pairs = examples(number)
    seconds = with_ours(pairs) if way == "ours" else with_trl(pairs, packing=way == "packed")
    result.write_text(json.dumps(seconds))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--examples", type=int, default=480)
    parser.add_argument("--turns", type=int, default=3)
    chosen = parser.parse_args()
    rows = encoded(examples(chosen.examples))
    learnt = sum(label != IGNORE_INDEX for _, _, labels in rows for label in labels)
    lengths = sorted(len(ids) for _, ids, _ in rows)
    print(f"{len(rows)} examples of {lengths[0]} to {lengths[-1]} tokens, {learnt:,} learnt", flush=True)
    rates: dict[str, list[float]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "seconds"
        for turn in range(1, chosen.turns + 1):
            for way in WAYS:
                start_processes(measure, (way, chosen.examples, result), nprocs=1, start_method="spawn")
                rates[way].append(learnt / json.loads(result.read_text()))
            told = ", ".join(f"{way} {rates[way][-1]:,.0f}" for way in WAYS)
            print(f"turn {turn}: {told} learnt tokens/s", flush=True)
    for way in WAYS[:-1]:
        ratios = [ours / other for ours, other in zip(rates["ours"], rates[way], strict=True)]
        print(f"ours beside {way}: {median(ratios):.2f} times ({min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    main()
