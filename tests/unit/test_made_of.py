"""Which artifacts a change of the configuration remakes, and which texts it buys again: the whole table.

Each key of the configuration is changed once. REMAKES says what each group of keys makes anew; a key that is in no group
must remake nothing, and a new key must be put into the table.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from ray_distil.config import DistillConfig, load
from ray_distil.config.engine_config import EndpointConfig, SamplingParams
from ray_distil.config.evaluation_config import BenchmarkConfig
from ray_distil.config.models import resolve_models
from ray_distil.config.training_config import LoraConfig
from ray_distil.run import made_of
from ray_distil.run.runs import Run

DRAWN = [name for name in SamplingParams.model_fields if name != "max_tokens"]
# Artifacts whose own settings a key changes; those behind them are remade too. "texts of": whose texts are bought again.
REMAKES: dict[str, list[str]] = {
    "run.seed": ["instructions", "responses", "rewrites", "checkpoint", "eval/slow/tiny", "eval/fast/tiny",
                 "texts of direct", "texts of slow", "texts of rewrites", "texts of eval/slow/tiny", "texts of eval/fast/tiny"],
    "instructions.columns": ["instructions"],
    "instructions.dataset_split": ["instructions"],
    "instructions.dataset_name": ["instructions"],
    "instructions.drop_system": ["instructions"],
    "instructions.num_train": ["instructions"],
    "instructions.eval_split": ["instructions"],
    "instructions.num_eval": ["instructions"],
    "instructions.suffix": ["responses", "sft_examples", "eval/slow/tiny", "eval/fast/tiny", "texts of direct", "texts of slow",
                            "texts of eval/slow/tiny", "texts of eval/fast/tiny"],
    "teachers.direct_thoughts": ["sft_examples"],
    "teachers.direct.system_prompt": ["responses", "texts of direct"],
    **{f"teachers.direct.sampling_params.{name}": ["responses", "texts of direct"] for name in DRAWN},
    "teachers.direct.sampling_params.max_tokens": ["responses"],
    "teachers.direct.num_samples": ["responses"],
    "teachers.direct.fraction": ["responses"],
    "teachers.direct.engine.model_source": ["responses", "texts of direct"],
    "teachers.direct.engine.engine_kwargs": ["responses", "texts of direct"],
    "teachers.direct.engine.chat_template_kwargs": ["responses", "texts of direct"],
    "teachers.slow.system_prompt": ["responses", "texts of slow"],
    **{f"teachers.slow.sampling_params.{name}": ["responses", "texts of slow"] for name in DRAWN},
    "teachers.slow.sampling_params.max_tokens": ["responses"],
    "teachers.slow.num_samples": ["responses"],
    "teachers.slow.fraction": ["responses"],
    "teachers.slow.engine.model_source": ["responses", "texts of slow"],
    "teachers.slow.engine.engine_kwargs": ["responses", "texts of slow"],
    "teachers.slow.engine.chat_template_kwargs": ["responses", "texts of slow"],
    "long2short.system_prompt": ["rewrites", "texts of rewrites"],
    **{f"long2short.sampling_params.{name}": ["rewrites", "texts of rewrites"] for name in DRAWN},
    "long2short.sampling_params.max_tokens": ["rewrites"],
    "long2short.engine.model_source": ["rewrites", "texts of rewrites"],
    "long2short.engine.engine_kwargs": ["rewrites", "texts of rewrites"],
    "long2short.engine.chat_template_kwargs": ["rewrites", "texts of rewrites"],
    **{f"gates.{name}": ["rewrites", "sft_examples"] for name in ("complete", "answered", "correct", "reasoned", "shorter")},
    "curation.candidates": ["sft_examples"],
    **{f"packing.{name}": ["packed"] for name in ("enabled", "max_length", "template")},
    "training.student": ["packed", "checkpoint"],
    "training.system_prompt": ["packed", "eval/fast/tiny", "texts of eval/fast/tiny"],
    "training.chat_template_kwargs": ["packed", "eval/fast/tiny", "texts of eval/fast/tiny"],
    **{f"training.{name}": ["checkpoint"] for name in (
        "num_workers", "num_train_epochs", "max_steps", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps",
        "learning_rate", "weight_decay", "adam_betas", "warmup_ratio", "lr_scheduler_type", "gradient_clipping", "eval_fraction",
        "lora", "seed", "bf16")},
    **{f"evaluation.{name}": ["eval/slow/tiny", "eval/fast/tiny", "texts of eval/slow/tiny", "texts of eval/fast/tiny"] for name in (
        "benchmark", *(f"sampling_params.{name}" for name in DRAWN), "engine.engine_kwargs",
        "engine.chat_template_kwargs")},
    "evaluation.sampling_params.max_tokens": ["eval/slow/tiny", "eval/fast/tiny"],
    "evaluation.num_samples": ["eval/slow/tiny", "eval/fast/tiny"],
}  # fmt: skip
# Keys whose other value says where rows come from or lie, and not what they are. A problem's file: its content counts.
NOTHING = {
    "run": ["name", "storage_path", "parallel_engines", "max_reject_fraction", "stall_minutes", "take_over", "max_shard_mb", "remake", "retry_failed"],
    "ray": ["num_cpus"],
    "training": ["resources_per_worker", "cpus_per_worker", "logging_steps", "save_steps", "save_minutes", "keep_states",
                 "max_failures", "eval_steps", "tensorboard", "use_gpu", "zero_stage", "offload_optimizer",
                 "gradient_checkpointing", "torch_compile", "attn_implementation"],
    "evaluation": ["baseline", "engine.model_source", "num_timed"],
    "engine": ["concurrency", "batch_size", "max_concurrent_batches", "num_cpus", "num_gpus", "accelerator_type",
               "resources", "placement_group_strategy", "env_vars", "log_engine_metrics"],
}  # fmt: skip
# Told by tests of their own: what is asked by an endpoint, or was answered already; a date (chat templates that write it).
ELSEWHERE = ("run.date", "instructions.path", "instructions.eval_path", "endpoint", "responses", "long2short.enabled",
             "teachers.direct.columns", "teachers.slow.columns", "dataset_split", "dataset_name", "drop_system", "evaluation.models", "evaluation.benchmarks",
             "plan.")  # fmt: skip
OTHERS: dict[str, Any] = {
    "columns": {"answer": "a"}, "engine_kwargs": {"max_model_len": 512, "dtype": "bfloat16"}, "date": "2026-01-02",
    "chat_template_kwargs": {"enable_thinking": False}, "resources": {"x": 1}, "resources_per_worker": {"x": 1},
    "env_vars": {"A": "1"}, "concurrency": (2, 3), "adam_betas": (0.5, 0.6), "model_source": "tiny:student-base",
    "student": "tiny:teacher-v3", "lr_scheduler_type": "linear", "attn_implementation": "eager",
    "placement_group_strategy": "SPREAD", "baseline": "base", "direct_thoughts": "reject", "max_length": 77,
    "storage_path": "elsewhere", "template": "x", "path": "p.jsonl", "zero_stage": 1,
    "lora": LoraConfig(), "candidates": ["direct"], "max_steps": 7,
}  # fmt: skip


# At temperature 0, neither top_p nor the seed changes a text.
DRAWN_FROM = [
    f"{section}.sampling_params.temperature=0.6"
    for section in ("teachers.direct", "teachers.slow", "long2short", "evaluation")
]
LONG2SHORT = "long2short.engine={model_source: tiny:teacher-v3}"


def keys_of(section: BaseModel, at: str = "") -> list[str]:
    """The dotted names of all values of a configuration; sections that are absent are one value."""
    found = []
    for name in type(section).model_fields:
        value = getattr(section, name)
        key = f"{at}{name}"
        found += keys_of(value, f"{key}.") if isinstance(value, BaseModel) else [key]
    return found


def another(key: str, value: Any) -> Any:
    name = key.rpartition(".")[2]
    if name in OTHERS:
        return OTHERS[name]
    if isinstance(value, bool) or name == "log_engine_metrics":
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, float):
        return value * 0.5 if value else 0.5
    return "other" if value is None or isinstance(value, str) else pytest.fail(f"no other value for {key}")


def changed(config: DistillConfig, key: str) -> DistillConfig:
    """The configuration with another value of one key; what depends on several keys is not checked again."""
    copy = config.model_copy(deep=True)
    *sections, name = key.split(".")
    section: Any = copy
    for part in sections:
        section = getattr(section, part)
    value = another(key, getattr(section, name))
    if name in ("save_steps", "num_cpus") and value == "other":
        value = 7
    if value == "other" and getattr(section, name) is None and name in ("num_train", "stall_minutes"):
        value = 7
    object.__setattr__(section, name, value)
    return copy


def made(config: DistillConfig) -> dict[str, Any]:
    """What each artifact is made of, and what each part's texts are asked with."""
    run = Run(config, resolve_models(config))
    student, training = run.models["training.student"], config.training
    responses = made_of.of_responses(run)
    long2short = config.long2short
    assert long2short.engine is not None
    rewrites = made_of.of_rewrites(run, long2short, run.models["long2short"])
    of = {
        "instructions": made_of.of_instructions(config),
        "responses": responses,
        "rewrites": rewrites,
        "sft_examples": made_of.of_examples(config),
        "packed": made_of.of_packed(run, student, training),
        "checkpoint": made_of.of_checkpoint(run, student, training),
    }
    for benchmark in config.evaluation.benchmarks:
        folder = "tiny" if benchmark.name == "held-out" else benchmark.name
        if benchmark.name != "held-out":
            of[f"benchmarks/{folder}"] = made_of.of_benchmark(benchmark)
        for name, mark in (("slow", "its weights"), ("fast", "its training")):
            model = next(model for model in config.evaluation.models if model.name == name)
            of[f"eval/{name}/{folder}"] = made_of.of_evaluation(
                run, model, benchmark, run.models["teachers.slow"], mark
            )
    texts = {f"texts of {teacher}": marks[0] for teacher, marks in responses.asked.items()}
    texts |= {f"texts of {name}": of[name].asked[""][0] for name in of if name.startswith(("rewrites", "eval/"))}
    return {name: json.dumps(dataclasses.asdict(one)["settings"], sort_keys=True) for name, one in of.items()} | texts


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> DistillConfig:
    folder = tmp_path_factory.mktemp("made")
    return load(None, [f"run.storage_path={folder}", LONG2SHORT, *DRAWN_FROM])


