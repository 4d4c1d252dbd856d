"""The table of a plan: a line for each step with its rows, tokens, hours, GPUs, dollars and bytes, and their sums."""

from dataclasses import dataclass

from rich.table import Table

from ray_distil.report.benchmark_tables import DASH, scaled

UNITS = ("", " k", " M", " G", " T")
CAPTION = "Hours are those of texts and steps: each start of an engine or of a training adds minutes."


@dataclass(frozen=True)
class Step:
    """One stage, or one model's part of it; tokens, seconds, dollars and bytes are estimates, null where not known."""

    name: str
    rows: int
    exact: bool = True
    prompt_tokens: float = 0
    tokens: float = 0  # generated; for training: tokens trained on, over all epochs
    seconds: float | None = None
    gpus: int = 0  # in use at once
    dollars: float | None = None
    is_paid: bool = False  # whether it takes GPUs or an endpoint: then dollars that are not known are missing in a sum
    size: float | None = None  # bytes in the run's folder

    @property
    def gpu_hours(self) -> float | None:
        if not self.gpus:
            return 0.0
        return None if self.seconds is None else self.seconds * self.gpus / 3600


def table(steps: list[Step]) -> Table:
    """The plan for the console; ~ marks an estimate."""
    plan_table = Table(title="Plan", title_justify="left", box=None, header_style="bold", pad_edge=False)
    plan_table.caption, plan_table.caption_justify = CAPTION, "left"
    for header in ("Stage", "Rows", "Prompt tokens", "Tokens", "Hours", "GPUs", "GPU-hours", "USD", "Disk"):
        plan_table.add_column(header, justify="left" if header == "Stage" else "right", no_wrap=True)

    for step in steps:
        plan_table.add_row(
            step.name,
            f"{'' if step.exact else '~'}{step.rows:,}",
            _count(step.prompt_tokens),
            _count(step.tokens),
            _rounded(step.seconds / 3600 if step.seconds is not None else None) if step.tokens else DASH,
            str(step.gpus) if step.gpus else DASH,
            _rounded(step.gpu_hours) if step.gpus else DASH,
            _rounded(step.dollars),
            _bytes(step.size),
        )

    plan_table.add_section()
    plan_table.add_row(
        "in all",
        "",
        _count(sum(step.prompt_tokens for step in steps)),
        _count(sum(step.tokens for step in steps)),
        _rounded(total([step.seconds for step in steps if step.tokens], 3600)),
        str(max((step.gpus for step in steps), default=0) or DASH),
        _rounded(total([step.gpu_hours for step in steps if step.gpus])) if any(s.gpus for s in steps) else DASH,
        _dollars_in_all(steps),
        _bytes(total([step.size for step in steps])),
    )
    return plan_table


def _dollars_in_all(steps: list[Step]) -> str:
    """The sum; "at least" where a step that costs something has no price or no rate."""
    priced = [step.dollars for step in steps if step.dollars is not None]
    if not priced:
        return DASH
    least = "at least " if any(step.is_paid and step.dollars is None for step in steps) else ""
    return least + _rounded(sum(priced))


def total(values: list[float | None], divisor: float = 1) -> float | None:
    """The sum; None where one value is not known, because a sum of the others would look like the whole."""
    numbers = [value for value in values if value is not None]
    return sum(numbers) / divisor if len(numbers) == len(values) else None


def _count(number: float) -> str:
    return scaled(number, UNITS) if number else DASH


def _bytes(number: float | None) -> str:
    return DASH if number is None else scaled(number, (" B", " kB", " MB", " GB", " TB"))


def _rounded(number: float | None) -> str:
    """Hours or dollars: two places below ten."""
    if number is None:
        return DASH
    return "<0.01" if 0 < number < 0.005 else f"~{number:,.2f}" if number < 10 else f"~{number:,.0f}"
