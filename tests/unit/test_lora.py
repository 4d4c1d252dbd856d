"""Names of layers that LoRA can take, and settings that would not be right: told before anything starts."""

from typing import Any

import pytest
import torch

from ray_distil.checks.preflight import wrong_targets
from ray_distil.config import StagesConfig
from ray_distil.config.models import resolve_model
from ray_distil.config.section import validate
from ray_distil.config.training_config import LoraConfig
from ray_distil.errors import ConfigError, UserError
from ray_distil.train import lora
from ray_distil.train.loss import prepare
from tests.unit.test_loss import built


@pytest.mark.parametrize("targets", ["all-linear", ["q_proj"], ["q_proj", "down_proj"], ["layers.0.self_attn.q_proj"]])
def test_layers_that_are_there_are_taken(targets: Any) -> None:
    model: Any = built("tied", "eager")
    assert lora.wrong_targets(model, targets) == ""
    prepare(model)
    lora.add(model, LoraConfig(rank=2, alpha=4, target_modules=targets))
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    assert trained
    assert all(".lora_" in name for name in trained)
    assert not any("lm_head" in name or "embed" in name for name in trained)


@pytest.mark.parametrize(
    ("targets", "told"),
    [
        (["q_prj"], "'q_prj' is no linear layer of it; it has down_proj, gate_proj, k_proj, o_proj, q_proj, "),
        (["q_proj", "norm"], "'norm' is no linear layer"),
        (["q_proj", "lm_head"], "'lm_head' is the embedding or the output layer"),
        (["embed_tokens"], "'embed_tokens' is the embedding or the output layer"),
    ],
)
def test_others_are_refused_with_what_there_is(targets: list[str], told: str) -> None:
    model: Any = built("tied", "eager")
    assert lora.wrong_targets(model, targets).startswith(told)
    with pytest.raises(UserError, match="^training.lora.target_modules: '"):
        lora.add(model, LoraConfig(rank=2, alpha=4, target_modules=targets))
    assert wrong_targets(resolve_model("tiny:student-base", "k"), targets).startswith(told)


def test_a_merged_weight_is_rounded_once() -> None:
    layer = torch.nn.Linear(64, 32, bias=False)
    model: Any = torch.nn.Sequential(layer).to(torch.bfloat16)
    lora.add(model, LoraConfig(rank=3, alpha=6, target_modules=["0"]))
    added = model[0]
    torch.nn.init.normal_(lora.parts(added)[1])
    weight = added.base_layer.weight.detach()
    first, second = (part.detach().double() for part in lora.parts(added))
    wanted = (weight.double() + 2 * second @ first).to(torch.bfloat16)
    assert (lora.merged(added, weight) == wanted).float().mean() > 0.999  # float32 and float64 may round apart


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"offload_optimizer": True, "zero_stage": 0, "bf16": False}, "DeepSpeed's stage 0 cannot"),
        ({"offload_optimizer": True, "zero_stage": 2}, "sum the gradients of micro-steps in bf16; set"),
        ({"lora": {"rank": 0}}, "training.lora.rank"),
        ({"lora": {"target_modules": []}}, "training.lora.target_modules"),
    ],
)
def test_settings_that_cannot_be_right_are_refused(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told.replace(".", r"\.")):
        validate_training(settings)


@pytest.mark.parametrize(
    "settings",
    [
        {"offload_optimizer": True, "zero_stage": 3},
        {"offload_optimizer": True, "zero_stage": 2, "gradient_accumulation_steps": 1},
        {"offload_optimizer": True, "zero_stage": 1, "bf16": False},
        {"lora": {}},
        {"lora": {"target_modules": ["q_proj"], "rank": 8}},
    ],
)
def test_others_are_taken(settings: dict[str, Any]) -> None:
    validate_training(settings)


def validate_training(settings: dict[str, Any]) -> None:

    validate(StagesConfig, {"training": {"student": "tiny:student-base", **settings}})
