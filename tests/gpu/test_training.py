"""Training on a GPU: packed examples do not see each other there, and losses are those of plain training on a CPU.

pytest tests/gpu          on a machine with a GPU; without one they are skipped
"""

import os
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from ray_distil.deepspeed_config import BatchArithmetic
from ray_distil.models import resolve_model
from ray_distil.packing import pack_group
from ray_distil.sft import build_engine, packed_logits, take, token_loss, train_step
from ray_distil.tokenization import encode_example, padding_token

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")]
STUDENT = resolve_model("tiny:student-base", "k")
NUM_STEPS = 30
SETTINGS = {
    "student": STUDENT,
    "attn_implementation": "sdpa",
    "gradient_checkpointing": False,
    "weight_decay": 0.01,
    "learning_rate": 1e-3,
    "adam_betas": [0.9, 0.98],
    "lr_scheduler_type": "constant",
    "warmup_ratio": 0.0,
    "gradient_clipping": 1.0,
}
BATCH = BatchArithmetic(
    num_sequences=4 * NUM_STEPS,
    num_workers=1,
    train_micro_batch_size_per_gpu=2,
    gradient_accumulation_steps=2,
    num_train_epochs=1,
)


def example(k: int) -> tuple[str, list[int], list[int]]:
    prompt = f"Ann has {k} pens. She buys {k + 3} more pens. How many pens does Ann have now?"
    completion = (
        f"Step 1: Then she has {k} + {k + 3} = {2 * k + 3} pens.\n\nThe final answer is \\boxed{{{2 * k + 3}}}."
    )
    return (str(k), *encode_example(prompt, completion, STUDENT))


@cache
def sequences() -> dict[str, list[Any]]:
    """As many packed sequences of three examples as the steps need."""
    packed = [
        pack_group([example(3 * n + k) for k in range(3)], 256, padding_token(STUDENT)) for n in range(4 * NUM_STEPS)
    ]
    return {name: [torch.tensor(row[name]) for row in packed] for name in ("input_ids", "labels", "position_ids")}


def micro_batches(step: int) -> list[dict[str, Any]]:
    all_of_them = sequences()
    return [take(all_of_them, [4 * step + 2 * k, 4 * step + 2 * k + 1]) for k in range(2)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_changing_one_example_changes_no_logit_of_its_neighbours(attention: str, dtype: Any) -> None:
    model = AutoModelForCausalLM.from_pretrained(STUDENT, dtype=dtype, attn_implementation=attention).cuda()
    batch = {name: rows[0][None].cuda() for name, rows in sequences().items()}
    starts = (batch["position_ids"][0] == 0).nonzero().flatten().tolist()
    with torch.no_grad():
        before = packed_logits(model, batch)
        for start, end in pairwise(starts[:4]):
            changed = {name: tensor.clone() for name, tensor in batch.items()}
            changed["input_ids"][0, start:end] = 7
            after = packed_logits(model, changed)
            neighbours = torch.ones(batch["input_ids"].shape[1], dtype=torch.bool, device="cuda")
            neighbours[start:end] = False
            assert torch.equal(before[0, neighbours], after[0, neighbours])
            assert not torch.equal(before[0, ~neighbours], after[0, ~neighbours])


@cache
def plain_losses() -> list[float]:
    """The same training by torch alone, on the CPU, in float32."""
    model = AutoModelForCausalLM.from_pretrained(STUDENT, dtype=torch.float32, attn_implementation="eager").train()
    decayed = [p for p in model.parameters() if p.ndim >= 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": decayed, "weight_decay": SETTINGS["weight_decay"]}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=SETTINGS["learning_rate"], betas=tuple(SETTINGS["adam_betas"]))
    losses = []
    for step in range(NUM_STEPS):
        micro = micro_batches(step)
        num_learnt = sum(int((m["labels"][:, 1:] != -100).sum()) for m in micro)
        loss = sum((token_loss(packed_logits(model, m), m["labels"]) for m in micro), torch.zeros(())) / num_learnt
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), SETTINGS["gradient_clipping"])
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.fixture(scope="module")
def one_rank(tmp_path_factory: pytest.TempPathFactory) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="29517", RANK="0", WORLD_SIZE="1", LOCAL_RANK="0")
    # What an extension that is compiled leaves behind belongs to the test.
    os.environ["TORCH_EXTENSIONS_DIR"] = str(Path(tmp_path_factory.mktemp("extensions")))


@pytest.mark.parametrize("zero_stage", [1, 2, 3])
def test_losses_on_the_gpu_are_those_of_plain_training(one_rank: None, zero_stage: int) -> None:
    engine = build_engine(SETTINGS | {"bf16": False, "zero_stage": zero_stage}, BATCH, torch.device("cuda"))
    losses = [train_step(engine, micro_batches(step), engine.device)[0] for step in range(NUM_STEPS)]
    expected = plain_losses()
    assert losses[0] == pytest.approx(expected[0], rel=1e-4)
    assert losses == pytest.approx(expected, rel=0.02)
    assert losses[-1] < 0.5 * losses[0]


def test_bf16_learns_as_float32_does(one_rank: None) -> None:
    engine = build_engine(SETTINGS | {"bf16": True, "zero_stage": 2}, BATCH, torch.device("cuda"))
    losses = [train_step(engine, micro_batches(step), engine.device)[0] for step in range(NUM_STEPS)]
    expected = plain_losses()
    assert losses[0] == pytest.approx(expected[0], rel=0.02)
    assert losses[-1] < 0.5 * losses[0]