def expected(key: str) -> list[str] | None:
    """What a key remakes by the table; None: it is told elsewhere."""
    if key in REMAKES:
        return REMAKES[key]
    if any(key.startswith(part) or key.endswith(f".{part}") for part in ELSEWHERE):
        return None
    section, _, rest = key.partition(".")
    if rest in NOTHING.get(section, []) or key.rpartition(".engine.")[2] in NOTHING["engine"]:
        return []
    return pytest.fail(f"{key} is not in the table: what does it remake?")


def test_what_each_key_remakes(config: DistillConfig) -> None:
    before = made(config)
    found, table = {}, {}
    for key in keys_of(config):
        wanted = expected(key)
        if wanted is not None:
            after = made(changed(config, key))
            found[key] = sorted(name for name in before if after[name] != before[name])
            table[key] = sorted(wanted)
    assert found == table
    assert len(table) > 100


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
    assert len({json.dumps(made_of.of_instructions(one).settings, sort_keys=True) for one in spelt}) == 1


def test_what_an_endpoint_is_asked_changes_its_texts(tmp_path: Path) -> None:
    def marks(params: str, base_url: str = "http://x/v1") -> dict[str, tuple[str, str]]:
        endpoint = f"{{base_url: {base_url}, model: m, api_key_env: null, request_params: {params}}}"
        config = load(
            None, [f"run.storage_path={tmp_path}", "teachers.slow.engine=null", f"teachers.slow.endpoint={endpoint}"]
        )
        return made_of.of_responses(Run(config, resolve_models(config))).asked

    assert marks("{}") == marks("{}", "['http://x/v1', 'http://y/v1']")
    assert marks("{}") == marks("{}", "http://y/v1") == marks("{stream_options: null}")
    assert marks("{}")["slow"] != marks("{enable_thinking: false}")["slow"]
    assert marks("{}")["direct"] == marks("{enable_thinking: false}")["direct"]


