"""The keys of problems: where they come from, and which of them are left out."""

from typing import Literal

from pydantic import Field

from ray_distil.config.section import Section

TINY = "tiny"


class DatasetConfig(Section):
    """Which part of a Hugging Face dataset, or of a folder, is meant, where a path is one."""

    dataset_split: str = Field("train", min_length=1, description="split; of a folder by the names of its files")
    dataset_name: str | None = Field(None, description="the hub's name of the configuration, e.g. main")
    drop_system: bool = Field(False, description="leave the system turns of records out; else those are rejected")


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

    path: str = Field(
        TINY,
        min_length=1,
        description="`instruction` (or `messages`) and optional `answer`: a JSON list, JSONL, CSV or Parquet file, a "
        "folder of them, or one that save_to_disk wrote, here or in an object store; hf://datasets/OWNER/NAME; or tiny",
    )
    columns: dict[Literal["instruction", "answer", "messages"], str] = Field(
        default_factory=dict, description="our name of a column -> that in `path` and `eval_path`, where it is another"
    )
    num_train: int | None = Field(None, ge=1, description="instructions; null: all (of tiny: 2000)")
    eval_path: str | None = Field(None, description="held-out problems, as `path`; null: held out of `path`")
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
