"""The keys of problems: where they come from, and which of them are left out."""

from collections import Counter
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from ray_distil.config.section import Section

TINY = "tiny"
Columns = dict[Literal["instruction", "answer", "messages"], str]
KINDS = (
    "`instruction` (or `messages`) and optional `answer`: a JSON list, JSONL, CSV or Parquet file, a folder of them, or one "
    "that save_to_disk wrote, here or in an object store; hf://datasets/OWNER/NAME; or tiny"
)
LICENSE = "the license of the problems, as their authors give it, for the card of a published data set"


class DatasetConfig(Section):
    """Which part of a Hugging Face dataset, or of a folder, is meant, where a path is one."""

    dataset_split: str = Field("train", min_length=1, description="split; of a folder by the names of its files")
    dataset_name: str | None = Field(None, description="the hub's name of the configuration, e.g. main")
    drop_system: bool = Field(False, description="leave the system turns of records out; else those are rejected")


class ProblemSource(DatasetConfig):
    """One of several sources of training problems (docs/curation.md)."""

    path: str = Field(min_length=1, description="as `instructions.path`")
    label: str | None = Field(
        None, pattern=r"^[\w.][\w./ -]*$", description="name of the source in rows and reports; null: that of its file"
    )
    columns: Columns = Field(default_factory=dict, description="as `instructions.columns`")
    share: float | None = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        description="part of the training problems, beside the shares of the other sources; null, of all sources: by their sizes",
    )
    max_problems: int | None = Field(None, ge=1, description="training problems at most; null: all (of tiny: 2000)")
    license: str | None = Field(None, min_length=1, description=LICENSE)


class DecontaminationConfig(Section):
    """Training problems that hold a test problem are left out (docs/curation.md)."""

    coverage: float | None = Field(
        0.4,
        gt=0,
        lt=1,
        description="share of a test problem's 8-grams beyond which a training problem holds it; null: nothing is looked for",
    )
    benchmarks: list[str] | None = Field(
        None,
        description="names of built-in benchmarks, and of those in evaluation.benchmarks; null: all of the latter. The "
        "held-out problems always count",
    )
    ignore_numbers: bool = Field(False, description="true: a test problem with other numbers counts too")


class InstructionsConfig(DatasetConfig):
    """Where the problems come from."""

    path: str = Field(TINY, min_length=1, description=KINDS)
    columns: Columns = Field(
        default_factory=dict, description="our name of a column -> that in `path` and `eval_path`, where it is another"
    )
    sources: list[ProblemSource] = Field(
        default_factory=list, description="several sources of training problems in place of `path`, mixed by `share`"
    )
    license: str | None = Field(None, min_length=1, description=LICENSE)
    num_train: int | None = Field(None, ge=1, description="instructions; null: all (of tiny: 2000)")
    eval_path: str | None = Field(
        None, description="held-out problems, as `path`; null: held out of the training problems"
    )
    eval_split: str | None = Field(None, description="split of `eval_path`; null: dataset_split")
    num_eval: int = Field(
        300,
        ge=0,
        description="held-out problems; of an own file at most a tenth of it; 0: none, where no model is compared",
    )
    suffix: str = Field("", description="put behind each instruction when a model reads it")
    near_duplicates: float | None = Field(
        0.7,
        gt=0,
        le=1,
        description="similarity (Jaccard, of word pairs) from which the later of two training problems with the same numbers "
        "and the same reference is left out; null: only equal problems are",
    )
    decontamination: DecontaminationConfig = DecontaminationConfig()

    @field_validator("sources", mode="before")
    @classmethod
    def _paths_alone(cls, value: Any) -> Any:
        """A source can be its path alone: `[gsm8k.jsonl, math.jsonl]`."""
        return [{"path": s} if isinstance(s, str) else s for s in value] if isinstance(value, list) else value

    @model_validator(mode="after")
    def _keys_of_one_form(self) -> "InstructionsConfig":
        """`path` and its keys, or `sources`."""
        if not self.sources:
            return self
        if self.path != TINY:
            raise ValueError(
                f"instructions.path: {self.path!r} stands beside instructions.sources; make it one of the sources, or leave "
                "them out"
            )
        if self.license is not None:
            raise ValueError("instructions.license: each of instructions.sources has its own `license`; give it there")
        defaults = DatasetConfig().model_dump() | {"columns": {}}
        for key, default in defaults.items():
            if getattr(self, key) != default and self.eval_path is None:
                raise ValueError(f"instructions.{key}: each of instructions.sources has its own `{key}`; give it there")
        return self

    @model_validator(mode="after")
    def _shares_and_labels(self) -> "InstructionsConfig":
        without = [f"instructions.sources.{k}" for k, source in enumerate(self.sources) if source.share is None]
        if without and len(without) < len(self.sources):
            raise ValueError(f"{without[0]}.share: other sources have one; give each source a share, or none")
        explicit = Counter(source.label for source in self.sources if source.label is not None)
        for label, number in explicit.items():
            if number > 1:
                raise ValueError(f"instructions.sources: {number} sources have the label {label!r}; give each its own")
        return self

    @property
    def training_sources(self) -> list[ProblemSource]:
        """The sources of training problems: `sources`, or `path` with its keys."""
        if self.sources:
            return self.sources
        keys = DatasetConfig.model_fields
        return [
            ProblemSource(
                path=self.path, columns=self.columns, license=self.license, **{k: getattr(self, k) for k in keys}
            )
        ]

    @property
    def paths(self) -> list[str]:
        return [source.path for source in self.training_sources]

    @property
    def is_tiny(self) -> bool:
        """Whether all training problems are of the tiny world."""
        return set(self.paths) == {TINY}
