"""Training over ranks and micro-steps is plain training: ZeRO stages, gradient checkpointing, attention by segments and the
loss head change memory and time, and neither losses, gradients nor the student.

One and two ranks of two micro-steps of two sequences; the last step of an epoch is short: of two ranks one has nothing.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from ray_distil.chat.tokenization import encode_example, end_of_turn, load_tokenizer, padding_token
from ray_distil.config.models import resolve_model
from ray_distil.stages.packed import pack_group
from ray_distil.train.attention import FLAT
from ray_distil.train.batches import epoch_order, micro_batches, tensors_of
from ray_distil.train.checkpoint import export_student
from ray_distil.train.deepspeed_config import BatchArithmetic
from ray_distil.train.student_engine import build_engine, decay_groups, train_step
from tests.integration.cluster import free_port
from tests.ranks import join, start
from tests.reference import assert_moved_alike, token_loss, training_settings

STUDENT = resolve_model("tiny:student-base", "k")
SEED = 3
CPU = torch.device("cpu")
# Of so many ranks: ZeRO stage, whether the output layer is the embedding, gradient checkpointing, attention.
WAYS = {
    "zero-1": (2, 1, "tied", False, "varlen"),
    "zero-1, untied": (2, 1, "untied", False, "varlen"),
    "zero-2": (2, 2, "tied", False, "varlen"),
    "zero-2, untied": (2, 2, "untied", True, "varlen"),
    "zero-2, sdpa": (2, 2, "tied", False, "sdpa"),
    "zero-3": (2, 3, "tied", False, "varlen"),
    "zero-3, untied": (2, 3, "untied", False, "varlen"),
    "zero-3, checkpointing": (2, 3, "tied", True, "varlen"),
    "zero-1, one rank": (1, 1, "tied", False, "varlen"),
    "zero-2, one rank": (1, 2, "tied", False, "varlen"),
    "zero-3, one rank": (1, 3, "untied", False, "varlen"),
}
CONFIG = {
    "bf16": False,
    "gradient_clipping": 1.0,
    "learning_rate": 1e-3,
    "weight_decay": 0.05,
    "adam_betas": (0.9, 0.999),
    "lr_scheduler_type": "constant",
    "warmup_ratio": 0.0,
    "torch_compile": False,
    "offload_optimizer": False,
    "lora": None,
}
NUM_SEQUENCES = 9


def batch_of(num_ranks: int) -> BatchArithmetic:
    return BatchArithmetic(
        num_sequences=NUM_SEQUENCES,
        num_workers=num_ranks,
        train_micro_batch_size_per_gpu=2,
        gradient_accumulation_steps=4 // num_ranks,
        num_train_epochs=2,
    )


BATCH = batch_of(2)
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


def untied(folder: Path) -> None:
    """The student with an output layer of its own, unlike its embedding."""
    model = AutoModelForCausalLM.from_pretrained(STUDENT)
    model.config.tie_word_embeddings = False
    weight = model.model.embed_tokens.weight.detach()
    noise = torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
    model.lm_head.weight = torch.nn.Parameter(weight + 0.01 * noise)
    model.save_pretrained(folder)
    load_tokenizer(STUDENT).save_pretrained(folder)


def train(rank: int, num_ranks: int, port: int, folder: Path) -> None:
    """One of the workers: two epochs in each of the ways; rank 0 notes what it sees and keeps the students."""
    join(rank, num_ranks, port)
    all_sequences = sequences()
    made: dict[str, Any] = {}
    batch = batch_of(num_ranks)
    for name, (ranks, zero_stage, head, checkpointing, attention) in WAYS.items():
        if ranks != num_ranks:
            continue
        settings = CONFIG | {
            "student": STUDENT if head == "tied" else str(folder / "untied"),
            "zero_stage": zero_stage,
            "gradient_checkpointing": checkpointing,
            "attn_implementation": attention,
        }
        engine = build_engine(training_settings(settings), batch, CPU)
        held = sum(p.numel() for p in engine.module.parameters())
        steps, empty = [], 0
        for step in range(batch.num_steps):
            epoch, step_in_epoch = divmod(step, batch.steps_per_epoch)
            order = epoch_order(NUM_SEQUENCES, SEED, epoch)
            indices = micro_batches(order, step_in_epoch, rank, batch)
            empty += indices.count([])
            micro = [tensors_of(all_sequences, some, attention in FLAT) for some in indices]
            made_step = train_step(engine, micro, CPU)
            steps.append((made_step.loss, made_step.grad_norm, made_step.num_learnt))
        made[name] = {"held": held, "steps": steps, "empty": empty}
        export_student(engine, load_tokenizer(STUDENT), end_of_turn(STUDENT), folder / name, rank)
    if num_ranks == 2:
        made["skipped"] = a_gradient_that_is_not_finite(folder)
    (folder / f"{num_ranks}-{rank}.json").write_text(json.dumps(made))


def a_gradient_that_is_not_finite(folder: Path) -> dict[str, str]:
    """What is said of it in bf16, whose step DeepSpeed leaves out, and in float32, where it does not."""
    told = {}
    for bf16 in (True, False):
        settings = CONFIG | {"student": STUDENT, "zero_stage": 2, "gradient_checkpointing": False, "bf16": bf16}
        engine = build_engine(training_settings(settings | {"attn_implementation": "varlen"}), BATCH, CPU)
        engine.module.model.norm.weight.register_hook(lambda gradient: gradient * float("inf"))
        try:
            train_step(engine, [tensors_of(sequences(), [k], True) for k in range(2)], CPU)
        except RuntimeError as error:
            told["bf16" if bf16 else "float32"] = str(error)
    return told


def plain(student: str, folder: Path) -> list[tuple[float, float, int]]:
    """`plain_steps` of the student's weights. Keeps the student as well."""
    model = AutoModelForCausalLM.from_pretrained(student, dtype=torch.float32, attn_implementation="eager").train()
    steps = plain_steps(model, CONFIG["learning_rate"])
    model.save_pretrained(folder)
    return steps


