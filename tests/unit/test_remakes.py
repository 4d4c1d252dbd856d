"""Which artifacts a change of the configuration remakes, and which texts it buys again: the whole table.

Each key of the configuration is changed once. The tables in `tests/remakes.py` say what each group of keys makes anew; a
new key must be put into one of them.
"""

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, create_model

from ray_distil.config import DistillConfig, InstructionsConfig, PackingConfig, TrainingConfig, load
from ray_distil.config.engine_config import BackendConfig, EndpointConfig
from ray_distil.config.evaluation_config import BenchmarkConfig
from ray_distil.config.models import resolve_models
from ray_distil.config.plan_config import PlanConfig
from ray_distil.runner.runs import Run
from ray_distil.runner.stage_settings import values_of
from ray_distil.stages import checkpoint, instructions, packed
from tests.remakes import (
    DRAWN_FROM,
    GENERATING,
    LONG2SHORT,
    PAGE,
    configuration,
    configurations,
    expected,
    made,
    of_responses,
    outcomes,
    page,
)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> DistillConfig:
    return configuration(tmp_path_factory.mktemp("made"))


def test_what_each_key_remakes(config: DistillConfig) -> None:
    found = outcomes(configurations(Path(config.run.storage_path)))
    assert found == {key: sorted(expected(key) or []) for key in found}
    assert len(found) > 150
    fields = {"endpoint": EndpointConfig, "backend": BackendConfig}
    by_others = {f"{part}.{kind}.{key}" for part in GENERATING for kind in fields for key in fields[kind].model_fields}
    assert by_others <= found.keys()
    assert {f"plan.{key}" for key in PlanConfig.model_fields} - found.keys() == {
        "plan.direct",
        "plan.slow",
        "plan.long2short",
    }


def test_the_page_for_readers_is_that_of_the_code() -> None:
    assert PAGE.read_text() == page(), "python -m tests.remakes writes it"


def test_how_a_step_is_split_remakes_nothing(config: DistillConfig) -> None:
    split = {"num_workers": 1, "gradient_accumulation_steps": 2}
    assert {name: getattr(config.training, name) for name in split} == {
        "num_workers": 2,
        "gradient_accumulation_steps": 1,
    }
    training = config.training.model_copy(update=split)
    assert made(config.model_copy(update={"training": training})) == made(config)


@pytest.mark.parametrize(
    ("teacher", "kwargs"), [("direct", "gpu_memory_utilization: 0.5"), ("slow", "max_num_seqs: 3, enforce_eager: true")]
)
def test_how_fast_an_engine_is_changes_no_text(config: DistillConfig, teacher: str, kwargs: str) -> None:
    other = config.model_copy(deep=True)
    engine = getattr(other.teachers, teacher).engine
    for pair in kwargs.split(", "):
        name, _, value = pair.partition(": ")
        engine.engine_kwargs[name] = json.loads(value)
    assert made(other) == made(config)


def test_the_spelling_of_a_path_remakes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "p.jsonl").write_text('{"instruction": "2 + 3?"}\n')
    monkeypatch.chdir(tmp_path)
    spelt = [load(None, [f"instructions.path={path}"]) for path in ("p.jsonl", "./p.jsonl", tmp_path / "p.jsonl")]
    assert len({json.dumps(instructions.settings_of(one).values, sort_keys=True) for one in spelt}) == 1


def test_what_an_endpoint_is_asked_changes_its_texts(tmp_path: Path) -> None:
    def marks(params: str, base_url: str = "http://x/v1") -> dict[str, tuple[str, str]]:
        endpoint = f"{{base_url: {base_url}, model: m, api_key_env: null, request_params: {params}}}"
        config = load(
            None, [f"run.storage_path={tmp_path}", "teachers.slow.engine=null", f"teachers.slow.endpoint={endpoint}"]
        )
        return of_responses(Run(config, resolve_models(config))).marks

    assert marks("{}") == marks("{}", "['http://x/v1', 'http://y/v1']")
    assert marks("{}") == marks("{}", "http://y/v1") == marks("{stream_options: null}")
    assert marks("{}")["slow"] != marks("{enable_thinking: false}")["slow"]
    assert marks("{}")["direct"] == marks("{enable_thinking: false}")["direct"]


