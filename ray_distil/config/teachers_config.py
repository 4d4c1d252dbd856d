"""The keys of teachers, and of the rewriting of slow responses."""

from typing import Literal

from pydantic import Field, model_validator

from ray_distil.config.curation_config import PassRate
from ray_distil.config.engine_config import Asked, SamplingParams
from ray_distil.config.instructions_config import DatasetConfig
from ray_distil.config.section import Section

ON_CARDS = "for the cards of a data set and of a student"


class TeacherConfig(Asked, DatasetConfig):
    """One teacher and how it is asked. DeepSeek advises no system prompt for both of the recipe's teachers."""

    responses: str | None = Field(
        None, min_length=1, description="what it has answered already, as `instructions.path`; matched by instruction"
    )
    columns: dict[
        Literal["instruction", "output", "response", "messages", "reasoning_content", "finish_reason", "correctness"],
        str,
    ] = Field(default_factory=dict, description="our name of a column -> that in `responses`, where it is another")
    system_prompt: str | None = Field(
        None, description='null: the chat template\'s own, if it has one; "": none, where the template can'
    )
    sampling_params: SamplingParams = SamplingParams()
    num_samples: int = Field(1, ge=1, description="responses an instruction, each with a seed of its own")
    fraction: float = Field(1.0, gt=0, le=1, description="share of the training instructions that it is asked")
    license: str | None = Field(None, min_length=1, description=f"the license or terms of its texts, {ON_CARDS}")
    pass_rate: PassRate | None = Field(
        None,
        description="it is asked the problems of which the share of right responses of the other teacher lies within, "
        "when that one has answered: [0, 0] those that it never solves; null: all",
    )

    @model_validator(mode="after")
    def _has_one_backend(self) -> "TeacherConfig":
        backends = self.backends + (["responses"] if self.responses is not None else [])
        if len(backends) != 1:
            raise ValueError(
                f"teachers: a teacher needs one of `engine`, `endpoint`, `backend` and `responses`, not {' and '.join(backends) or 'none'}"
                "; set the others to null"
            )
        return self


class TeachersConfig(Section):
    """`direct` answers at once and is used as it is; `slow` reasons at length and is rewritten."""

    direct: TeacherConfig | None = None
    slow: TeacherConfig | None = None
    direct_thoughts: Literal["drop", "reject"] = Field(
        "drop", description="a direct answer that thinks: its conclusion is learnt, or it is rejected"
    )

    @model_validator(mode="after")
    def _some(self) -> "TeachersConfig":
        if self.direct is None and self.slow is None:
            raise ValueError("teachers: neither `direct` nor `slow` is there; give at least one")
        return self

    @model_validator(mode="after")
    def _one_waits_for_the_other(self) -> "TeachersConfig":
        waiting = [name for name, teacher in self.sections.items() if teacher.pass_rate is not None]
        if not waiting:
            return self
        if len(self.sections) == 1:
            raise ValueError(f"teachers.{waiting[0]}.pass_rate: is of the other teacher's responses, and there is none")
        if len(waiting) == 2:
            raise ValueError("teachers: both have a `pass_rate`, and each would wait for the other; give it to one")
        imported = [name for name, teacher in self.sections.items() if teacher.responses is not None]
        if imported:
            raise ValueError(
                f"teachers.{waiting[0]}.pass_rate: the responses of {imported[0]} are imported, and have no verdict before "
                "the others are asked; leave it out"
            )
        return self

    @property
    def sections(self) -> dict[str, TeacherConfig]:
        """The teachers that are configured, by name."""
        teachers = {"direct": self.direct, "slow": self.slow}
        return {name: teacher for name, teacher in teachers.items() if teacher is not None}


class Long2ShortConfig(Asked):
    """Rewriting of the slow responses into short reasoning; without engine and endpoint, by the slow teacher."""

    enabled: bool = Field(True, description="false: slow responses are learnt as they are")
    license: str | None = Field(
        None, min_length=1, description=f"where another model rewrites, the license or terms of its texts, {ON_CARDS}"
    )
    system_prompt: str | None = Field(None, description="null: that of the DistilQwen2.5-0324 recipe")
    sampling_params: SamplingParams = SamplingParams()

    @model_validator(mode="after")
    def _at_most_one(self) -> "Long2ShortConfig":
        if len(self.backends) > 1:
            raise ValueError(
                f"long2short: has both `{self.backends[0]}` and `{self.backends[1]}`; set one of them to null"
            )
        return self
