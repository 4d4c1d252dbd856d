"""Figures of a logged step: by hand, without and with a card whose peak is known; what is not known is null, never 0."""

import time
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboardX.proto import event_pb2

from ray_distil.runtime.metrics import GAUGES as KNOWN
from ray_distil.store.storage import Folder
from ray_distil.train import meter
from ray_distil.train.deepspeed_config import BatchArithmetic
from ray_distil.train.follow import GAUGES, status
from ray_distil.train.meter import matrix_parameters, step_flops, work_of
from ray_distil.train.small_copies import small_copy
from ray_distil.train.step_log import StepLog
from ray_distil.train.student_engine import Step
from tests.unit.test_loss import built

BATCH = BatchArithmetic(40, 2, 2, 1, 1)
FIRST, SECOND = Step(3.0, 1.0, 40, 100, 5_000), Step(2.0, 1.0, 60, 150, 9_000)


@pytest.fixture
def one_rank(tmp_path: Path) -> Any:
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def test_figures_of_several_steps(one_rank: None, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    model: Any = built("tied", "eager")
    made = meter.Meter(model, BATCH, False, torch.device("cpu"))
    made.add(1, FIRST, 2.0)
    first = made.gather_figures(1)
    assert first["mfu"] is None
    assert first["seconds_left"] is None
    assert (first["tokens_per_s"], first["learnt_tokens_per_s"], first["learnt_share"]) == (50, 20, 0.4)
    assert 0.01 < (first["memory_gib"] or 0) < 100
    for number in (2, 3):
        now += 5.0
        made.add(number, SECOND, 3.0)
    made.peak = 1e9  # as if a card were there
    later = made.gather_figures(3)
    assert later["tokens_per_s"] == 50
    assert later["seconds_left"] == 5.0 * (BATCH.num_steps - 3)
    flops = made.of_token * 300 + made.of_square * 18_000
    assert later["mfu"] == pytest.approx(flops / (6.0 * 1e9 * 2))
    made.add(BATCH.num_steps, SECOND, 3.0)
    assert made.gather_figures(BATCH.num_steps)["seconds_left"] == 0


def test_work_is_that_of_step_flops_and_less_of_what_is_frozen() -> None:
    model: Any = built("untied", "eager")
    lengths = [7, 30, 12]
    sizes = model.config
    of_token, of_square = work_of(model)
    whole = step_flops(matrix_parameters(model), sizes.num_hidden_layers, sizes.hidden_size, lengths)
    assert of_token * sum(lengths) + of_square * sum(n * n for n in lengths) == whole
    down = model.model.layers[0].mlp.down_proj.weight.requires_grad_(False)
    assert work_of(model) == (of_token - 2 * down.numel(), of_square)


def test_layers_of_linear_attention_have_no_square() -> None:
    from transformers import Qwen3NextConfig

    config = Qwen3NextConfig(num_hidden_layers=4)
    model = small_copy(config, "eager")
    kinds = model.config.layer_types
    assert set(kinds) == {"linear_attention", "full_attention"}
    width = model.config.num_attention_heads * model.config.head_dim
    assert work_of(model)[1] == 6.0 * width * kinds.count("full_attention")


LINE = {"step": 12, "num_steps": 1036, "loss": 1.23456, "grad_norm": 0.5234, "learning_rate": 1.8e-5}
SPEED = {"tokens_per_s": 2676.4, "learnt_tokens_per_s": 1204.1, "learnt_share": 0.45, "memory_gib": 0.4321}


def test_a_status_line_leaves_out_what_is_not_known() -> None:
    said = status(LINE | SPEED | {"mfu": None, "seconds_left": None})
    assert said == (
        "step 12 of 1,036, loss 1.2346, norm 0.523, rate 1.8e-05, 1,204 of 2,676 tokens/s learnt (45%), 0.4 GiB"
    )
    assert status(LINE | SPEED | {"mfu": 0.3412, "seconds_left": 41.2, "eval_loss": 1.5}) == (
        "step 12 of 1,036, loss 1.2346, held out 1.5000, norm 0.523, rate 1.8e-05, 1,204 of 2,676 tokens/s learnt (45%), "
        "MFU 34.1%, 0.4 GiB, 0:41 left"
    )


def test_every_gauge_is_a_known_one() -> None:
    assert set(GAUGES.values()) == {name for name in KNOWN if name.startswith("distil_train_")}


def scalars(folder: Path) -> list[tuple[int, str, float]]:
    """What the event files hold: length, checksum, record, checksum, and so on."""
    found = []
    for file in folder.iterdir():
        data = file.read_bytes()
        while data:
            length = int.from_bytes(data[:8], "little")
            event = event_pb2.Event.FromString(data[12 : 12 + length])
            found += [(event.step, value.tag, value.simple_value) for value in event.summary.value]
            data = data[16 + length :]
    return found


def test_event_files_hold_each_line_once_also_after_a_stop(tmp_path: Path) -> None:
    folder = Folder.at(tmp_path)
    log = StepLog(folder, 0, tensorboard=True)
    for step in (1, 2, 3):
        log.add({"step": step, "loss": 1 / step, "mfu": None, "time": 1e9})
    log.add({"step": 4, "loss": 0.25, "eval_loss": 0.5, "mfu": None, "time": 1e9})
    log.flush()
    assert scalars(tmp_path / "tensorboard")[-1] == (4, "eval/loss", 0.5)
    again = StepLog(folder, 2, tensorboard=True)
    again.add({"step": 3, "loss": 8.0, "time": 1e9})
    again.flush()
    assert scalars(tmp_path / "tensorboard") == [(1, "train/loss", 1.0), (2, "train/loss", 0.5), (3, "train/loss", 8.0)]