OF_AN_ENDPOINT: dict[str, Any] = {
    "base_url": "http://y/v1", "api_key_env": "KEY", "max_concurrency": 3, "requests_per_minute": 9, "tokens_per_minute": 9,
    "max_retries": 3, "timeout_s": 3, "total_timeout_s": 9, "stream": True, "num_cpus": 1,
    "model": "another", "request_params": {"enable_thinking": False},
}  # fmt: skip
BUYS_TEXTS = {"model", "request_params"}  # the others say where it is, and how fast it is asked


def test_what_each_key_of_an_endpoint_buys_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEY", "secret")

    def mark(**changes: Any) -> tuple[str, str]:
        endpoint = json.dumps({"base_url": "http://x/v1", "model": "m", "api_key_env": None} | changes)
        given = ["teachers.slow.engine=null", f"teachers.slow.endpoint={endpoint}", f"run.storage_path={tmp_path}"]
        config = load(None, given)
        return made_of.of_responses(Run(config, resolve_models(config))).asked["slow"]

    assert OF_AN_ENDPOINT.keys() == EndpointConfig.model_fields.keys()
    before = mark()
    assert {key for key, value in OF_AN_ENDPOINT.items() if mark(**{key: value}) != before} == BUYS_TEXTS


def test_a_prompts_text_is_in_its_mark(config: DistillConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    before = made(config)
    monkeypatch.setattr("ray_distil.texts.prompts.LONG2SHORT", "Shorten this.")
    after = made(config)
    assert [name for name in before if after[name] != before[name]] == ["rewrites", "texts of rewrites"]


OF_MATH = ["eval/slow/math500", "eval/fast/math500"]
TEXTS_OF_MATH = [f"texts of {name}" for name in OF_MATH]
BENCHMARK_REMAKES = {
    "prompt": ["benchmarks/math500", *OF_MATH, *TEXTS_OF_MATH],
    **{key: ["benchmarks/math500"] for key in ("columns", "keep", "answer_after", "no_choice", "limit")},
    "answer": ["benchmarks/math500", *OF_MATH],
    "num_samples": OF_MATH,
    "sampling_params": [*OF_MATH, *TEXTS_OF_MATH],
    # What the path holds is an input of benchmarks/math500, whatever it is called.
    **{key: [] for key in ("path", "dataset_name", "dataset_split", "num_problems", "published")},
}
OF_A_BENCHMARK: dict[str, Any] = {
    "prompt": "Well: {instruction}", "columns": {"instruction": "problem", "answer": "solution"}, "keep": {"a": "b"},
    "answer_after": "=", "no_choice": "-", "limit": 7, "answer": "integer", "num_samples": 9, "path": "m.jsonl",
    "sampling_params": {"temperature": 0.1}, "dataset_name": "x", "dataset_split": "x", "num_problems": 3, "published": [],
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
                ],
            )
        )

    before, found = with_math(), {}
    assert before.items() > made(config).items(), "benchmarks leave all else as it is"
    assert BENCHMARK_REMAKES.keys() == BenchmarkConfig.model_fields.keys() - {"name"} == OF_A_BENCHMARK.keys()
    for key, value in OF_A_BENCHMARK.items():
        after = with_math(**{key: value})
        found[key] = sorted(name for name in before if after[name] != before[name])
    assert found == {key: sorted(names) for key, names in BENCHMARK_REMAKES.items()}


def test_another_scorer_buys_no_text(config: DistillConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    before = made(config)
    monkeypatch.setattr("ray_distil.rows.scorers.VERSION", 99)
    after = made(config)
    assert [name for name in before if after[name] != before[name]] == ["eval/slow/tiny", "eval/fast/tiny"]


def test_the_suffix_is_no_part_of_a_benchmark(config: DistillConfig) -> None:
    given = [f"run.storage_path={config.run.storage_path}", LONG2SHORT, *DRAWN_FROM, "evaluation.benchmarks=[aime24]"]
    one, other = made(load(None, given)), made(load(None, [*given, "instructions.suffix=Hm."]))
    assert {name for name in one if "aime24" in name and one[name] != other[name]} == set()
