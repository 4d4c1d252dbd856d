"""The run's configuration: YAML plus dotted overrides, checked before anything starts.

Importing it loads neither Ray, torch nor vLLM. The error for an unknown key names the nearest known key. The resolved
configuration is saved as `config.yaml` in the run's folder.
"""

import os
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, field_validator, model_validator

from ray_distil.config.curation_config import CurationConfig
from ray_distil.config.engine_config import Asked, BackendConfig, EndpointConfig, EngineConfig
from ray_distil.config.evaluation_config import HELD_OUT, BenchmarkConfig, EvaluatedModel, EvaluationConfig, declared
from ray_distil.config.gates_config import AnswersConfig, GatesConfig
from ray_distil.config.instructions_config import TINY, InstructionsConfig
from ray_distil.config.plan_config import PlanConfig
from ray_distil.config.section import RECIPES, Section, apply_overrides, read_mapping, validate, without_secrets
from ray_distil.config.teachers_config import Long2ShortConfig, TeachersConfig
from ray_distil.config.training_config import TrainingConfig
from ray_distil.runtime.session import SUBMITTED
from ray_distil.store.storage import Folder

TRAINED = "student"  # as `model_source` of a model to evaluate: the student that the run trains
OF_ONE_COMMAND = {"take_over", "remake", "retry_failed"}  # keys of `run` that its config.yaml does not keep


class RunConfig(Section):
    """Where the run lives."""

    name: str = Field("run", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="folder and title of the run")
    storage_path: str = Field(
        "runs",
        min_length=1,
        description="the run lies in STORAGE_PATH/NAME: a path that all nodes see, or s3://, gs://, abfs://; a relative "
        "one starts at the working directory, of a submitted job (which works in a copy) at the home directory",
    )
    seed: int = Field(0, ge=0, description="of problems and samples, and of training")
    date: str | None = Field(
        None,
        description="YYYY-MM-DD, for chat templates that write it; null: the day on which the run began",
    )

    @field_validator("date", mode="before")
    @classmethod
    def _day(cls, value: Any) -> Any:
        """The day as YYYY-MM-DD; YAML reads 2026-11-27 as a date and not as text."""
        if isinstance(value, date):
            return value.isoformat()
        try:
            return value if value is None else date.fromisoformat(str(value)).isoformat()
        except ValueError:
            raise ValueError(f"run.date: {value!r} is no day; give YYYY-MM-DD") from None

    parallel_engines: bool = Field(False, description="engines of several models at once, where a stage has several")
    max_reject_fraction: float = Field(
        0.5, ge=0, le=1, description="a generating stage stops when more of its rows fail or are cut at max_tokens"
    )
    stall_minutes: float | None = Field(
        60,
        gt=0,
        description="a generating stage stops when no row is finished for so long while an engine is ready; null: never",
    )
    take_over: bool = Field(
        False, description="in an object store: make the run though the lease of another process has not expired"
    )
    remake: bool = Field(
        False, description="texts, states or a student that were paid for may be made again; --remake. Not saved"
    )
    reuse: list[str] = Field(
        default_factory=list,
        description="folders of other runs, whose texts are used again where they would be the same: runs/first",
    )
    retry_failed: bool = Field(
        False,
        description="rows that failed with a transient error are tried again where later stages are made of the others; "
        "these are made anew; --retry-failed. Not saved",
    )
    max_shard_mb: float | None = Field(
        32, gt=0, description="MiB of a Parquet shard of a finished artifact; null: as small as they were written"
    )


class RayConfig(Section):
    """A Ray that the run starts itself; ignored where a cluster is there already (`ray job submit`)."""

    num_cpus: int | None = Field(None, ge=1, description="logical CPUs; null: those of the machine")


class PackingConfig(Section):
    """Packing of examples into sequences of fixed length."""

    enabled: bool = Field(True, description="false: each example is a sequence of its own, of its own length")
    max_length: int | None = Field(
        4096,
        ge=8,
        description="tokens a sequence; a longer example is rejected, never cut; null: what the student reads",
    )
    template: str | None = Field(
        None, description="Jinja that renders message.content and message.output; null: the student's chat template"
    )

    @model_validator(mode="after")
    def _length_is_there(self) -> "PackingConfig":
        if self.enabled and self.max_length is None:
            raise ValueError("packing.max_length: null is for packing.enabled=false; give the tokens of a sequence")
        return self