def plain_steps(model: Any, learning_rate: float) -> list[tuple[float, float, int]]:
    """Loss, norm and learnt tokens of each step of the same training by torch alone: each example by itself, one gradient
    a step.
    """
    groups = decay_groups(model, CONFIG["weight_decay"])
    optimizer = torch.optim.AdamW(groups, lr=learning_rate, betas=CONFIG["adam_betas"])
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
    return steps


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """The folder of the students, and what each rank saw: two of two, then the one of one."""
    folder = tmp_path_factory.mktemp("zero")
    untied(folder / "untied")
    started = [start(train, ranks, ranks, free_port(), folder) for ranks in (2, 1)]
    for processes in started:
        while not processes.join():
            pass
    return folder, [json.loads((folder / f"{name}.json").read_text()) for name in ("2-0", "2-1", "1-0")]


@pytest.fixture(scope="module")
def expected(trained: tuple[Path, Any]) -> dict[str, list[tuple[float, float, int]]]:
    folder, _ = trained
    return {
        "tied": plain(STUDENT, folder / "plain" / "tied"),
        "untied": plain(str(folder / "untied"), folder / "plain" / "untied"),
    }


@pytest.mark.parametrize("name", WAYS)
def test_losses_gradients_and_student_are_those_of_plain_training(
    trained: tuple[Path, list[dict[str, Any]]], expected: dict[str, list[tuple[float, float, int]]], name: str
) -> None:
    folder, ranks = trained
    head = WAYS[name][2]
    for made in ranks:
        for step, wanted in zip(made[name]["steps"] if name in made else [], expected[head], strict=name in made):
            assert step[0] == pytest.approx(wanted[0], rel=1e-6)
            assert step[1] == pytest.approx(wanted[1], rel=1e-5)
            assert step[2] == wanted[2]
    places = (
        folder / name / "student",
        folder / "plain" / head,
        Path(STUDENT) if head == "tied" else folder / "untied",
    )
    assert_moved_alike(*(load_file(place / "model.safetensors") for place in places))


def test_a_step_is_short_and_one_rank_has_nothing(trained: tuple[Path, list[dict[str, Any]]]) -> None:
    """Else the comparison would prove less than it says."""
    _, (first, second, alone) = trained
    assert NUM_SEQUENCES % BATCH.train_batch_size == 1
    assert first["zero-2"]["empty"] == BATCH.num_train_epochs
    assert second["zero-2"]["empty"] == 2 * BATCH.num_train_epochs
    assert alone["zero-2, one rank"]["empty"] > 0


def test_a_worker_of_zero_3_does_not_hold_the_model(trained: tuple[Path, list[dict[str, Any]]]) -> None:
    _, (made, *_) = trained
    assert made["zero-3"]["held"] < made["zero-2"]["held"] / 2


@pytest.mark.parametrize("dtype", ["bf16", "float32"])
def test_a_gradient_that_is_not_finite_ends_the_training(
    trained: tuple[Path, list[dict[str, Any]]], dtype: str
) -> None:
    _, (first, second, _) = trained
    for made in (first, second):
        assert made["skipped"][dtype].startswith("the gradient is not finite")
