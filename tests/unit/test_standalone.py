"""What `jobs/eval.py` is told, as a configuration; and endpoints as models to compare."""

import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest

from ray_distil.commands import evaluate as standalone
from ray_distil.commands import plan
from ray_distil.config import RECIPES, StagesConfig
from ray_distil.config.models import resolve_models
from ray_distil.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
CPU = str(RECIPES / "eval" / "cpu.yaml")
NOTHING = ("benchmarks", "models", "baseline", "samples", "limit", "max_tokens", "timed", "api_key_env")


def told(**given: Any) -> StagesConfig:
    return standalone.configuration(Namespace(**{"config": CPU, "overrides": [], **dict.fromkeys(NOTHING), **given}))


def test_models_and_benchmarks_are_as_they_are_told() -> None:
    models = [
        "mine=/m/x",
        "Qwen/Qwen2.5-7B-Instruct",
        "tiny:student-slow",
        "run.name=second",
        "api=https://h/v1#served",
    ]
    made = told(
        models=models, benchmarks="aime24,math500=m.jsonl", api_key_env="KEY", limit=5, samples=2, max_tokens=99
    )
    assert made.run.name == "second"
    assert [m.name for m in made.evaluation.models] == ["mine", "Qwen2.5-7B-Instruct", "student-slow", "api"]
    endpoint = made.evaluation.models[3].endpoint
    assert endpoint is not None
    assert (endpoint.base_url, endpoint.model, endpoint.api_key_env) == ("https://h/v1", "served", "KEY")
    assert made.evaluation.baseline == "mine"
    first, second = made.evaluation.benchmarks
    assert (first.limit, first.num_samples, second.path) == (5, 2, "m.jsonl")
    assert first.sampling_params is not None
    assert (first.sampling_params.max_tokens, first.sampling_params.temperature) == (99, 0.6)


def test_a_recipe_of_a_distillation_gives_its_engine_and_another_run() -> None:
    made = told(config=str(RECIPES / "tiny.yaml"), models=["a=tiny:student-base"], benchmarks="tiny")
    assert made.run.name == "tiny-eval"
    assert made.teachers is None
    assert made.training is None
    assert made.evaluation.engine is not None
    assert made.evaluation.engine.engine_kwargs["max_model_len"] == 1024


@pytest.mark.parametrize(
    ("given", "words"),
    [({}, "--models: none is given"), ({"models": ["a=student"]}, "give its folder, a=PATH"),
     ({"models": ["a=https://h/v1"]}, "names no model of the endpoint"), ({"models": ["a=m"], "benchmarks": "held-out"}, "held-out is of a distillation"),
     ({"models": ["a=m"], "benchmarks": "aime2"}, "did you mean 'aime25'"), ({"models": ["a=m"], "limit": 0}, "limit"),
     ({"models": ["a=m", "a=n"]}, "two have the same name"), ({"models": ["a=m"], "baseline": "b"}, "'b' is none of the models")],
)  # fmt: skip
def test_what_cannot_be_meant_is_told(given: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        told(**given)


def test_an_endpoint_needs_its_key(monkeypatch: pytest.MonkeyPatch) -> None:
    config = told(models=["api=https://h/v1#served"], benchmarks="tiny", api_key_env="NO_SUCH_KEY")
    with pytest.raises(UserError, match="evaluation.models.0.endpoint.api_key_env: 'NO_SUCH_KEY' is not set"):
        resolve_models(config)
    monkeypatch.setenv("NO_SUCH_KEY", "x")
    assert resolve_models(config) == {"evaluation.models.0.model_source": "served"}


def test_the_plan_has_tokens_hours_and_money() -> None:
    price = "plan.evaluation.api={num_generated_tokens: 100, tokens_per_s: 10, usd_per_million_tokens: [1, 2]}"
    gpus = ["evaluation.engine.num_gpus=1", "plan.usd_per_gpu_hour=3.6"]
    made = told(
        models=["mine=org/model", "api=https://h/v1#m", price, *gpus], benchmarks="aime24,tiny", samples=2, limit=10
    )
    planned = plan.make(made)
    steps = {step.name: step for step in planned.steps}
    assert list(steps) == [f"eval/{m}/{b}" for b in ("aime24", "tiny") for m in ("mine", "api")]
    assert {step.rows for step in steps.values()} == {20}
    assert [steps[f"eval/mine/{b}"].exact for b in ("aime24", "tiny")] == [False, True]
    mine, api = steps["eval/mine/aime24"], steps["eval/api/aime24"]
    assert (api.tokens, api.seconds, api.gpus) == (2000, 200, 0)
    assert api.dollars == pytest.approx((20 * 56 * 1 + 2000 * 2) / 1e6)
    assert (mine.tokens, mine.seconds, mine.dollars) == (8000, 80, pytest.approx(80 / 3600 * 3.6))


def test_the_settings_of_this_machine_are_named() -> None:
    def printed(*arguments: str) -> str:
        command = [sys.executable, str(ROOT / "jobs" / "eval.py"), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    arguments = ["--plan", "--benchmarks", "tiny", "--models", "tiny:student-base"]
    machine = "gpu" if standalone.has_gpu() else "cpu"
    assert printed(*arguments).startswith(f"settings: --config eval/{machine}, as this machine has ")
    assert "settings: " not in printed(*arguments, "--config", "eval/cpu")
    assert "without it, eval/gpu where this machine has a GPU, else eval/cpu" in " ".join(printed("--help").split())


def test_the_published_benchmarks_plan() -> None:
    names = "aime24,math500,gpqa_diamond,mmlu_pro"
    made = told(config=str(RECIPES / "eval" / "gpu.yaml"), models=["a=org/a", "b=org/b"], benchmarks=names)
    steps = plan.make(made).steps
    assert [step.rows for step in steps[::2]] == [30 * 16, 500 * 4, 198 * 8, 12032]
    assert all(step.seconds for step in steps)


def test_the_job_says_what_is_wrong_in_a_line(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "jobs" / "eval.py"), "--models", "a=/absent", "--benchmarks", "tiny"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 2
    assert result.stderr.startswith("error: evaluation.models.0.model_source: there is no model folder '/absent'")
    assert list(tmp_path.iterdir()) == []