class StagesConfig(Section):
    """Settings of the stages that a run has."""

    run: RunConfig = RunConfig()
    ray: RayConfig = RayConfig()
    instructions: InstructionsConfig = InstructionsConfig()
    teachers: TeachersConfig | None = None
    long2short: Long2ShortConfig = Long2ShortConfig()
    answers: AnswersConfig = AnswersConfig()
    gates: GatesConfig = GatesConfig()
    curation: CurationConfig = CurationConfig()
    packing: PackingConfig = PackingConfig()
    training: TrainingConfig | None = None
    evaluation: EvaluationConfig = EvaluationConfig()
    plan: PlanConfig = PlanConfig()

    @model_validator(mode="before")
    @classmethod
    def _tiny_problems_are_named(cls, values: Any) -> Any:
        """The held-out problems of the tiny world are called tiny, unless they have a name or a benchmark is called so."""
        evaluation, instructions = values.get("evaluation"), values.get("instructions") or {}
        if not isinstance(evaluation, dict) or evaluation.get("benchmark") or not isinstance(instructions, dict):
            return values
        names = [b.get("name") if isinstance(b, dict) else b for b in evaluation.get("benchmarks") or []]
        is_own = instructions.get("path", TINY) != TINY or bool(instructions.get("sources")) or TINY in names
        return values if is_own else values | {"evaluation": evaluation | {"benchmark": TINY}}

    @model_validator(mode="after")
    def _rewriter_is_there(self) -> "StagesConfig":
        long2short, slow = self.long2short, self.teachers.slow if self.teachers is not None else None
        if slow is not None and slow.responses and long2short.enabled and not long2short.backends:
            raise ValueError(
                "long2short: the slow teacher's responses are imported, so it rewrites none; give long2short an "
                "`engine` or an `endpoint`, or set long2short.enabled=false"
            )
        return self

    @model_validator(mode="after")
    def _candidates_are_made(self) -> "StagesConfig":
        candidates, teachers = self.curation.candidates or [], self.teachers
        if teachers is None:
            return self
        for kind in candidates:
            teacher = "direct" if kind == "direct" else "slow"
            if getattr(teachers, teacher) is None:
                raise ValueError(f"curation.candidates: {kind} needs teachers.{teacher}, and there is none")
        if self.curation.slow_fraction and teachers.slow is None:
            raise ValueError("curation.slow_fraction: needs teachers.slow, and there is none")
        if "rewrite" in candidates and not self.long2short.enabled:
            raise ValueError("curation.candidates: nothing is rewritten for `rewrite`; set long2short.enabled=true")
        return self

    @model_validator(mode="after")
    def _held_out_problems_are_there(self) -> "StagesConfig":
        names = [benchmark.name for benchmark in self.evaluation.benchmarks]
        if self.instructions.num_eval or self.teachers is None:
            return self
        if self.evaluation.models and HELD_OUT in names:
            raise ValueError(
                "instructions.num_eval: 0 holds out no problem, and evaluation.benchmarks compares models on held-out ones; "
                "give a number, or take held-out from the benchmarks"
            )
        if self.instructions.eval_path is not None:
            raise ValueError("instructions.num_eval: 0 takes no problem of eval_path; set instructions.eval_path=null")
        return self

    @model_validator(mode="after")
    def _test_sets_are_known(self) -> "StagesConfig":
        _ = self.test_sets
        return self

    @property
    def test_sets(self) -> list[BenchmarkConfig]:
        """The benchmarks whose problems are not trained on, beside the held-out problems."""
        section, compared = self.instructions.decontamination, self.evaluation.benchmarks
        by_name = {benchmark.name: benchmark for benchmark in compared}
        if section.coverage is None:
            return []
        benchmarks = compared
        if section.benchmarks is not None:
            key = "instructions.decontamination.benchmarks"
            benchmarks = [
                by_name.get(n) or BenchmarkConfig.model_validate(declared(n, key)) for n in section.benchmarks
            ]
        return [benchmark for benchmark in benchmarks if benchmark.name != HELD_OUT]

    @property
    def candidates(self) -> list[str]:
        """The kinds of texts that may be learnt."""
        return [*(self.curation.candidates or ("direct", "rewrite" if self.long2short.enabled else "slow"))]

    @property
    def has_choice(self) -> bool:
        """Whether some of the texts that pass the gates are left out."""
        return bool(self.curation.chosen_by) or "conclusion" in self.candidates

    @property
    def _generating(self) -> dict[str, Asked]:
        """The sections that say who generates, by key; without the compared models."""
        teachers = self.teachers.sections if self.teachers is not None else {}
        return {"long2short": self.long2short, **{f"teachers.{name}": teacher for name, teacher in teachers.items()}}

    @property
    def engines(self) -> dict[str, EngineConfig]:
        """All vLLM engines of the configuration, by key."""
        sections: dict[str, Asked | EvaluationConfig] = {**self._generating}
        if self.evaluation.models:
            sections["evaluation"] = self.evaluation
        return {f"{key}.engine": section.engine for key, section in sections.items() if section.engine is not None}

    @property
    def endpoints(self) -> dict[str, EndpointConfig]:
        """All endpoints of the configuration, by key."""
        sections: dict[str, Asked | EvaluatedModel] = {**self._generating}
        sections |= {f"evaluation.models.{index}": model for index, model in enumerate(self.evaluation.models)}
        return {
            f"{key}.endpoint": section.endpoint for key, section in sections.items() if section.endpoint is not None
        }

    @property
    def own_backends(self) -> dict[str, BackendConfig]:
        """The engines of the user's own, by key."""
        sections = self._generating
        return {f"{key}.backend": section.backend for key, section in sections.items() if section.backend is not None}

    @property
    def training_seed(self) -> int:
        seed = self.training.seed if self.training is not None else None
        return self.run.seed if seed is None else seed

    @property
    def run_folder(self) -> Folder:
        return Folder.at(self.run.storage_path, _base()) / self.run.name

    @property
    def reused_runs(self) -> list[Folder]:
        """The folders of other runs whose texts are used again."""
        return [Folder.at(path, _base()) for path in self.run.reuse]

    def to_yaml(self) -> str:
        """The configuration in YAML, with *** for secrets: keys in URIs, and values under names such as HF_TOKEN."""
        return yaml.safe_dump(self.saved(), sort_keys=False, allow_unicode=True)

    def saved(self) -> dict[str, Any]:
        """The configuration as a run keeps it: without secrets, and without the keys of one command."""
        values: dict[str, Any] = without_secrets(self.model_dump(mode="json", exclude={"run": OF_ONE_COMMAND}))
        return values


def _base() -> Path:
    """Where relative paths of runs begin."""
    return Path.home() if SUBMITTED in os.environ else Path.cwd()


class DistillConfig(StagesConfig):
    """One run, from instructions to the report. Without training it ends with its examples."""

    teachers: TeachersConfig
    training: TrainingConfig | None

    @model_validator(mode="before")
    @classmethod
    def _compares_students(cls, values: Any) -> Any:
        """Where nothing is trained, there is no student, and no model is compared with it."""
        evaluation = values.get("evaluation")
        if isinstance(evaluation, dict) and "training" in values and values["training"] is None:
            return values | {"evaluation": evaluation | {"models": []}}
        return values


def load(path: str | None = None, overrides: Sequence[str] = ()) -> DistillConfig:
    """Read a YAML file, or a shipped recipe by its name; None: the tiny one. Then apply overrides `key.path=value`.

    Values have YAML's spelling. Raises ConfigError with one line a mistake.
    """
    data = apply_overrides(read_mapping(path or RECIPES / "tiny.yaml"), overrides)
    return validate(DistillConfig, data, overrides)
