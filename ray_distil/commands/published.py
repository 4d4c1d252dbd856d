"""The recipe's own two configuration files, run as they were published (EasyDistill, DistilQwen2.5-0324).

    jobs/infer.py   cot_long2short_api   raw.json -> raw_simplified.json, through an endpoint
    jobs/train.py   kd_black_box_api     instruction and output -> a student

The files keep their keys. Each file is turned into a configuration of this project, whose stages work in a run folder
beside the output. DIFFERENCES lists where the commands differ from the original on purpose.
"""

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from ray_distil.commands import cli
from ray_distil.commands.export import write_records
from ray_distil.commands.pipeline import opened
from ray_distil.config import StagesConfig
from ray_distil.config.models import resolve_model
from ray_distil.config.section import Section, apply_overrides, read_mapping, validate
from ray_distil.errors import ConfigError, NoRowsLeft, UserError
from ray_distil.generate.replies import words_of
from ray_distil.judge.gates import GATES
from ray_distil.records import sources
from ray_distil.records.sources import Source
from ray_distil.runtime.progress import Display
from ray_distil.runtime.session import start_ray
from ray_distil.stages import make_checkpoint, make_packed, make_rewrites
from ray_distil.stages.responses import ImportedResponses
from ray_distil.stages.sft_examples import ImportedExamples, rewrite_example
from ray_distil.store.manifest import STUDENT

DIFFERENCES = {
    "cot_long2short_api": (
        "`prompt` is the system prompt, as the recipe has it; the original puts it into the user's turn",
        "problem, answer and reasoning are sent apart; the original sends the output as the answer",
        "`instruction` in the output is the row's own; the original writes the whole request there",
        "a reply that was cut at max_new_tokens is rejected; the original keeps it",
    ),
    "kd_black_box_api": (
        "the loss is on the output and its stop token; the original learns the prompt too",
        "an example longer than the student can read is rejected; the original cuts it at 1,024 tokens",
        "what the template puts behind the output's stop token is left out",
    ),
}
HELP = {
    "infer": """Stage 1 of the DistilQwen2.5-0324 recipe, from the recipe's own file: rewrites long reasoning into short reasoning.

ENDPOINT=https://api.deepseek.com/v1 TOKEN=... ray-distil infer --config=distilqwen2.5-0324_stage1.json

Keys of this project can be added to the command, e.g. long2short.endpoint.max_concurrency=8.
""",
    "train": """Stage 2 of the DistilQwen2.5-0324 recipe, from the recipe's own file: trains a student on `instruction` and `output`.

ray-distil train --config=distilqwen2.5-0324_stage2.json

Keys of this project can be added to the command, e.g. training.num_workers=8.
""",
}
PLACEHOLDERS = {"base_url": "ENDPOINT", "api_key": "TOKEN"}  # words of the published files


class _SimplifyDataset(Section):
    input_path: str = Field(description="records of `instruction` and `output`, a long reasoning; see sources.py")
    output_path: str = Field(description="JSON list of `instruction` and `output`, a short one")


class _Inference(Section):
    base_url: str = Field(description="OpenAI-compatible endpoint; the word ENDPOINT: see the environment")
    api_key: str = Field(description="key; the word TOKEN: see the environment")
    stream: bool = Field(False, description="replies come in parts")
    prompt: str = Field(min_length=1, description="system prompt")
    max_new_tokens: int = Field(1024, ge=1, description="tokens of a reply")


class SimplifyFile(Section):
    """The file of stage 1, as it was published."""

    job_type: Literal["cot_long2short_api"]
    dataset: _SimplifyDataset
    inference: _Inference


class _LabeledDataset(Section):
    labeled_path: str = Field(description="records of `instruction` and `output`; see sources.py")
    template: str = Field(description="Jinja file that renders message.content and message.output")
    seed: int = Field(42, ge=0, description="order of the examples")


class _Models(Section):
    student: str = Field(min_length=1, description="model folder, Hugging Face name, or tiny:NAME")


