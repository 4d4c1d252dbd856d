"""DeepSpeed's ZeRO stages and gradient checkpointing share out memory; losses and the student stay what they were."""

import json
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing
from safetensors.torch import load_file

from ray_distil.checkpoint import export_student
from ray_distil.deepspeed_config import BatchArithmetic
from ray_distil.models import resolve_model
from ray_distil.packing import pack_group
from ray_distil.sft import build_engine, train_step
from ray_distil.tokenization import encode_example, end_of_turn, load_tokenizer, padding_token

STUDENT = resolve_model("tiny:student-base", "k")
NUM_STEPS = 3
WAYS = {"zero-2": (2, False), "zero-3": (3, False), "zero-3, checkpointing": (3, True)}
CONFIG = {
    "student": STUDENT,
    "bf16": False,
    "gradient_clipping": 1.0,
    "attn_implementation": "sdpa",
    "learning_rate": 1e-3,
    "weight_decay": 0.05,
    "adam_betas": (0.9, 0.999),
    "lr_scheduler_type": "cosine",
    "warmup_ratio": 0.0,
}


def train(rank: int, port: int, folder: Path) -> None:
    """One of two workers: the same three steps in each of the ways; rank 0 notes losses and keeps the students."""
    import os

    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), LOCAL_RANK=str(rank))
    os.environ.update(WORLD_SIZE="2", LOCAL_WORLD_SIZE="2")
    torch.set_num_threads(1)
    texts = [(f"Ann has {k} pens. She buys 4 more.", f"Step 1: {k} + 4 = {k + 4}.") for k in range(2, 8)]
    encoded = [(str(k), *encode_example(*text, STUDENT)) for k, text in enumerate(texts)]
    packed = [pack_group(encoded[3 * r : 3 * r + 3], 256, padding_token(STUDENT)) for r in range(2)]
    micro = [{name: torch.tensor([packed[rank][name]]) for name in ("input_ids", "labels", "position_ids")}]
    batch = BatchArithmetic(2, 2, 1, 1, NUM_STEPS)
    losses: dict[str, Any] = {}
    for name, (zero_stage, checkpointing) in WAYS.items():
        settings = CONFIG | {"zero_stage": zero_stage, "gradient_checkpointing": checkpointing}
        engine = build_engine(settings, batch, torch.device("cpu"))
        held = sum(p.numel() for p in engine.module.parameters())
        losses[name] = {
            "held": held,
            "losses": [train_step(engine, micro, torch.device("cpu")) for _ in range(NUM_STEPS)],
        }
        export_student(engine, load_tokenizer(STUDENT), end_of_turn(STUDENT), folder / name, rank)
    if rank == 0:
        (folder / "losses.json").write_text(json.dumps(losses))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("zero")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.start_processes(train, (port, folder), nprocs=2, start_method="spawn")
    return folder, json.loads((folder / "losses.json").read_text())


@pytest.mark.parametrize("name", [name for name in WAYS if name != "zero-2"])
def test_losses_and_student_are_those_of_zero_2(trained: tuple[Path, dict[str, Any]], name: str) -> None:
    folder, made = trained
    expected, losses = ([loss for loss, _ in made[way]["losses"]] for way in ("zero-2", name))
    assert losses == pytest.approx(expected, rel=1e-5)
    assert losses[-1] < losses[0]
    before, after = (load_file(folder / way / "student" / "model.safetensors") for way in ("zero-2", name))
    assert before.keys() == after.keys()
    for key in before:
        torch.testing.assert_close(after[key], before[key], rtol=1e-3, atol=1e-5)


def test_a_worker_of_zero_3_does_not_hold_the_model(trained: tuple[Path, dict[str, Any]]) -> None:
    _, made = trained
    assert made["zero-3"]["held"] < made["zero-2"]["held"] / 2
