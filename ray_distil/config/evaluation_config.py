"""Models to compare, and the benchmarks to compare them on. Evaluation reads this part of the configuration.

    benchmarks: [held-out, aime24, {name: math500, num_samples: 8, limit: 100}]
    benchmarks: [{name: physics, path: physics.csv, columns: {instruction: question}, answer: choice, ...}]

The built-in benchmarks are declared in benchmarks.yaml. A key that the configuration gives beside a name (limit: 100)
replaces the declared one.
"""

import re
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BeforeValidator, Field, model_validator

from ray_distil.config.engine_config import EndpointConfig, EngineConfig, SamplingParams
from ray_distil.config.section import ImportPath, Section

BUILT_IN = Path(__file__).with_name("benchmarks.yaml")
HELD_OUT = "held-out"  # the run's own held-out problems, as a benchmark
MATH = "{instruction}\n\nPlease reason step by step, and put your final answer within \\boxed{}."
CHOICE = MATH.replace("\n\n", "\n\n{choices}\n\n").replace("your final answer", "only the letter of your answer")
OF_A_FILE = ("path", "dataset_name", "columns", "answer_after", "no_choice", "keep", "prompt", "limit", "num_problems")
Answer = Literal["integer", "math", "choice", "text"]


class PublishedFigure(Section):
    """What a model was published with."""

    model: str = Field(min_length=1, description="its name")
    accuracy: float | None = Field(None, ge=0, le=1, description="share of right answers")
    tokens: float | None = Field(None, gt=0, description="mean of an answer")
    samples: int = Field(1, ge=1, description="answers a problem")
    source: str = Field(min_length=1, description="where it was published")


class BenchmarkConfig(Section):
    """Problems on which models are compared; or the name of a built-in one alone."""

    name: str = Field(
        pattern=r"^[A-Za-z0-9][\w.+-]*$",
        description="aime24, aime25, math500, gpqa_diamond, mmlu_pro, gsm8k, tiny; held-out: the run's own problems; or "
        "a name of your own",
    )
    path: str | None = Field(
        None, min_length=1, description="as `instructions.path`; hf://datasets/OWNER/NAME@COMMIT, or a local copy"
    )
    dataset_split: str = Field("test", min_length=1, description="split; of a folder by the names of its files")
    dataset_name: str | None = Field(None, description="the hub's name of the configuration, e.g. main")
    columns: dict[Literal["instruction", "answer", "id", "category", "choices"], str | list[str]] = Field(
        default_factory=dict,
        description="our name of a column -> that in `path`; choices: one that holds a list, or a list of columns",
    )
    keep: dict[str, str] = Field(default_factory=dict, description="column -> a text that its value must hold")
    answer: Answer = Field("math", description="what is compared: whole numbers, mathematics, a letter, or words")
    scorer: ImportPath | None = Field(
        None,
        description="a function of your own that compares in place of `answer`, as `my_scorers:runs` (docs/doors.md)",
    )
    answer_after: str | None = Field(None, min_length=1, description="the reference stands behind the last of these")
    no_choice: str | None = Field(None, description="what stands in `choices` where there is none")
    prompt: str | None = Field(None, description="what a model reads, with {instruction} and, for a choice, {choices}")
    num_samples: int | None = Field(None, ge=1, description="answers a problem; null: evaluation.num_samples")
    sampling_params: SamplingParams | None = Field(None, description="null: evaluation.sampling_params")
    limit: int | None = Field(None, ge=1, description="problems: those of the smallest hash of their ids; null: all")
    num_problems: int | None = Field(None, ge=1, description="how many there are, for a plan; null: not known")
    published: list[PublishedFigure] = Field(default_factory=list, description="figures to show beside")

    @model_validator(mode="after")
    def _is_whole(self) -> "BenchmarkConfig":
        at = f"evaluation.benchmarks: {self.name}"
        if self.name == HELD_OUT:
            file_keys = [name for name in OF_A_FILE if getattr(self, name)]
            if file_keys:
                raise ValueError(f"{at}.{file_keys[0]}: these are the run's own problems; see `instructions`")
            return self
        if self.path is None:
            raise ValueError(f"{at}: is not built in and has no `path`; {_known_names(self.name)}")
        prompt = self.template
        if "{instruction}" not in prompt or ("{choices}" in prompt) != (self.answer == "choice"):
            holds = "{instruction} and {choices}" if self.answer == "choice" else "{instruction}, and no {choices}"
            raise ValueError(f"{at}.prompt: {prompt!r} must hold {holds}")
        if (self.answer == "choice") != ("choices" in self.columns) and self.columns:
            raise ValueError(f"{at}.columns.choices: needed where `answer` is choice, and only there")
        wrong = [name for name, column in self.columns.items() if name != "choices" and not isinstance(column, str)]
        if wrong:
            raise ValueError(f"{at}.columns.{wrong[0]}: {self.columns[wrong[0]]!r} is no name of a column")
        return self

    @property
    def kind(self) -> str:
        """What compares answers: the kind of answer, or the import path of the user's own scorer."""
        return self.scorer or self.answer

    @property
    def template(self) -> str:
        return self.prompt or (CHOICE if self.answer == "choice" else MATH)