class _Training(Section):
    output_dir: str = Field(min_length=1, description="folder of the student")
    num_train_epochs: int = Field(3, ge=1)
    per_device_train_batch_size: int = Field(1, ge=1)
    gradient_accumulation_steps: int = Field(8, ge=1)
    save_steps: int = Field(1000, ge=1)
    logging_steps: int = Field(1, ge=1)
    learning_rate: float = Field(2e-5, gt=0)
    weight_decay: float = Field(0.05, ge=0)
    warmup_ratio: float = Field(0.1, ge=0, lt=1)
    lr_scheduler_type: Literal["cosine", "linear", "constant_with_warmup"] = "cosine"


class TrainFile(Section):
    """The file of stage 2, as it was published."""

    job_type: Literal["kd_black_box_api"]
    dataset: _LabeledDataset
    models: _Models
    training: _Training


def simplify(path: str, overrides: Sequence[str] = (), display: Display | None = None) -> Path:
    """Stage 1: rewrite each row's reasoning; returns the JSON file of the rewritten rows, in the order of the input.

    `overrides` change the configuration that is made from the file, e.g. long2short.endpoint.max_concurrency=8.
    """
    file = validate(SimplifyFile, read_mapping(path))
    display = display or Display()
    _say_differences(file.job_type, display)
    records = list(sources.records(Source(file.dataset.input_path, "dataset.input_path")))
    output = Path(file.dataset.output_path).absolute()
    api_key_env = key_in_environment(file.inference.api_key)
    base_url = _value_of(file.inference.base_url, "base_url")
    data = {
        "run": {"name": f"{output.stem}_run", "storage_path": str(output.parent)},
        # Only `complete` is on: the recipe has no reference answers to check a rewrite against.
        "gates": {name: name == "complete" for name in GATES},
        "long2short": {
            "system_prompt": file.inference.prompt,
            "sampling_params": {"temperature": None, "top_p": None, "max_tokens": file.inference.max_new_tokens},
            "endpoint": {
                "base_url": base_url,
                "model": served_model(base_url, os.environ[api_key_env].strip()),
                "api_key_env": api_key_env,
                "stream": file.inference.stream,
            },
        },
    }
    config = validate(StagesConfig, apply_overrides(data, overrides), overrides)
    with opened(config, display) as run:
        imported = ImportedResponses(run, records, file.dataset.input_path)
        responses, ids = run.make(imported), [row["response_id"] for row in imported.imported]
        rewrites = make_rewrites(run, responses)
        assert rewrites is not None  # long2short is on, with an endpoint of its own
        gates = run.config.gates.enabled
        written = {row["response_id"]: row for row in rewrites.read_table().to_pylist()}
    rejected = sum((Counter(m.rejects) for m in (responses.manifest(), rewrites.manifest()) if m), Counter())
    rewritten = []
    for response_id in ids:
        row = written.get(response_id)
        if row is None:
            continue  # rejected: counted in the manifests
        example = rewrite_example(row, gates, "")
        if example.get("reject_reason"):
            rejected[example["reject_reason"]] += 1
        else:
            rewritten.append({"instruction": row["instruction"], "output": example["completion"]})
    why = ", ".join(f"{reason} {number:,}" for reason, number in rejected.items())
    if not rewritten:
        raise NoRowsLeft(f"no row was rewritten: {why}; the details are in {run.folder}/rewrites/_rejects")
    write_records(output, rewritten)
    display.say(f"{len(rewritten):,} of {len(records):,} rows in {output}" + (f"; rejected: {why}" if why else ""))
    return output


