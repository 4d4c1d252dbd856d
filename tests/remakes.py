"""What a change of each key of the configuration, and of each engine argument of vLLM, makes anew.

    python -m tests.remakes      writes docs/remakes.md

Each key is changed once, and what each artifact is made of is compared. The table REMAKES says what is wanted;
`tests/unit/test_remakes.py` compares the two.
"""

import dataclasses
import json
import re
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from ray_distil.config import DistillConfig, load
from ray_distil.config.curation_config import CurationConfig
from ray_distil.config.engine_config import SamplingParams
from ray_distil.config.instructions_config import ProblemSource
from ray_distil.config.models import resolve_models
from ray_distil.config.plan_config import Expected
from ray_distil.config.training_config import LoraConfig
from ray_distil.generate import generators
from ray_distil.generate.engine_arguments import NAMES, SILENT, of_texts
from ray_distil.runner.runs import Run
from ray_distil.runner.stage_settings import StageSettings
from ray_distil.stages import benchmarks, checkpoint, eval, instructions, packed, responses, rewrites, sft_examples
from ray_distil.store.schemas import CHAIN

ORDER = (*CHAIN, "eval")
PAGE = Path(__file__).resolve().parents[1] / "docs" / "remakes.md"
HEAD = """# What a change remakes

A finished run whose configuration changes makes anew what depends on the change, and nothing else. Texts that were paid
for are used again where they would be the same. If texts, training states or a student would be lost, the command ends
with one line that says what it would cost; `--remake` agrees to it.

This page is made by `python -m tests.remakes`: each key is changed once, and what each artifact is made of is compared.
What is made of a remade artifact follows only where its rows have changed. "Texts of" names the models that are asked
again. `eval` stands for the evaluation of each model. Of `training`'s three keys of the batch only the product counts:
workers x micro-batch x micro-steps.

"""
BEHIND = """
## Engine arguments of vLLM

Of `engine_kwargs`, these arguments change no text: they say how a model is loaded, divided, scheduled and watched.

| vLLM's group | arguments |
|---|---|
"""
COUNTS = """
With any of these, the texts are asked for again:

"""

