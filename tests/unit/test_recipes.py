"""The shipped recipes: each is valid and plans; those of the paper cut nothing that they are expected to generate."""

import re
from pathlib import Path

import pytest

from ray_distil.commands import plan
from ray_distil.config import RECIPES, load

SHIPPED = sorted(RECIPES.glob("*.yaml"))
PAPER = [path for path in SHIPPED if path.stem.startswith("distilqwen")]
CHAT_TEMPLATE = 64  # more tokens than it and the suffix add


def test_the_recipes_sizes_are_there() -> None:
    assert {path.stem for path in PAPER} == {f"distilqwen2.5-0324-{size}b" for size in (7, 14, 32)}


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_recipe_plans(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # no file of instructions is here
    config = load(str(path))
    made = plan.make(config)
    is_later = ("not there yet", "is known when the other teacher has answered")
    assert [remark for remark in made.remarks if not any(text in remark for text in is_later)] == []
    assert all(step.seconds is not None for step in made.steps if step.tokens)
    assert set(config.plan.evaluation) == {model.name for model in config.evaluation.models}
    assert config.run.name == path.stem


def test_data_by_endpoint_needs_no_gpu_and_cuts_nothing() -> None:
    config = load("data-by-endpoint")
    assert (config.training, config.engines, list(config.endpoints)) == (
        None,
        {},
        ["long2short.endpoint", "teachers.direct.endpoint", "teachers.slow.endpoint"],
    )


@pytest.mark.parametrize("path", PAPER, ids=lambda path: path.stem)
def test_the_paper_recipes_are_stage_2_and_cut_nothing(path: Path) -> None:
    config = load(str(path))
    training, size = config.training, path.stem.rpartition("-")[2].upper()
    assert (training.learning_rate, training.weight_decay, training.warmup_ratio) == (2e-5, 0.05, 0.1)
    assert (training.num_train_epochs, training.lr_scheduler_type) == (3, "cosine")
    assert training.student == f"Qwen/Qwen2.5-{size}-Instruct"
    assert training.gradient_checkpointing
    direct, slow = config.teachers.direct, config.teachers.slow
    assert direct is not None
    assert slow is not None
    longest = max(direct.sampling_params.max_tokens, config.long2short.sampling_params.max_tokens)
    assert config.packing.max_length is not None
    assert config.packing.max_length >= longest + config.plan.num_prompt_tokens + CHAT_TEMPLATE
    engine = config.evaluation.engine
    assert engine is not None
    published_slow = config.plan.evaluation["slow"].num_generated_tokens
    assert config.evaluation.sampling_params.max_tokens > 2 * published_slow
    prompts = config.plan.num_prompt_tokens + CHAT_TEMPLATE
    assert engine.engine_kwargs["max_model_len"] >= config.evaluation.sampling_params.max_tokens + prompts
    for asked, read in ((direct, prompts), (slow, prompts), (config.long2short, slow.sampling_params.max_tokens)):
        if asked.engine is not None:
            assert asked.engine.engine_kwargs["max_model_len"] >= read + asked.sampling_params.max_tokens


@pytest.mark.parametrize("path", PAPER, ids=lambda path: path.stem)
def test_each_stage_asks_for_its_role(path: Path) -> None:
    config = load(str(path))
    assert config.training.resources_per_worker == {"student": 1}
    for teacher in (config.teachers.direct, config.teachers.slow):
        assert teacher is not None
        assert (teacher.engine.resources if teacher.engine else {"teacher": 1}) == {"teacher": 1}
    assert config.evaluation.engine is not None
    assert config.evaluation.engine.resources == {"student": 1}


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_no_engine_is_started_that_gets_no_rows(path: Path) -> None:
    evaluation = load(str(path)).evaluation
    if not evaluation.models:
        pytest.skip("compares no models")
    assert evaluation.engine is not None
    problems = 30 if evaluation.benchmark == "AIME2024" else load(str(path)).instructions.num_eval
    assert -(-problems * evaluation.num_samples // evaluation.engine.batch_size) >= evaluation.engine.concurrency[0]


@pytest.mark.parametrize("path", PAPER, ids=lambda path: path.stem)
def test_the_published_table_plans_and_its_answers_fit(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (line,) = re.findall(r"^  # (benchmarks: .*)$", path.read_text(), re.MULTILINE)
    config = load(str(path), [f"evaluation.{line.replace(': ', '=', 1)}"])
    rows = {step.name: step.rows for step in plan.make(config).steps}
    asked = {"AIME2024": 30 * 8, "math500": 500 * 4, "gpqa_diamond": 198 * 8, "mmlu_pro": 1000}
    assert {name: rows[f"eval/fast/{name}"] for name in asked} == asked
    assert config.evaluation.engine is not None
    context = config.evaluation.engine.engine_kwargs["max_model_len"]
    for benchmark in config.evaluation.benchmarks:
        assert config.evaluation.sampling_of(benchmark).max_tokens + 1024 <= context