def train(path: str, overrides: Sequence[str] = (), display: Display | None = None) -> Path:
    """Stage 2: SFT on instruction and output; returns the folder of the student, in Hugging Face format."""
    file = validate(TrainFile, read_mapping(path))
    display = display or Display()
    _say_differences(file.job_type, display)
    records = list(sources.records(Source(file.dataset.labeled_path, "dataset.labeled_path")))
    resolve_model(file.models.student, "models.student")  # a wrong name is told before Ray starts

    # The published settings under our own keys.
    output, trained = Path(file.training.output_dir).absolute(), file.training
    data = {
        "run": {"name": f"{output.name}_run", "storage_path": str(output.parent), "seed": file.dataset.seed},
        "packing": {"enabled": False, "max_length": None, "template": _template(file.dataset.template)},
        "training": {
            "student": file.models.student,
            "train_micro_batch_size_per_gpu": trained.per_device_train_batch_size,
            **trained.model_dump(exclude={"output_dir", "per_device_train_batch_size"}),
            **devices(),
        },
    }
    config = validate(StagesConfig, apply_overrides(data, overrides), overrides)

    with opened(config, display) as run:
        examples = run.make(ImportedExamples(run, records, file.dataset.labeled_path))
        checkpoint = make_checkpoint(run, make_packed(run, examples))
        (checkpoint.folder / STUDENT).download(output)
    display.say(f"the student is in {output}; the losses are in {checkpoint.folder}")
    return output


def devices() -> dict[str, Any]:
    """Settings of `training`: one worker for each GPU of the cluster or machine; without a GPU, one CPU worker."""
    start_ray(None)
    import ray

    gpus = int(ray.cluster_resources().get("GPU", 0))
    return {"num_workers": gpus, "use_gpu": True} if gpus else {"num_workers": 1, "bf16": False}


def key_in_environment(api_key: str) -> str:
    """The environment variable that holds the key. Workers read the key there; it is written to no file and no log."""
    if api_key == PLACEHOLDERS["api_key"]:
        _value_of(api_key, "api_key")
        return api_key
    if "RAY_ADDRESS" in os.environ:
        raise ConfigError(
            "inference.api_key: on a cluster the key is read from the environment of the nodes; "
            "write TOKEN in the file, and set TOKEN there"
        )
    os.environ["RAY_DISTIL_API_KEY"] = api_key  # this machine's workers inherit it
    return "RAY_DISTIL_API_KEY"


def served_model(base_url: str, api_key: str) -> str:
    """The first model that the endpoint lists. Raises UserError where the endpoint does not answer."""
    import openai

    try:
        client = openai.OpenAI(base_url=base_url, api_key=api_key, timeout=30, max_retries=2)
        listed = client.get("/models", cast_to=object)
    except openai.OpenAIError as error:
        body = getattr(error, "body", None)
        reason = words_of(body) if body else (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(_no_models(base_url, reason.replace(api_key, "***"))) from error
    models = listed.get("data") if isinstance(listed, dict) else None
    first = models[0] if isinstance(models, list) and models else None
    if not isinstance(first, dict) or not isinstance(first.get("id"), str):
        raise UserError(_no_models(base_url, words_of(listed).replace(api_key, "***")))
    return str(first["id"])


def _no_models(base_url: str, reason: str) -> str:
    return f"inference.base_url: {base_url!r} does not say which models it has ({reason})"


def _value_of(value: str, key: str) -> str:
    """A value of `inference`. A placeholder of the published file is replaced by its value in the environment."""
    name = PLACEHOLDERS[key]
    if value != name:
        return value
    if not os.environ.get(name):
        raise ConfigError(f"inference.{key}: {name!r} is a placeholder; write the value there, or export {name}=...")
    return os.environ[name]


def _template(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"dataset.template: cannot read {path!r}: {error.strerror}; give a Jinja file") from error


def _say_differences(job_type: str, display: Display) -> None:
    for line in DIFFERENCES[job_type]:
        display.say(f"differs from the original: {line}")


def infer(argv: Sequence[str] | None = None) -> int:
    """The command `ray-distil infer`."""
    arguments = cli.ConfigParser("infer", HELP["infer"], required=True).parse_args(argv)
    return cli.guarded(lambda: simplify(arguments.config, arguments.overrides), Path.cwd)


def train_student(argv: Sequence[str] | None = None) -> int:
    """The command `ray-distil train`."""
    arguments = cli.ConfigParser("train", HELP["train"], required=True).parse_args(argv)
    return cli.guarded(lambda: train(arguments.config, arguments.overrides), Path.cwd)
