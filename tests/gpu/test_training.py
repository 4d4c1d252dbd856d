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
from transformers import AutoModelForCausalLM, Qwen2Config, Qwen2ForCausalLM

from ray_distil.chat.tokenization import encode_example, padding_token
from ray_distil.config.models import resolve_model
from ray_distil.stages.packed import pack_group
from ray_distil.store.storage import Folder
from ray_distil.train import attention
from ray_distil.train.attention import FLAT
from ray_distil.train.batches import tensors_of, to_device
from ray_distil.train.deepspeed_config import BatchArithmetic
from ray_distil.train.loss import LossHead, packed_logits
from ray_distil.train.states import States
from ray_distil.train.student_engine import build_engine, train_step
from tests.reference import token_loss, training_settings

os.environ.setdefault(
    "CUBLAS_WORKSPACE_CONFIG", ":4096:8"
)  # before CUDA starts: without it no algorithm is deterministic
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")]
STUDENT = resolve_model("tiny:student-base", "k")
NUM_STEPS = 30
SETTINGS = {
    "student": STUDENT,
    "attn_implementation": "varlen",
    "gradient_checkpointing": False,
    "weight_decay": 0.01,
    "learning_rate": 1e-3,
    "adam_betas": [0.9, 0.98],
    "lr_scheduler_type": "constant",
    "warmup_ratio": 0.0,
    "torch_compile": False,
    "offload_optimizer": False,
    "lora": None,
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


def micro_batches(step: int, flat: bool = True) -> list[dict[str, Any]]:
    return [tensors_of(sequences(), [4 * step + 2 * k, 4 * step + 2 * k + 1], flat) for k in range(2)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("attn_implementation", ["varlen", "sdpa", "eager"])
def test_changing_one_example_changes_no_logit_of_its_neighbours(attn_implementation: str, dtype: Any) -> None:
    attention.register()
    model = AutoModelForCausalLM.from_pretrained(STUDENT, dtype=dtype, attn_implementation=attn_implementation).cuda()
    batch = to_device(tensors_of(sequences(), [0, 1], attn_implementation in FLAT), torch.device("cuda"))
    shape = batch["input_ids"].shape
    starts = (batch["position_ids"].flatten() == 0).nonzero().flatten().tolist()
    with torch.no_grad():
        before = packed_logits(model, batch).flatten(0, 1)
        for start, end in pairwise([*starts, shape.numel()]):
            changed = batch["input_ids"].flatten().clone()
            changed[start:end] = 7
            after = packed_logits(model, batch | {"input_ids": changed.view(shape)}).flatten(0, 1)
            same = torch.ones(shape.numel(), dtype=torch.bool, device="cuda")
            same[start:end] = False
            assert torch.equal(before[same], after[same])
            assert not torch.equal(before[~same], after[~same])


def small_qwen(attn_implementation: str, dtype: Any, **sizes: Any) -> Any:
    """Two layers of Qwen2.5-0.5B: 14 heads of 64 on 2 of keys."""
    attention.register()
    torch.manual_seed(0)
    shape = {"hidden_size": 896, "num_attention_heads": 14, "num_key_value_heads": 2, "intermediate_size": 512}
    config = Qwen2Config(**(shape | {"vocab_size": 832, "num_hidden_layers": 2} | sizes))
    config._attn_implementation = attn_implementation
    return Qwen2ForCausalLM(config).to("cuda", dtype)


@pytest.mark.parametrize(
    "sizes",
    [{}, {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 1}],
    ids=["14 heads on 2", "window"],
)
def test_varlen_is_the_block_mask_in_logits_and_gradients(sizes: dict[str, Any]) -> None:
    """bf16 kernels differ in rounding: both are compared with float32 under the block mask."""

    def made(attn_implementation: str, dtype: Any) -> tuple[torch.Tensor, torch.Tensor]:
        model = small_qwen(attn_implementation, dtype, **sizes)
        batch = to_device(tensors_of(sequences(), [0, 1], flat=True), torch.device("cuda"))
        if attn_implementation not in FLAT:  # the same row, its borders left to position_ids
            batch = {name: batch[name] for name in ("input_ids", "position_ids")}
        logits = packed_logits(model, batch).float()
        logits.square().mean().backward()
        return logits.detach(), torch.cat([p.grad.float().flatten() for p in model.parameters()])

    exact = made("sdpa", torch.float32)
    for ours, mask, wanted in zip(made("varlen", torch.bfloat16), made("sdpa", torch.bfloat16), exact, strict=True):
        apart, known = ((x - wanted).norm() / wanted.norm() for x in (ours, mask))
        assert apart < 1.3 * known + 1e-4
    for ours, wanted in zip(made("varlen", torch.float32), exact, strict=True):
        assert (ours - wanted).norm() / wanted.norm() < 1e-3


@pytest.mark.parametrize("vocabulary", [832, 151_936])
def test_loss_head_is_the_loss_of_all_logits(vocabulary: int) -> None:
    draw = torch.Generator().manual_seed(0)
    num = 9000 if vocabulary > 10_000 else 1000
    hidden = torch.randn(num, 64, generator=draw).to("cuda", torch.bfloat16).requires_grad_()
    targets = torch.randint(vocabulary, (num,), generator=draw).cuda()
    head = LossHead(64, vocabulary, bias=False).to("cuda", torch.bfloat16)
    loss = head(hidden, targets)
    (loss / num).backward()
    made = loss.item(), hidden.grad.float(), head.weight.grad.float()
    states, weight = (x.detach().float().requires_grad_() for x in (hidden, head.weight))
    total = torch.zeros((), device="cuda")
    for part in range(0, num, 1000):
        some = slice(part, part + 1000)
        piece = torch.nn.functional.cross_entropy(states[some] @ weight.T, targets[some], reduction="sum")
        (piece / num).backward()
        total += piece.detach()
    assert made[0] == pytest.approx(total.item(), rel=1e-4)
    for ours, wanted in zip(made[1:], (states.grad, weight.grad), strict=True):
        assert (ours - wanted).norm() / wanted.norm() < 1e-2


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
        rows = {name: torch.stack(some[4 * step : 4 * step + 4]) for name, some in sequences().items()}
        num_learnt = int((rows["labels"][:, 1:] != -100).sum())
        loss = token_loss(packed_logits(model, rows), rows["labels"]) / num_learnt
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
    engine = build_engine(
        training_settings(SETTINGS | {"bf16": False, "zero_stage": zero_stage}), BATCH, torch.device("cuda")
    )
    losses = [train_step(engine, micro_batches(step), engine.device)[0] for step in range(NUM_STEPS)]
    expected = plain_losses()
    assert losses[0] == pytest.approx(expected[0], rel=1e-4)
    assert losses == pytest.approx(expected, rel=0.02)
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize(
    ("zero_stage", "more"),
    [
        (1, {}),
        (1, {"torch_compile": True}),
        (2, {}),
        (2, {"torch_compile": True, "gradient_checkpointing": True}),
        (3, {}),
        (3, {"gradient_checkpointing": True}),
    ],
)
def test_bf16_learns_as_float32_does(one_rank: None, zero_stage: int, more: dict[str, bool]) -> None:
    settings = SETTINGS | {"bf16": True, "zero_stage": zero_stage} | more
    engine = build_engine(training_settings(settings), BATCH, torch.device("cuda"))
    losses = [train_step(engine, micro_batches(step), engine.device)[0] for step in range(NUM_STEPS)]
    expected = plain_losses()
    assert losses[0] == pytest.approx(expected[0], rel=0.02)
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize("bf16", [False, True], ids=["float32", "bf16"])
@pytest.mark.parametrize("zero_stage", [1, 2, 3])
def test_a_training_that_goes_on_from_a_state_is_the_same_to_the_bit(
    one_rank: None, zero_stage: int, bf16: bool, tmp_path: Path
) -> None:
    """Four steps, and two that go on from the state after two."""
    device = torch.device("cuda")

    def started() -> tuple[Any, States]:
        engine = build_engine(training_settings(SETTINGS | {"bf16": bf16, "zero_stage": zero_stage}), BATCH, device)
        states = States(Folder.at(tmp_path), "made of this", 1, zero_stage, 0, lambda: None, BATCH.train_batch_size)
        return engine, states

    torch.use_deterministic_algorithms(True)
    try:
        engine, states = started()
        assert states.resume(engine, print) == 0
        losses = []
        for step in range(4):
            if step == 2:
                states.save(engine, step)
            losses.append(train_step(engine, micro_batches(step), device))
        engine, states = started()
        assert states.resume(engine, print) == 2
        assert [train_step(engine, micro_batches(step), device) for step in (2, 3)] == losses[2:]
    finally:
        torch.use_deterministic_algorithms(False)