@lru_cache(maxsize=1)
def built_in() -> dict[str, dict[str, Any]]:
    """Name of each built-in benchmark -> its keys in benchmarks.yaml."""
    return dict(yaml.safe_load(BUILT_IN.read_text(encoding="utf-8"))["benchmarks"])


def declared(value: Any, key: str = "evaluation.benchmarks") -> Any:
    """A benchmark of the configuration, completed with its keys in benchmarks.yaml. Raises ValueError for a name alone
    that is unknown; it begins with `key`.
    """
    if isinstance(value, str):
        value = {"name": value}
        if value["name"] != HELD_OUT and value["name"] not in built_in():
            raise ValueError(f"{key}: {value['name']!r} is not built in; {_known_names(value['name'])}")
    if not isinstance(value, dict) or value.get("name") not in built_in():
        return value
    built_in_benchmark = built_in()[value["name"]]
    if isinstance(value.get("sampling_params"), dict):
        value = value | {"sampling_params": built_in_benchmark["sampling_params"] | value["sampling_params"]}
    return built_in_benchmark | value


def _known_names(name: str) -> str:
    names = [*built_in(), HELD_OUT]
    near = get_close_matches(name, names, n=1)
    return f"did you mean {near[0]!r}?" if near else f"known: {', '.join(names)}; else give {{name: ..., path: ...}}"


def _all_declared(value: Any) -> Any:
    return [declared(item) for item in value] if isinstance(value, list) else value


Benchmarks = Annotated[
    list[BenchmarkConfig], BeforeValidator(_all_declared, json_schema_input_type=list[str | BenchmarkConfig])
]


class EvaluatedModel(Section):
    """A model to compare."""

    name: str = Field(pattern=r"^[A-Za-z0-9][\w .+-]*$", description="name in the report")
    model_source: str | None = Field(
        None, min_length=1, description="model folder, ORG/NAME or ORG/NAME@REVISION of the hub, tiny:NAME; or student"
    )
    endpoint: EndpointConfig | None = Field(None, description="in the place of model_source")
    system_prompt: str | None = Field(None, description="null: as in training for the student, else the template's own")

    @model_validator(mode="after")
    def _has_one_backend(self) -> "EvaluatedModel":
        if (self.model_source is None) == (self.endpoint is None):
            raise ValueError(f"evaluation.models: {self.name} needs one of `model_source` and `endpoint`")
        return self


class EvaluationConfig(Section):
    """Comparison of models on the held-out problems and on benchmarks: accuracy and tokens used."""

    engine: EngineConfig | None = Field(None, description="settings for all; model_source is each model's own")
    models: list[EvaluatedModel] = Field(default_factory=list, description="compared on the same problems")
    baseline: str = Field("slow", description="the model whose mean tokens are speed gain 1")
    benchmarks: Benchmarks = Field(
        default_factory=lambda: [BenchmarkConfig(name=HELD_OUT)],
        min_length=1,
        validate_default=True,
        description="names of built-in ones, or mappings; held-out: the run's own held-out problems",
    )
    benchmark: str | None = Field(
        None,
        min_length=1,
        description="name of the held-out problems in the report; null: tiny for those of the tiny world, else held-out",
    )
    sampling_params: SamplingParams = SamplingParams()
    num_samples: int = Field(1, ge=1, description="answers a problem")
    num_timed: int = Field(
        0,
        ge=0,
        description="problems of each benchmark that each model is asked one at a time too, for seconds a problem",
    )

    @model_validator(mode="after")
    def _baseline_is_there(self) -> "EvaluationConfig":
        names = [model.name for model in self.models]
        if len(set(names)) < len(names):
            raise ValueError(f"evaluation.models: two have the same name in {names}; give each its own")
        if names and self.baseline not in names:
            raise ValueError(f"evaluation.baseline: {self.baseline!r} is none of the models {names}; name one of them")
        if any(model.model_source is not None for model in self.models) and self.engine is None:
            raise ValueError("evaluation.engine: missing; the models need engine settings")
        folders = [folder_of(self.label(benchmark)) for benchmark in self.benchmarks]
        if len(set(folders)) < len(folders):
            raise ValueError(f"evaluation.benchmarks: two have the same name in {folders}; give each its own")
        return self

    def label(self, benchmark: BenchmarkConfig) -> str:
        """The benchmark's name in the report."""
        return (self.benchmark or HELD_OUT) if benchmark.name == HELD_OUT else benchmark.name

    def samples_of(self, benchmark: BenchmarkConfig) -> int:
        return self.num_samples if benchmark.num_samples is None else benchmark.num_samples

    def sampling_of(self, benchmark: BenchmarkConfig) -> SamplingParams:
        return self.sampling_params if benchmark.sampling_params is None else benchmark.sampling_params


def folder_of(label: str) -> str:
    """The folder of a benchmark's artifacts: its name, with _ for each character that a folder's name may not have."""
    return re.sub(r"[^\w.+-]", "_", label)
