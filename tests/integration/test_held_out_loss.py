"""The held-out loss is the student's own on those sequences, and looking at it changes nothing of its training."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from ray_distil.chat.tokenization import end_of_turn, load_tokenizer
from ray_distil.train.batches import epoch_order, micro_batches, tensors_of
from ray_distil.train.checkpoint import export_student
from ray_distil.train.deepspeed_config import BatchArithmetic
from ray_distil.train.student_engine import build_engine, held_out_loss, train_step
from tests.integration.test_zero_stages import CONFIG, CPU, NUM_SEQUENCES, SEED, STUDENT, examples, sequences
from tests.ranks import join, two_ranks
from tests.reference import token_loss, training_settings

# ZeRO stage, gradient checkpointing, attention.
WAYS = {
    "zero-1": (1, False, "varlen"),
    "zero-2, sdpa": (2, True, "sdpa"),
    "zero-3": (3, False, "varlen"),
}
HELD_OUT = range(4, NUM_SEQUENCES)  # five: of two ranks with two a micro-batch, one has a micro-batch of nothing
BATCH = BatchArithmetic(
    4, num_workers=2, train_micro_batch_size_per_gpu=2, gradient_accumulation_steps=1, num_train_epochs=3
)


def train(rank: int, port: int, folder: Path) -> None:
    join(rank, 2, port)
    trained = {name: rows[: HELD_OUT[0]] for name, rows in sequences().items()}
    held_out = {name: rows[HELD_OUT[0] :] for name, rows in sequences().items()}
    made: dict[str, Any] = {}
    for name, (zero_stage, checkpointing, attention) in WAYS.items():
        settings = CONFIG | {
            "student": STUDENT,
            "zero_stage": zero_stage,
            "gradient_checkpointing": checkpointing,
            "attn_implementation": attention,
        }
        flat = attention == "varlen"
        for looks in (False, True):
            engine = build_engine(training_settings(settings), BATCH, CPU)
            seen, looked = [], []
            for step in range(BATCH.num_steps):
                order = epoch_order(4, SEED, step)
                micro = [tensors_of(trained, some, flat) for some in micro_batches(order, 0, rank, BATCH)]
                made_step = train_step(engine, micro, CPU)
                seen.append([made_step.loss, made_step.grad_norm])
                if looks:
                    looked.append(held_out_loss(engine, held_out, BATCH, rank, CPU, partial(tensors_of, flat=flat)))
            made[f"{name} {looks}"] = {"seen": seen, "looked": looked}
        export_student(engine, load_tokenizer(STUDENT), end_of_turn(STUDENT), folder / name, rank)
    (folder / f"{rank}.json").write_text(json.dumps(made))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("held-out")
    return folder, two_ranks(train, folder)


@pytest.mark.parametrize("name", WAYS)
def test_to_look_at_it_changes_no_step(trained: tuple[Path, list[dict[str, Any]]], name: str) -> None:
    _, ranks = trained
    for made in ranks:
        assert made[f"{name} True"]["seen"] == made[f"{name} False"]["seen"]


@pytest.mark.parametrize("name", WAYS)
def test_it_is_the_mean_over_the_learnt_tokens_held_out(trained: tuple[Path, list[dict[str, Any]]], name: str) -> None:
    folder, (first, second) = trained
    looked = first[f"{name} True"]["looked"]
    assert looked == second[f"{name} True"]["looked"]
    assert len(set(looked)) == BATCH.num_steps
    model = AutoModelForCausalLM.from_pretrained(folder / name / "student", dtype=torch.float32).eval()
    total, num_learnt = 0.0, 0
    for _, ids, labels in (example for k in HELD_OUT for example in examples()[k]):
        with torch.no_grad():
            total += token_loss(model(input_ids=torch.tensor([ids])).logits, torch.tensor([labels])).item()
        num_learnt += sum(label != -100 for label in labels[1:])
    assert looked[-1] == pytest.approx(total / num_learnt, rel=1e-5)
