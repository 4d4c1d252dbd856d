"""LoRA and an optimiser on the host: the same training with less memory, on two ranks of real DeepSpeed.

With LoRA losses are those of peft under plain torch, only adapters move, and the export is the student's weight with B A
added. Offloaded, losses and gradients are those of the training that is not.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from ray_distil.chat.tokenization import end_of_turn, load_tokenizer
from ray_distil.config import TrainingConfig
from ray_distil.store.storage import Folder
from ray_distil.train import checkpoint, lora
from ray_distil.train.batches import epoch_order, micro_batches, tensors_of
from ray_distil.train.checkpoint import export_student
from ray_distil.train.states import States, find
from ray_distil.train.student_engine import build_engine, train_step
from tests.integration.test_zero_stages import BATCH, CONFIG, CPU, NUM_SEQUENCES, SEED, STUDENT, plain_steps, sequences
from tests.ranks import join, two_ranks
from tests.reference import training_settings

pytestmark = pytest.mark.long
ADAPTERS = {"rank": 4, "alpha": 8.0, "dropout": 0.0, "target_modules": "all-linear"}
# ZeRO stage, the layers of the adapters, gradient checkpointing.
WITH_LORA = {
    "zero-0": (0, "all-linear", False),
    "zero-1": (1, ["q_proj", "down_proj"], False),
    "zero-2": (2, "all-linear", True),
    "zero-3": (3, "all-linear", False),
}
# ZeRO stage, bf16, micro-steps of a step.
OFFLOADED = {
    "zero-1": (1, False, 2),
    "zero-2": (2, False, 2),
    "zero-3": (3, False, 2),
    "zero-3, bf16": (3, True, 2),
    "zero-2, bf16": (2, True, 1),
}
SAVED_AT, LEARNING_RATE = 3, 5e-3


def settings(zero_stage: int, **more: Any) -> TrainingConfig:
    plain = {"student": STUDENT, "zero_stage": zero_stage, "gradient_checkpointing": False}
    return training_settings(CONFIG | plain | {"attn_implementation": "varlen", "learning_rate": LEARNING_RATE} | more)


def run(
    engine: Any, rank: int, done: int = 0, states: States | None = None, together: int = 1, until: int = BATCH.num_steps
) -> list[list[float]]:
    """Loss and norm of each step from `done` to `until`; `together`: micro-batches put into one."""
    seen = []
    for step in range(done, until):
        epoch, step_in_epoch = divmod(step, BATCH.steps_per_epoch)
        order = epoch_order(NUM_SEQUENCES, SEED, epoch)
        mine = micro_batches(order, step_in_epoch, rank, BATCH)
        mine = [[k for some in mine[n : n + together] for k in some] for n in range(0, len(mine), together)]
        made = train_step(engine, [tensors_of(sequences(), some, True) for some in mine], CPU)
        seen.append([made.loss, made.grad_norm])
        if states is not None and step + 1 == SAVED_AT:
            states.save(engine, SAVED_AT)
    return seen


def adapters_of(engine: Any) -> dict[str, torch.Tensor]:
    """Weight, A and B of each layer that has them, whole."""
    import deepspeed

    found = {}
    for name, layer in engine.module.named_modules():
        if lora.is_added(layer):
            own = [layer.base_layer.weight, *lora.parts(layer)]
            whole = deepspeed.zero.GatheredParameters(own) if hasattr(own[0], "ds_id") else torch.no_grad()
            with whole:
                found |= {f"{name} {part}": tensor.detach().clone() for part, tensor in zip("WAB", own, strict=True)}
    return found


def with_lora(rank: int, name: str, folder: Path) -> dict[str, Any]:
    zero_stage, targets, checkpointing = WITH_LORA[name]
    chosen = settings(zero_stage, lora=ADAPTERS | {"target_modules": targets}, gradient_checkpointing=checkpointing)

    def new() -> tuple[Any, States]:
        engine = build_engine(chosen, BATCH, CPU, SEED)
        return engine, States(Folder.at(folder / name / "states"), name, 2, zero_stage, rank, lambda: None)

    engine, states = new()
    whole = run(engine, rank, states=states)
    held = adapters_of(engine)
    if rank == 0:
        save_file(held, folder / name / "adapters.safetensors")
    export_student(engine, load_tokenizer(STUDENT), end_of_turn(STUDENT), folder / name, rank)
    engine, states = new()
    done = states.resume(engine, lambda line: None)
    return {"whole": whole, "done": done, "rest": run(engine, rank, done)}


def offloaded(rank: int, name: str) -> dict[str, Any]:
    """Loss and norm of each step, offloaded or not, and how far their gradients are apart in the first step."""
    zero_stage, bf16, micro_steps = OFFLOADED[name]
    batch = BATCH if micro_steps == 2 else type(BATCH)(NUM_SEQUENCES, 2, 4, 1, 2)
    seen: dict[str, Any] = {}
    gradients = []
    for offload in (False, True):
        engine = build_engine(settings(zero_stage, bf16=bf16, offload_optimizer=offload), batch, CPU)
        first = run(engine, rank, together=3 - micro_steps, until=1)
        gradients.append(first_moments(engine))
        seen[str(offload)] = first + run(engine, rank, 1, together=3 - micro_steps)
    plain, other = gradients
    return seen | {"apart": ((other - plain).norm() / plain.norm()).item()}


def first_moments(engine: Any) -> torch.Tensor:
    """AdamW's first moments of this rank: after one step they are the gradients, times a number."""
    states = engine.optimizer.optimizer.state.values()
    return torch.cat([state["exp_avg"].flatten().float() for state in states])


