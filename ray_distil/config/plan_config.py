"""The assumptions of `--plan`, and prices for the costs of a run. No stage reads this part of the configuration."""

from pydantic import Field

from ray_distil.config.section import Section


class Expected(Section):
    """What one kind of generation is taken to need."""

    num_generated_tokens: float = Field(1000, gt=0, description="mean of a response")
    tokens_per_s: float | None = Field(
        None, gt=0, description="generated tokens a second, of one engine or of a whole endpoint; null: not known"
    )
    usd_per_million_tokens: tuple[float, float] | None = Field(
        None, description="an endpoint's price of prompt and of generated tokens; null: not known"
    )

    def below(self, max_tokens: int) -> "Expected":
        """The same for texts of at most so many tokens: a mean that nobody has set is no more than half of them."""
        return self.model_copy(update={"num_generated_tokens": min(self.num_generated_tokens, max_tokens / 2)})


class PlanConfig(Section):
    """What `--plan` assumes, since nothing is there to be measured yet. Of a run, only the costs look at its prices."""

    num_instructions: int | None = Field(
        None, ge=2, description="training instructions, where the files of `instructions` are not there yet"
    )
    num_prompt_tokens: float = Field(150, gt=0, description="mean of an instruction in its chat template")
    kept: float = Field(0.8, gt=0, le=1, description="share of responses, and of rewrites, that pass the gates")
    direct: Expected = Expected()
    slow: Expected = Expected(num_generated_tokens=8000)
    long2short: Expected = Expected()
    evaluation: dict[str, Expected] = Field(
        default_factory=dict, description="by MODEL/BENCHMARK, MODEL, */BENCHMARK, or *: names in the report"
    )
    gib_per_gpu: float | None = Field(
        None, gt=0, description="memory of a GPU: a training that takes more is refused; null: it is only told"
    )
    usd_per_gpu_hour: float | None = Field(None, ge=0, description="price of a GPU; null: not known")
    training_tokens_per_s: float | None = Field(None, gt=0, description="of one worker, forward and backward")
    student_parameters: float | None = Field(None, gt=0, description="for the size of the checkpoint; null: not known")
    bytes_per_token: float = Field(4, gt=0, description="of Parquet, for each token that a row holds as text or as id")

    def expected(self, name: str, max_tokens: int, by_slow_teacher: bool = False) -> Expected:
        """What a kind of text is taken to need: "direct", "slow" or "long2short"; the last also `by_slow_teacher`."""
        section: Expected = getattr(self, name)
        assumed = section if name in self.model_fields_set else section.below(max_tokens)
        return self.with_rates_of_slow(assumed) if by_slow_teacher else assumed

    def with_rates_of_slow(self, rewrites: Expected) -> Expected:
        """What rewrites by the slow teacher need: its speed and its price, where `long2short` has none of its own."""
        names = ("tokens_per_s", "usd_per_million_tokens")
        return rewrites.model_copy(update={n: getattr(self.slow, n) for n in names if getattr(rewrites, n) is None})