def test_a_prompts_text_is_in_its_mark(config: DistillConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    before = made(config)
    monkeypatch.setattr("ray_distil.chat.prompts.LONG2SHORT", "Shorten this.")
    after = made(config)
    assert [name for name in before if after[name] != before[name]] == ["rewrites", "texts of rewrites"]


OF_MATH = ["eval/slow/math500", "eval/fast/math500"]
TEXTS_OF_MATH = [f"texts of {name}" for name in OF_MATH]
BENCHMARK_REMAKES = {
    "prompt": ["benchmarks/math500", *OF_MATH, *TEXTS_OF_MATH],
    **{key: ["benchmarks/math500"] for key in ("columns", "keep", "answer_after", "no_choice", "limit")},
    "answer": ["benchmarks/math500", *OF_MATH],
    "num_samples": OF_MATH,
    "scorer": OF_MATH,
    "sampling_params": [*OF_MATH, *TEXTS_OF_MATH],
    # What the path holds is an input of benchmarks/math500, whatever it is called.
    **{key: [] for key in ("path", "dataset_name", "dataset_split", "num_problems", "published")},
}
OF_A_BENCHMARK: dict[str, Any] = {
    "prompt": "Well: {instruction}", "columns": {"instruction": "problem", "answer": "solution"}, "keep": {"a": "b"},
    "answer_after": "=", "no_choice": "-", "limit": 7, "answer": "integer", "num_samples": 9, "path": "m.jsonl",
    "sampling_params": {"temperature": 0.1}, "dataset_name": "x", "dataset_split": "x", "num_problems": 3, "published": [],
    "scorer": "examples.my_scorers:within_a_percent",
}  # fmt: skip


def test_what_each_key_of_a_benchmark_remakes(config: DistillConfig) -> None:
    """Nothing of another benchmark, and nothing of the run's own problems."""

    def with_math(**changes: Any) -> dict[str, Any]:
        given = json.dumps(["held-out", "aime24", {"name": "math500"} | changes])
        return made(
            load(
                None,
                [
                    f"run.storage_path={config.run.storage_path}",
                    LONG2SHORT,
                    *DRAWN_FROM,
                    f"evaluation.benchmarks={given}",
                    "instructions.decontamination.benchmarks=[]",  # see test_contamination.py
                ],
            )
        )

    before, found = with_math(), {}
    of_tiny = {name: values for name, values in made(config).items() if name != "instructions"}
    assert before.items() > of_tiny.items(), "benchmarks leave all else as it is"
    assert BENCHMARK_REMAKES.keys() == BenchmarkConfig.model_fields.keys() - {"name"} == OF_A_BENCHMARK.keys()
    for key, value in OF_A_BENCHMARK.items():
        after = with_math(**{key: value})
        found[key] = sorted(name for name in before if after[name] != before[name])
    assert found == {key: sorted(names) for key, names in BENCHMARK_REMAKES.items()}


def test_another_scorer_buys_no_text(config: DistillConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    before = made(config)
    monkeypatch.setattr("ray_distil.judge.scorers.VERSION", 99)
    after = made(config)
    assert [name for name in before if after[name] != before[name]] == ["eval/slow/tiny", "eval/fast/tiny"]


def test_the_suffix_is_no_part_of_a_benchmark(config: DistillConfig) -> None:
    given = [f"run.storage_path={config.run.storage_path}", LONG2SHORT, *DRAWN_FROM, "evaluation.benchmarks=[aime24]"]
    one, other = made(load(None, given)), made(load(None, [*given, "instructions.suffix=Hm."]))
    assert {name for name in one if "aime24" in name and one[name] != other[name]} == set()


@pytest.mark.parametrize(("section", "keys"), [
    (PackingConfig, packed.FIRST_KEYS), (TrainingConfig, checkpoint.FIRST_KEYS), (InstructionsConfig, instructions.FIRST_KEYS),
])  # fmt: skip
def test_a_key_that_comes_later_counts_where_it_is_set(section: type[BaseModel], keys: tuple[str, ...]) -> None:
    later = create_model("Later", __base__=section, shape=(list[int], [1, 2]))
    required = {"student": "s"} if "student" in section.model_fields else {}
    before = values_of(section(**required), keys)
    assert set(keys) <= set(before)
    assert values_of(later(**required), keys) == before
    assert values_of(later(**required, shape=[3]), keys) == before | {"shape": [3]}
