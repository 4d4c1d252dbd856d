"""The memory of a training by arithmetic: beside measured peaks, and beside the sums for the recipe's students."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ray_distil.checks import training_memory
from ray_distil.config import load
from ray_distil.config.findings import Finding
from ray_distil.planning.training_memory import GIB, Sizes, of_training

QWEN = {
    "0.5B": (896, 24, 14, 2, 4864, 151936, True), "7B": (3584, 28, 28, 4, 18944, 152064, False),
    "14B": (5120, 48, 40, 8, 13824, 152064, False), "32B": (5120, 64, 40, 8, 27648, 152064, False),
}  # fmt: skip
NAMES = (
    "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "intermediate_size", "vocab_size",
    "tie_word_embeddings",
)  # fmt: skip


def config(name: str, **more: Any) -> SimpleNamespace:
    return SimpleNamespace(**dict(zip(NAMES, QWEN[name], strict=True)), **more)


def sizes(name: str) -> Sizes:
    found = Sizes.of(config(name))
    assert found is not None
    return found


@pytest.mark.parametrize(("recompute", "measured"), [(False, 32.0), (True, 11.6)])
def test_two_peaks_that_were_measured_on_an_h100(recompute: bool, measured: float) -> None:
    """tests/benchmarks/LOG.md, "Training on one GPU": 0.5B, 16,384 tokens a micro-step."""
    assert of_training(sizes("0.5B"), 16_384, 1, 1, recompute).gib == pytest.approx(measured, rel=0.04)


@pytest.mark.parametrize(("name", "billions"), [("0.5B", 0.494), ("7B", 7.62), ("14B", 14.8), ("32B", 32.8)])
def test_parameters_are_those_of_the_cards(name: str, billions: float) -> None:
    assert sizes(name).parameters / 1e9 == pytest.approx(billions, rel=0.01)


@pytest.mark.parametrize(
    ("name", "tokens", "workers", "stage", "recompute", "offload", "gib"),
    [
        ("7B", 10_240, 8, 2, True, False, 39.2),
        ("7B", 16_384, 8, 3, False, False, 126.2),
        ("14B", 10_240, 8, 3, True, False, 48.9),
        ("32B", 16_384, 8, 3, True, False, 92.7),
        ("32B", 16_384, 8, 3, True, True, 46.9),
        ("32B", 10_240, 16, 3, True, False, 54.6),
    ],
)
def test_sums_for_students_of_the_recipe(
    name: str, tokens: int, workers: int, stage: int, recompute: bool, offload: bool, gib: float
) -> None:
    made = of_training(sizes(name), tokens, workers, stage, recompute, offload=offload)
    assert made.gib == pytest.approx(gib, rel=0.01)
    assert str(made).startswith(f"{gib:.0f} GiB a GPU: states ")


def test_each_part_falls_with_what_divides_it() -> None:
    plain = of_training(sizes("7B"), 8_192, 8, 1, True)
    assert of_training(sizes("7B"), 8_192, 8, 2, True).states < plain.states
    assert of_training(sizes("7B"), 8_192, 8, 3, True).states < of_training(sizes("7B"), 8_192, 8, 2, True).states
    assert of_training(sizes("7B"), 4_096, 8, 1, True).activations == plain.activations / 2
    assert of_training(sizes("7B"), 8_192, 8, 1, False).activations > 10 * plain.activations
    assert (
        of_training(sizes("7B"), 8_192, 8, 1, True, bf16=False).states
        == 8 * sizes("7B").parameters + sizes("7B").parameters
    )
    assert plain.states == pytest.approx((2 + 4 + 12 / 8) * sizes("7B").parameters)
    assert plain.gib == (plain.states + plain.activations + max(plain.head, plain.layer)) / GIB


def test_a_model_that_takes_pictures_has_the_sizes_of_its_text_part_and_one_of_experts_has_none() -> None:
    assert Sizes.of(SimpleNamespace(text_config=config("7B"))) == sizes("7B")
    assert Sizes.of(config("7B", num_experts=64)) is None
    assert Sizes.of(SimpleNamespace(hidden_size=64)) is None


@pytest.fixture
def student(tmp_path: Path) -> Callable[[str], str]:
    """A folder with the configuration of a student, without weights."""

    def folder(name: str) -> str:
        values = dict(zip(NAMES, QWEN[name], strict=True)) | {
            "model_type": "qwen2",
            "architectures": ["Qwen2ForCausalLM"],
        }
        (tmp_path / "config.json").write_text(json.dumps(values))
        return str(tmp_path)

    return folder


def told(folder: str, *overrides: str, config: str | None = None) -> list[Finding]:
    settings = load(config, ["training.use_gpu=true", *overrides])
    assert settings.training is not None
    return list(training_memory.findings(settings, settings.training, folder))


RECIPES = [("one-gpu", "0.5B"), ("distilqwen2.5-0324-7b", "7B"), ("distilqwen2.5-0324-14b", "14B"), ("distilqwen2.5-0324-32b", "32B")]  # fmt: skip


@pytest.mark.parametrize(("recipe", "name"), RECIPES)
def test_each_recipe_fits_and_says_what_it_takes(recipe: str, name: str, student: Callable[[str], str]) -> None:
    (finding,) = told(student(name), config=recipe)
    assert not finding.is_error
    assert re.fullmatch(
        r"training takes about \d\d GiB a GPU: states .*; CUDA and NCCL 2 to 3 more, of 79", finding.text
    )


@pytest.mark.parametrize(
    ("recipe", "name", "mistake", "remedies"),
    [
        ("distilqwen2.5-0324-7b", "7B", ["training.gradient_checkpointing=false"], ["training.gradient_checkpointing=true needs 39"]),
        ("distilqwen2.5-0324-32b", "32B", ["training.num_workers=8"], ["training.offload_optimizer=true needs 43", "training.num_workers=16 needs 55"]),
        ("distilqwen2.5-0324-32b", "32B", ["training.zero_stage=2", "training.torch_compile=false"], ["training.zero_stage=3 needs 55"]),
        ("distilqwen2.5-0324-14b", "14B", ["training.train_micro_batch_size_per_gpu=16"], ["training.train_micro_batch_size_per_gpu=1 needs "]),
        ("one-gpu", "32B", [], ["training."]),
        ("distilqwen2.5-0324-14b", "14B", ["plan.gib_per_gpu=9"], ["a smaller student"]),
        ("distilqwen2.5-0324-14b", "14B", ["plan.gib_per_gpu=24"], ["training.offload_optimizer=true and training.num_workers=32 need 21"]),
    ],
)  # fmt: skip
def test_what_cannot_fit_is_refused_with_what_makes_it_fit(
    recipe: str, name: str, mistake: list[str], remedies: list[str], student: Callable[[str], str]
) -> None:
    (finding,) = told(student(name), *mistake, config=recipe)
    assert finding.is_error
    assert str(finding).startswith("training: it takes about ")
    assert all(remedy in finding.text for remedy in remedies), finding.text


@pytest.mark.parametrize(
    "override", ["training.use_gpu=false", "training.lora={}", "packing={enabled: false, max_length: null}"]
)
def test_nothing_is_said_where_nothing_is_known(override: str, student: Callable[[str], str]) -> None:
    assert told(student("7B"), override, config="distilqwen2.5-0324-7b") == []


def test_no_remedy_is_a_setting_that_the_training_refuses(student: Callable[[str], str]) -> None:
    """With micro-steps in bf16 the optimizer stays on the GPU below stage 3; what is compiled is not divided in stage 3."""
    mistake = ["training.zero_stage=2", "training.torch_compile=true", "training.gradient_accumulation_steps=4", "training.num_workers=2", "plan.gib_per_gpu=60"]  # fmt: skip
    (finding,) = told(student("7B"), *mistake, config="distilqwen2.5-0324-7b")
    assert finding.is_error
    remedies = [words.split(" need")[0] for words in finding.text.split("; ")[1:]]
    assert remedies
    for remedy in remedies:
        load("distilqwen2.5-0324-7b", [*mistake, *remedy.split(" and ")])  # raises where it is refused
        assert not told(student("7B"), *mistake, *remedy.split(" and "), config="distilqwen2.5-0324-7b")[0].is_error