NUMBERS = ("save_steps", "num_cpus", "requests_per_minute", "tokens_per_minute", "num_instructions", "tokens_per_s",
           "usd_per_gpu_hour", "training_tokens_per_s", "student_parameters")  # fmt: skip
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
    "instructions.sources": ["instructions"],
    "instructions.eval_split": ["instructions"],
    "instructions.num_eval": ["instructions"],
    "instructions.near_duplicates": ["instructions"],
    **{f"instructions.decontamination.{name}": ["instructions"] for name in ("coverage", "benchmarks", "ignore_numbers")},
    "instructions.suffix": ["responses", "sft_examples", "eval/slow/tiny", "eval/fast/tiny", "texts of direct", "texts of slow",
                            "texts of eval/slow/tiny", "texts of eval/fast/tiny"],
    "teachers.direct_thoughts": ["sft_examples"],
    "teachers.direct.system_prompt": ["responses", "texts of direct"],
    **{f"teachers.direct.sampling_params.{name}": ["responses", "texts of direct"] for name in DRAWN},
    "teachers.direct.sampling_params.max_tokens": ["responses"],
    "teachers.direct.num_samples": ["responses"],
    "teachers.direct.fraction": ["responses"],
    "teachers.direct.pass_rate": ["responses"],
    "teachers.direct.engine.model_source": ["responses", "texts of direct"],
    "teachers.direct.engine.engine_kwargs": ["responses", "texts of direct"],
    "teachers.direct.engine.chat_template_kwargs": ["responses", "texts of direct"],
    "teachers.slow.system_prompt": ["responses", "texts of slow"],
    **{f"teachers.slow.sampling_params.{name}": ["responses", "texts of slow"] for name in DRAWN},
    "teachers.slow.sampling_params.max_tokens": ["responses"],
    "teachers.slow.num_samples": ["responses"],
    "teachers.slow.fraction": ["responses"],
    "teachers.slow.pass_rate": ["responses"],
    "teachers.slow.engine.model_source": ["responses", "texts of slow"],
    "teachers.slow.engine.engine_kwargs": ["responses", "texts of slow"],
    "teachers.slow.engine.chat_template_kwargs": ["responses", "texts of slow"],
    # Of an endpoint, and of an engine of a user's own: the rest says where it is, and how it is asked.
    **{f"{section}.{key}": [artifact, f"texts of {part}"]
       for section, artifact, part in (("teachers.direct", "responses", "direct"), ("teachers.slow", "responses", "slow"),
                                       ("long2short", "rewrites", "rewrites"))
       for key in ("endpoint.model", "endpoint.request_params", "backend.build", "backend.model", "backend.kwargs")},
    "long2short.system_prompt": ["rewrites", "texts of rewrites"],
    **{f"long2short.sampling_params.{name}": ["rewrites", "texts of rewrites"] for name in DRAWN},
    "long2short.sampling_params.max_tokens": ["rewrites"],
    "long2short.engine.model_source": ["rewrites", "texts of rewrites"],
    "long2short.engine.engine_kwargs": ["rewrites", "texts of rewrites"],
    "long2short.engine.chat_template_kwargs": ["rewrites", "texts of rewrites"],
    **{f"gates.{name}": ["rewrites", "sft_examples"] for name in ("complete", "answered", "correct", "reasoned", "shorter", "custom")},
    "answers.judge": ["rewrites", "sft_examples", "eval/slow/tiny", "eval/fast/tiny"],
    **{f"curation.{name}": ["sft_examples"] for name in CurationConfig.model_fields},
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
    "instructions": ["license"],
    "teachers": ["direct.license", "slow.license"],
    "long2short": ["license"],
    "run": ["name", "storage_path", "parallel_engines", "max_reject_fraction", "stall_minutes", "take_over", "max_shard_mb", "reuse", "remake", "retry_failed"],
    "ray": ["num_cpus"],
    "training": ["resources_per_worker", "cpus_per_worker", "logging_steps", "save_steps", "save_minutes", "keep_states",
                 "max_failures", "eval_steps", "tensorboard", "use_gpu", "zero_stage", "offload_optimizer",
                 "gradient_checkpointing", "torch_compile", "attn_implementation", "student_license"],
    "evaluation": ["baseline", "engine.model_source", "num_timed"],
    "engine": ["concurrency", "batch_size", "max_concurrent_batches", "num_cpus", "num_gpus", "accelerator_type",
               "resources", "placement_group_strategy", "env_vars", "log_engine_metrics"],
    "endpoint": ["base_url", "api_key_env", "max_concurrency", "requests_per_minute", "tokens_per_minute", "max_retries",
                 "timeout_s", "total_timeout_s", "stream", "num_cpus"],
    "backend": ["batch_size"],
}  # fmt: skip
# An engine, endpoint or backend that a configuration does not have is of another one (`configurations`). Told by tests of
# their own: what was answered already; a date (chat templates that write it).
ELSEWHERE = ("run.date", "instructions.path", "instructions.eval_path", "engine", "endpoint", "backend", "responses", "long2short.enabled",
             "teachers.direct.columns", "teachers.slow.columns", "dataset_split", "dataset_name", "drop_system", "evaluation.models", "evaluation.benchmarks")  # fmt: skip
