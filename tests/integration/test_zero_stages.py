"""Training over ranks and micro-steps is plain training: DeepSpeed's ZeRO stages and gradient checkpointing change memory,
and neither losses, gradients nor the student.

Two ranks of two micro-steps; the last step of an epoch is short: it leaves one micro-batch of four that is not empty.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from ray_distil.checkpoint import export_student
from ray_distil.deepspeed_config import BatchArithmetic
from ray_distil.models import resolve_model
from ray_distil.packing import pack_group
from ray_distil.sft import (
    build_engine,
    decay_groups,
    epoch_order,
    micro_batches,
    take,
    token_loss,
    train_step,
)
from ray_distil.tokenization import encode_example, end_of_turn, load_tokenizer, padding_token
from tests.integration.cluster import free_port

STUDENT = resolve_model("tiny:student-base", "k")
SEED = 3
CPU = torch.device("cpu")
WAYS = {"zero-1": (1, False), "zero-2": (2, False), "zero-3": (3, False), "zero-3, checkpointing": (3, True)}
CONFIG = {
    "student": STUDENT,
    "bf16": False,
    "gradient_clipping": 1.0,
    "attn_implementation": "sdpa",
    "learning_rate": 1e-3,
    "weight_decay": 0.05,
    "adam_betas": (0.9, 0.999),
    "lr_scheduler_type": "constant",
    "warmup_ratio": 0.0,
}
BATCH = BatchArithmetic(
    num_sequences=5, num_workers=2, train_micro_batch_size_per_gpu=1, gradient_accumulation_steps=2, num_train_epochs=2
)
Encoded = tuple[str, list[int], list[int]]


def examples() -> list[list[Encoded]]:
    """The examples of each sequence, of which some learn much and some little."""

    def encoded(k: int) -> Encoded:
        steps = " ".join(f"Step {n}: {k} + {n} = {k + n}." for n in range(1, 2 + k % 4))
        return (str(k), *encode_example(f"Ann has {k} pens. She buys 4 more.", steps, STUDENT))

    return [[encoded(3 * n + k) for k in range(1 + n % 3)] for n in range(BATCH.num_sequences)]


def sequences() -> dict[str, list[torch.Tensor]]:
    packed = [pack_group(group, 256, padding_token(STUDENT)) for group in examples()]
    return {name: [torch.tensor(row[name]) for row in packed] for name in ("input_ids", "labels", "position_ids")}


def train(rank: int, port: int, folder: Path) -> None:
    """One of two workers: two epochs in each of the ways; rank 0 notes what it sees and keeps the students."""
    import os

    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), LOCAL_RANK=str(rank))
    os.environ.update(WORLD_SIZE="2", LOCAL_WORLD_SIZE="2")
    torch.set_num_threads(1)
    all_sequences = sequences()
    made: dict[str, Any] = {}
    for name, (zero_stage, checkpointing) in WAYS.items():
        settings = CONFIG | {"zero_stage": zero_stage, "gradient_checkpointing": checkpointing}
        engine = build_engine(settings, BATCH, CPU)
        held = sum(p.numel() for p in engine.module.parameters())
        steps, empty = [], 0
        for step in range(BATCH.num_steps):
            epoch, step_in_epoch = divmod(step, BATCH.steps_per_epoch)
            order = epoch_order(BATCH.num_sequences, SEED, epoch)
            indices = micro_batches(order, step_in_epoch, rank, BATCH)
            empty += indices.count([])
            loss, num_learnt = train_step(engine, [take(all_sequences, some) for some in indices], CPU)
            steps.append((loss, float(engine.get_global_grad_norm()), num_learnt))
        made[name] = {"held": held, "steps": steps, "empty": empty}
        export_student(engine, load_tokenizer(STUDENT), end_of_turn(STUDENT), folder / name, rank)
    (folder / f"rank-{rank}.json").write_text(json.dumps(made))


def plain(folder: Path) -> list[tuple[float, float, int]]:
    """The same training by torch alone: each example by itself, one gradient a step. Keeps the student as well."""
    model = AutoModelForCausalLM.from_pretrained(STUDENT, dtype=torch.float32, attn_implementation="eager").train()
    optimizer = torch.optim.AdamW(
        decay_groups(model, CONFIG["weight_decay"]), lr=CONFIG["learning_rate"], betas=CONFIG["adam_betas"]
    )
    steps = []
    for step in range(BATCH.num_steps):
        epoch, step_in_epoch = divmod(step, BATCH.steps_per_epoch)
        order = epoch_order(BATCH.num_sequences, SEED, epoch)
        first = step_in_epoch * BATCH.train_batch_size
        alone = [example for n in order[first : first + BATCH.train_batch_size] for example in examples()[n]]
        total, num_learnt = torch.zeros(()), 0
        for _, ids, labels in alone:
            total = total + token_loss(model(input_ids=torch.tensor([ids])).logits, torch.tensor([labels]))
            num_learnt += sum(label != -100 for label in labels[1:])
        optimizer.zero_grad()
        (total / num_learnt).backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), CONFIG["gradient_clipping"])
        optimizer.step()
        steps.append((total.item() / num_learnt, norm.item(), num_learnt))
    model.save_pretrained(folder / "plain" / "student")
    return steps


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("zero")
    torch.multiprocessing.start_processes(train, (free_port(), folder), nprocs=2, start_method="spawn")
    return folder, [json.loads((folder / f"rank-{rank}.json").read_text()) for rank in range(2)]


@pytest.fixture(scope="module")
def expected(trained: tuple[Path, Any]) -> list[tuple[float, float, int]]:
    return plain(trained[0])


@pytest.mark.parametrize("name", WAYS)
def test_losses_gradients_and_student_are_those_of_plain_training(
    trained: tuple[Path, list[dict[str, Any]]], expected: list[tuple[float, float, int]], name: str
) -> None:
    folder, ranks = trained
    for made in ranks:
        for step, wanted in zip(made[name]["steps"], expected, strict=True):
            assert step == pytest.approx(wanted, rel=1e-4)
    before, after = (load_file(folder / way / "student" / "model.safetensors") for way in ("plain", name))
    assert before.keys() == after.keys()
    for key in before:
        torch.testing.assert_close(after[key], before[key], rtol=1e-3, atol=1e-5)


def test_a_step_is_short_and_a_micro_batch_is_empty(trained: tuple[Path, list[dict[str, Any]]]) -> None:
    """Else the comparison would prove less than it says."""
    _, ranks = trained
    assert BATCH.num_sequences % BATCH.train_batch_size != 0
    assert sum(made["zero-2"]["empty"] for made in ranks) > 0


def test_a_worker_of_zero_3_does_not_hold_the_model(trained: tuple[Path, list[dict[str, Any]]]) -> None:
    _, (made, _) = trained
    assert made["zero-3"]["held"] < made["zero-2"]["held"] / 2
