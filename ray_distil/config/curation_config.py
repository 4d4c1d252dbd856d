"""The keys of curation: which texts that pass the gates are learnt."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from ray_distil.config.section import Section

Kind = Literal["direct", "rewrite", "conclusion", "slow"]


def _is_a_range(value: tuple[float, float]) -> tuple[float, float]:
    low, high = value
    if not 0 <= low <= high <= 1:
        raise PydanticCustomError(
            "pass_rate", "[{low}, {high}] is no range within [0, 1]; give [LOWEST, HIGHEST]", {"low": low, "high": high}
        )
    return value


PassRate = Annotated[tuple[float, float], AfterValidator(_is_a_range)]


class CurationConfig(Section):
    """Which texts that pass the gates are learnt (docs/curation.md)."""

    candidates: list[Kind] | None = Field(
        None,
        min_length=1,
        description="kinds of texts that may be learnt; conclusion: a slow response's text behind its thinking; null: "
        "direct and rewrite, or without long2short direct and slow",
    )
    choose: Literal["all", "shortest", "random"] = Field("all", description="among the texts of a problem")
    keep: int = Field(1, ge=1, description="texts a problem, with choose: shortest or random")
    min_length: float = Field(
        0.5,
        ge=0,
        le=1,
        description="share of the median length of a problem's texts below which a text is not learnt; with choose: "
        "shortest or random, or with conclusions",
    )
    pass_rate: PassRate = Field(
        (0.0, 1.0), description="problems are learnt whose share of right responses lies within"
    )
    easy_fraction: float = Field(
        1.0, ge=0, le=1, description="share of the problems that every response solves that stay"
    )
    slow_fraction: float = Field(
        0.0, ge=0, le=1, description="share of the other problems that are learnt as a whole slow response"
    )
    vote: bool = Field(False, description="without a reference, the answer of more than half of the responses is right")
    max_tokens: int | None = Field(
        None, ge=1, description="of all completions together; problems stay whole; null: no limit"
    )

    @field_validator("candidates")
    @classmethod
    def _each_once(cls, value: list[str] | None) -> list[str] | None:
        if value is not None and len(set(value)) < len(value):
            raise ValueError(f"curation.candidates: {', '.join(value)} names a kind twice")
        return value

    @model_validator(mode="after")
    def _keeps_of_a_choice(self) -> "CurationConfig":
        if self.keep > 1 and self.choose == "all":
            raise ValueError("curation.keep: choose is all, which keeps every text; set curation.choose=shortest")
        return self

    @property
    def chosen_by(self) -> dict[str, Any]:
        """The keys that choose, where they are not at their defaults; {}: all texts of the kinds are learnt."""
        default = CurationConfig.model_construct()
        values = self.model_dump(mode="json", exclude={"candidates"})
        return {key: value for key, value in values.items() if getattr(self, key) != getattr(default, key)}