OTHERS: dict[str, Any] = {
    "usd_per_million_tokens": (1.0, 2.0), "request_params": {"enable_thinking": False}, "kwargs": {"size": 2},
    "build": "examples.my_judges:rounded", "base_url": "http://y/v1", "api_key_env": "KEY", "evaluation": {"*": Expected()},
    "columns": {"answer": "a"}, "engine_kwargs": {"max_model_len": 512, "dtype": "bfloat16"}, "date": "2026-01-02",
    "chat_template_kwargs": {"enable_thinking": False}, "resources": {"x": 1}, "resources_per_worker": {"x": 1},
    "env_vars": {"A": "1"}, "concurrency": (2, 3), "adam_betas": (0.5, 0.6), "model_source": "tiny:student-base",
    "student": "tiny:teacher-v3", "lr_scheduler_type": "linear", "attn_implementation": "eager",
    "placement_group_strategy": "SPREAD", "baseline": "base", "direct_thoughts": "reject", "max_length": 77,
    "storage_path": "elsewhere", "template": "x", "path": "p.jsonl", "zero_stage": 1,
    "lora": LoraConfig(), "custom": ["examples.my_gates:polite"], "judge": "examples.my_judges:rounded", "candidates": ["direct"], "max_steps": 7,
    "reuse": ["elsewhere"], "sources": [ProblemSource(path="tiny", max_problems=70)], "benchmarks": ["tiny"], "choose": "shortest", "pass_rate": (0.1, 0.9),
}  # fmt: skip


# At temperature 0, neither top_p nor the seed changes a text.
DRAWN_FROM = [
    f"{section}.sampling_params.temperature=0.6"
    for section in ("teachers.direct", "teachers.slow", "long2short", "evaluation")
]
GENERATING = ("teachers.direct", "teachers.slow", "long2short")
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
    if name in NUMBERS and value == "other":
        value = 7
    if (
        value == "other"
        and getattr(section, name) is None
        and (name in ("num_train", "stall_minutes") or key == "curation.max_tokens")
    ):
        value = 7
    object.__setattr__(section, name, value)
    return copy


def made(config: DistillConfig) -> dict[str, Any]:
    """What each artifact is made of, and what each part's texts are asked with."""
    run = Run(config, resolve_models(config))
    student, training = run.models["training.student"], config.training
    of_teachers = of_responses(run)
    rewriter = generators.possible_rewriter(config, run.models, run.date)
    assert rewriter is not None
    of = {
        "instructions": instructions.settings_of(config),
        "responses": of_teachers,
        "rewrites": rewrites.settings_of(config, rewriter),
        "sft_examples": sft_examples.settings_of(config),
        "packed": packed.settings_of(run, student, training),
        "checkpoint": checkpoint.settings_of(run, student, training),
    }
    compared = next(source for key, source in run.models.items() if key.startswith("evaluation.models."))
    for benchmark in config.evaluation.benchmarks:
        folder = "tiny" if benchmark.name == "held-out" else benchmark.name
        if benchmark.name != "held-out":
            of[f"benchmarks/{folder}"] = benchmarks.settings_of(benchmark)
        for name, mark in (("slow", "its weights"), ("fast", "its training")):
            model = next(model for model in config.evaluation.models if model.name == name)
            generator = eval.generator_of(run, model, benchmark, compared)
            of[f"eval/{name}/{folder}"] = eval.settings_of(config, name, benchmark, generator, mark)
    texts = {f"texts of {teacher}": marks[0] for teacher, marks in of_teachers.marks.items()}
    texts |= {f"texts of {name}": of[name].marks[""][0] for name in of if name.startswith(("rewrites", "eval/"))}
    return {name: json.dumps(one.values, sort_keys=True) for name, one in of.items()} | texts


def of_responses(run: Run) -> StageSettings:
    return responses.settings_of(run.config, generators.teachers(run.config, run.models, run.date))


def configuration(folder: Path) -> DistillConfig:
    """The tiny recipe with sampling and a rewriter of its own, whose keys are changed."""
    return load(None, [f"run.storage_path={folder}", LONG2SHORT, *DRAWN_FROM])


def configurations(folder: Path) -> list[DistillConfig]:
    """`configuration`, and two in which each section generates by an endpoint once, and once by a user's own engine."""
    settings = [f"run.storage_path={folder}", *DRAWN_FROM]
    endpoint = "endpoint={base_url: 'http://x/v1', model: m, api_key_env: null}"
    backend = "backend={build: 'examples.my_engine:build', model: m}"
    by_other_engines = [
        load(None, [*settings, *(f"{section}.engine=null" for section in GENERATING), *by])
        for by in (
            [f"{section}.{kind}" for section, kind in zip(GENERATING, kinds, strict=True)]
            for kinds in ((endpoint, backend, endpoint), (backend, endpoint, backend))
        )
    ]
    return [configuration(folder), *by_other_engines]