def train(rank: int, port: int, folder: Path) -> None:
    join(rank, 2, port)
    checkpoint.SHARD = 300_000  # several files
    made = {f"lora {name}": with_lora(rank, name, folder) for name in WITH_LORA}
    made |= {f"offload {name}": offloaded(rank, name) for name in OFFLOADED}
    (folder / f"{rank}.json").write_text(json.dumps(made))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("bigger")
    return folder, two_ranks(train, folder)


def plain(targets: Any) -> list[list[float]]:
    """Losses and norms of peft under torch alone: each example by itself."""
    model = AutoModelForCausalLM.from_pretrained(STUDENT, dtype=torch.float32, attn_implementation="eager").train()
    torch.manual_seed(SEED)
    config = LoraConfig(r=4, lora_alpha=8, target_modules=targets, task_type="CAUSAL_LM")
    steps = plain_steps(get_peft_model(model, config), LEARNING_RATE)
    return [[loss, norm] for loss, norm, _ in steps]


@pytest.mark.parametrize("name", WITH_LORA)
def test_losses_with_lora_are_those_of_peft(trained: tuple[Path, list[dict[str, Any]]], name: str) -> None:
    _, ranks = trained
    wanted = plain(WITH_LORA[name][1])
    for made in ranks:
        for (loss, norm), (wanted_loss, wanted_norm) in zip(made[f"lora {name}"]["whole"], wanted, strict=True):
            assert loss == pytest.approx(wanted_loss, rel=2e-6)
            if WITH_LORA[name][0]:  # stage 0 tells no norm
                assert norm == pytest.approx(wanted_norm, rel=1e-4)


@pytest.mark.parametrize("name", WITH_LORA)
def test_only_adapters_move_and_the_export_has_them_merged(
    trained: tuple[Path, list[dict[str, Any]]], name: str
) -> None:
    folder, _ = trained
    before = load_file(Path(STUDENT) / "model.safetensors")
    files = sorted((folder / name / "student").glob("*.safetensors"))
    assert len(files) > 2
    after = {key: tensor for file in files for key, tensor in load_file(file).items()}
    held = load_file(folder / name / "adapters.safetensors")
    assert after.keys() == before.keys()
    layers = {key.split()[0] for key in held}
    assert len(layers) > 4
    for key, weight in before.items():
        layer = key.removesuffix(".weight")
        if layer not in layers:
            assert torch.equal(after[key], weight.float())
            continue
        own, first, second = (held[f"{layer} {part}"] for part in "WAB")
        assert torch.equal(own, weight.float())
        change = ADAPTERS["alpha"] / ADAPTERS["rank"] * (second @ first)
        assert change.abs().max() > 1e-3, "it did not learn"
        torch.testing.assert_close(after[key], own + change, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", WITH_LORA)
def test_it_goes_on_from_a_state_without_the_layers_that_stay(
    trained: tuple[Path, list[dict[str, Any]]], name: str
) -> None:
    folder, ranks = trained
    for made in ranks:
        assert made[f"lora {name}"]["done"] == SAVED_AT
        assert made[f"lora {name}"]["rest"] == made[f"lora {name}"]["whole"][SAVED_AT:]
    state = find(Folder.at(folder / name / "states"), name).newest
    assert state is not None
    held = load_file(folder / name / "adapters.safetensors")
    adapters = sum(tensor.nbytes for key, tensor in held.items() if not key.endswith("W"))
    student = load_file(Path(STUDENT) / "model.safetensors")
    head = 4 * student["model.embed_tokens.weight"].numel()  # under its second name DeepSpeed takes it for trained
    assert sum(state.files.values()) < 8 * adapters + head + 200_000
    assert sum(state.files.values()) < sum(4 * tensor.numel() for tensor in student.values())


@pytest.mark.parametrize("name", OFFLOADED)
def test_offloaded_it_learns_the_same(trained: tuple[Path, list[dict[str, Any]]], name: str) -> None:
    """In bf16 later steps are close only: where a weight is between two numbers of bf16, rounding decides."""
    _, ranks = trained
    for made in ranks:
        seen = made[f"offload {name}"]
        assert seen["apart"] < 1e-5
        for (loss, norm), (wanted, wanted_norm) in zip(seen["True"], seen["False"], strict=True):
            assert loss == pytest.approx(wanted, rel=2e-3 if OFFLOADED[name][1] else 1e-6)
            assert norm == pytest.approx(wanted_norm, rel=1e-2 if OFFLOADED[name][1] else 1e-5)