def expected(key: str) -> list[str] | None:
    """What a key remakes by the table; None: it is told elsewhere."""
    if key in REMAKES:
        return REMAKES[key]
    if any(key.startswith(part) or key.endswith(f".{part}") for part in ELSEWHERE):
        return None
    section, _, rest = key.partition(".")
    kind, _, name = key.removeprefix(f"{section}.").rpartition(".")
    if section == "plan" or rest in NOTHING.get(section, []) or name in NOTHING.get(kind.rpartition(".")[2], []):
        return []
    return pytest.fail(f"{key} is not in the table: what does it remake?")


def outcomes(configs: list[DistillConfig]) -> dict[str, list[str]]:
    """Key -> the artifacts whose settings it changes, and the models whose texts are bought again. All keys of the table.

    Each key is changed in the first configuration that has it.
    """
    found = dict[str, list[str]]()
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv(OTHERS["api_key_env"], "secret")
        for config in configs:
            before = made(config)
            for key in keys_of(config):
                if key not in found and expected(key) is not None:
                    after = made(changed(config, key))
                    found[key] = sorted(name for name in before if after[name] != before[name])
    return found


def page() -> str:
    """The page for readers, in Markdown."""
    with tempfile.TemporaryDirectory() as folder:
        found = outcomes(configurations(Path(folder)))
    rows: dict[tuple[str, str], list[str]] = {}
    for key, names in found.items():
        texts = [name.removeprefix("texts of ") for name in names if name.startswith("texts of ")]
        artifacts = sorted((name for name in names if not name.startswith("texts of ")), key=_place)
        rows.setdefault((_told(artifacts), _told(texts)), []).append(key)
    lines = ["| made anew | texts of | keys |", "|---|---|---|"]
    for (artifacts, texts), keys in sorted(rows.items(), key=lambda row: _place(row[0][0])):
        lines.append(f"| {artifacts} | {texts} | {', '.join(_together(keys))} |")
    silent = [f"| {group} | {', '.join(f'`{name}`' for name in sorted(names))} |" for group, names in SILENT.items()]
    rest = sorted(name for name in vllm_arguments() - NAMES if of_texts({name: "dummy"}))
    counted = ", ".join(f"`{name}`{' (only dummy)' if name == 'load_format' else ''}" for name in rest)
    return HEAD + "\n".join(lines) + "\n" + BEHIND + "\n".join(silent) + "\n" + COUNTS + counted + ".\n"


def vllm_arguments() -> set[str]:
    """The engine arguments of the installed vLLM."""
    from vllm.engine.arg_utils import EngineArgs

    return {field.name for field in dataclasses.fields(EngineArgs)} - {"model", "seed"}


def _place(artifacts: str) -> int:
    """Where the first artifact stands in a run."""
    first = re.split("[,/ ]", artifacts)[0]
    return ORDER.index(first) if first in ORDER else -1


def _told(names: Iterable[str]) -> str:
    short = dict.fromkeys("eval" if name.startswith("eval/") else name for name in names)
    if {"eval/fast/tiny"} == {name for name in names if name.startswith("eval/")}:
        short = {("eval of the student" if name == "eval" else name): None for name in short}
    return ", ".join(short) or "nothing"


def _together(keys: list[str]) -> list[str]:
    """Keys of one section as `section.{a, b}`, and of several sections with the same names as `{one, two}.{a, b}`."""
    sections: dict[str, list[str]] = {}
    for key in keys:
        section, _, name = key.rpartition(".")
        sections.setdefault(section, []).append(name)
    alike: dict[str, list[str]] = {}
    for section, names in sections.items():
        alike.setdefault(_braced(names), []).append(section)
    return [f"`{_braced(names)}.{keys}`" for keys, names in alike.items()]


def _braced(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{{{', '.join(names)}}}"


if __name__ == "__main__":
    PAGE.write_text(page())
    print(PAGE)
