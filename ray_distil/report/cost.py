"""What a run has cost so far: tokens that models read and wrote, GPU-hours, and dollars where the plan has their price.

Tokens are those of the accepted rows, whichever start of the stage has made them; failed requests have none. GPU-hours
are the hours since the stage's last start, times the GPUs that its engines or workers may hold; earlier starts of the
stage are not in them.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import pyarrow.compute as pc

from ray_distil.config import StagesConfig
from ray_distil.config.engine_config import BackendConfig
from ray_distil.config.evaluation_config import HELD_OUT, BenchmarkConfig, folder_of
from ray_distil.config.models import named_models
from ray_distil.config.plan_config import Expected
from ray_distil.config.section import validate
from ray_distil.errors import DamagedFile, UserError
from ray_distil.generate import generators
from ray_distil.generate.generator import Generator
from ray_distil.report.benchmark_tables import DASH, formatted
from ray_distil.store.ahead import ahead
from ray_distil.store.schemas import ARTIFACTS
from ray_distil.store.shards import TOKEN_COLUMNS
from ray_distil.store.storage import Folder

HEADER = (
    "Stage",
    "Prompt tokens",
    "Generated tokens",
    "Rows",
    "Of a prompt",
    "Of a text",
    "Hours",
    "GPUs",
    "GPU-hours",
    "USD",
)
NOTE = (
    "Tokens of the rows that are there, and their means of a prompt and of a generated text. Hours are those since a stage's last start, GPU-hours these hours times the GPUs "
    "that it may hold. Dollars are by the prices of the plan section."
)
UNCOUNTED, ROWS = "uncounted", "rows"
Tokens = Counter[tuple[str, str]]  # (teacher or "", column of tokens, UNCOUNTED or ROWS) -> tokens or rows


class _Source(NamedTuple):
    """A model that generates texts of a stage."""

    teacher: str  # its name in the rows; "" where all rows are of one model
    generator: Generator
    expected: Expected  # what the plan assumes of it


@dataclass(frozen=True)
class StageFiles:
    """A stage, finished or not: its artifact, the files of it, and the seconds since the stage's last start."""

    artifact: str
    seconds: float
    files: list[str]
    config: dict[str, Any] | None = None  # the configuration with which it was made; None: not known


@dataclass(frozen=True)
class Cost:
    """The cost of one stage; a value is None where it is not known, and dollars also where nothing has a price.

    parts: the same for each teacher where there are several; hours and GPUs are those of the whole stage.
    """

    stage: str
    seconds: float
    prompt_tokens: int | None
    generated_tokens: int | None
    num_uncounted: int  # rows whose tokens nobody counted
    gpus: int | None
    dollars: float | None
    is_priced: bool  # whether the dollars are those of all GPUs and endpoints of the stage
    num_rows: int = 0
    parts: tuple["Cost", ...] = ()

    def mean(self, tokens: int | None) -> float | None:
        """Tokens for each row whose tokens were counted."""
        num_counted = self.num_rows - self.num_uncounted
        return tokens / num_counted if tokens is not None and num_counted > 0 else None

    @property
    def gpu_hours(self) -> float | None:
        return None if self.gpus is None else self.seconds * self.gpus / 3600


def costs(run_folder: Folder, saved: dict[str, Any], stages: Iterable[StageFiles]) -> list[Cost]:
    """The cost of each stage that has one. `saved`: the run's configuration, as its config.yaml has it, with the prices.

    Engines and workers are those of the configuration with which the stage was made.
    """
    stage_costs = []
    for stage in stages:
        if not ARTIFACTS[stage.artifact.partition("/")[0]].is_costly:
            continue
        try:
            config = validate(StagesConfig, (stage.config or saved) | {"plan": saved.get("plan") or {}})
        except UserError:  # it is of another version of this package
            config = None
        if stage.artifact == "checkpoint":
            stage_costs.append(_training_cost(stage, config))
        else:
            stage_costs.append(_generating_cost(run_folder, stage, config))
    return stage_costs


def _training_cost(stage: StageFiles, config: StagesConfig | None) -> Cost:
    if config is None:
        return Cost(stage.artifact, stage.seconds, None, None, 0, None, None, False)
    trained = config.training
    gpus = trained.num_workers if trained is not None and trained.use_gpu else 0
    return Cost(stage.artifact, stage.seconds, None, None, 0, gpus, *_dollars(stage, gpus, config, []))


def _generating_cost(run_folder: Folder, stage: StageFiles, config: StagesConfig | None) -> Cost:
    shards = [file for file in stage.files if file.startswith("part-") and file.endswith(".parquet")]
    tokens: Tokens = Counter()
    for of_shard in ahead(lambda file: _tokens(run_folder / stage.artifact, file), shards):
        tokens.update(of_shard)

    if config is not None and config.teachers is not None:
        imported = {name for name, teacher in config.teachers.sections.items() if teacher.responses is not None}
        tokens = Counter({key: number for key, number in tokens.items() if key[0] not in imported})  # cost nothing here
    prompt, generated, uncounted, num_rows = (_sum(tokens, column) for column in (*TOKEN_COLUMNS, UNCOUNTED, ROWS))
    unpriced = Cost(stage.artifact, stage.seconds, prompt, generated, uncounted, None, None, False, num_rows)
    if config is None:
        return unpriced

    sources = list(_sources(stage.artifact, config))
    parts = tuple(_part(stage, source, tokens) for source in sources) if len(sources) > 1 else ()
    if any(isinstance(source.generator.backend, BackendConfig) for source in sources):  # what it holds is not known
        return replace(unpriced, parts=parts)
    pools = [source.generator.num_gpus for source in sources]
    gpus = (sum if config.run.parallel_engines else max)(pools or [0])
    bills = [_bill(source, tokens) for source in sources if source.generator.endpoint is not None]
    dollars, is_priced = _dollars(stage, gpus, config, bills)
    return replace(unpriced, gpus=gpus, dollars=dollars, is_priced=is_priced, parts=parts)


def _part(stage: StageFiles, source: _Source, tokens: Tokens) -> Cost:
    """One teacher's part of a stage; its dollars are those of an endpoint."""
    columns = (*TOKEN_COLUMNS, UNCOUNTED)
    prompt, generated, num_uncounted = (tokens[source.teacher, column] for column in columns)
    bill = _bill(source, tokens) if source.generator.endpoint is not None else None
    name, num_rows = f"{stage.artifact}/{source.teacher}", tokens[source.teacher, ROWS]
    return Cost(name, stage.seconds, prompt, generated, num_uncounted, None, bill, bill is not None, num_rows)


def _tokens(folder: Folder, shard: str) -> Tokens:
    """The tokens of a shard; none where it is gone or is no Parquet file."""
    tokens: Tokens = Counter()
    try:
        table = folder.read_table(shard, ["teacher", *TOKEN_COLUMNS])
    except (FileNotFoundError, DamagedFile):
        return tokens
    is_of_teachers = "teacher" in table.column_names
    for teacher in table["teacher"].unique().to_pylist() if is_of_teachers else [""]:
        rows = table.filter(pc.equal(table["teacher"], teacher)) if is_of_teachers else table
        columns = {name: rows[name] for name in TOKEN_COLUMNS if name in rows.column_names}
        tokens.update({(teacher, name): pc.sum(column).as_py() or 0 for name, column in columns.items()})
        is_whole = len(columns) == len(TOKEN_COLUMNS)  # timing does not keep the tokens of prompts
        num_null = max((column.null_count for column in columns.values()), default=0)
        tokens[teacher, ROWS] += rows.num_rows
        tokens[teacher, UNCOUNTED] += num_null if is_whole else rows.num_rows
    return tokens


def _sum(tokens: Tokens, column: str) -> int:
    return sum(number for (_, name), number in tokens.items() if name == column)


def _dollars(
    stage: StageFiles, gpus: int, config: StagesConfig, bills: list[float | None]
) -> tuple[float | None, bool]:
    """(dollars of GPUs and endpoints whose price is known, or None; whether those are all)."""
    if gpus:
        price = config.plan.usd_per_gpu_hour
        bills = [*bills, None if price is None else stage.seconds * gpus / 3600 * price]
    dollars = [bill for bill in bills if bill is not None]
    return sum(dollars) if dollars else None, len(dollars) == len(bills)


def _bill(source: _Source, tokens: Tokens) -> float | None:
    """The dollars of an endpoint; None without its price, or where it did not count all tokens."""
    prices = source.expected.usd_per_million_tokens
    if prices is None or tokens[source.teacher, UNCOUNTED]:
        return None
    per_column = zip(TOKEN_COLUMNS, prices, strict=True)
    return sum(tokens[source.teacher, column] * price for column, price in per_column) / 1e6


def _sources(artifact: str, config: StagesConfig) -> Iterator[_Source]:
    """The models that generate the texts of an artifact."""
    kind, *names = artifact.split("/")
    models = named_models(config)

    if kind == "responses":
        for name, generator in generators.teachers(config, models).items():
            yield _Source(name, generator, getattr(config.plan, name))
    elif kind == "rewrites":
        if (rewriter := generators.possible_rewriter(config, models)) is not None:
            assumed = config.plan.long2short
            assumed = config.plan.with_rates_of_slow(assumed) if rewriter.is_slow_teacher else assumed
            yield _Source("", rewriter, assumed)
    else:
        # A model's answers to one benchmark.
        model, folder = names
        compared = [evaluated for evaluated in config.evaluation.models if evaluated.name == model]
        benchmarks = {folder_of(config.evaluation.label(each)): each for each in config.evaluation.benchmarks}

        for evaluated in compared:
            benchmark = benchmarks.get(folder, BenchmarkConfig(name=HELD_OUT))
            label = config.evaluation.label(benchmark) if folder in benchmarks else folder
            expected = config.plan.evaluation.get(expected_key(config, model, label))
            source = models.get(generators.source_key(config, evaluated), "")
            generator = generators.evaluated(config, evaluated, benchmark, source)
            generator = generator.one_at_a_time() if kind == "timing" else generator
            yield _Source("", generator, expected or Expected())


def unlike_prices(config: StagesConfig) -> Iterator[str]:
    """A remark where the slow teacher rewrites, at another price than it answers."""
    rewriter = generators.rewriter(config, named_models(config))
    slow, long2short = config.plan.slow.usd_per_million_tokens, config.plan.long2short.usd_per_million_tokens
    if rewriter is not None and rewriter.is_slow_teacher and None not in (slow, long2short) and slow != long2short:
        yield (
            f"the slow teacher rewrites, at plan.long2short.usd_per_million_tokens={list(long2short or ())}; it answers at "
            f"{list(slow or ())}: set null there for the same price"
        )


def expected_key(config: StagesConfig, model: str, label: str) -> str:
    """The key of `plan.evaluation` that holds for a model on a benchmark; the model's name where there is none."""
    names = (f"{model}/{label}", model, f"*/{label}", "*")
    return next((name for name in names if name in config.plan.evaluation), model)


def rows_of(costs: list[Cost]) -> list[list[str]]:
    """The costs as a table, and their sums as its last row; a sum of which a part is not known says "at least"."""
    if not costs:
        return []

    rows = []
    for cost in costs:
        hours = f"{cost.seconds / 3600:,.2f}", formatted(cost.gpus, "{:,}"), formatted(cost.gpu_hours, "{:,.2f}")
        rows.append(_row(cost, hours))
        rows += [_row(part, ("", "", "")) for part in cost.parts]

    num_uncounted = sum(cost.num_uncounted for cost in costs)
    tokens = [sum(getattr(cost, name) or 0 for cost in costs) for name in ("prompt_tokens", "generated_tokens")]
    gpu_hours = [cost.gpu_hours for cost in costs]
    dollars = [cost.dollars for cost in costs if cost.dollars is not None]
    rows.append([
        "in all",
        *(_tokens_cell(number, num_uncounted) for number in tokens),
        *[""] * 5,
        DASH if None in gpu_hours else f"{sum(hours or 0 for hours in gpu_hours):,.2f}",
        _dollars_cell(sum(dollars) if dollars else None, all(cost.is_priced for cost in costs)),
    ])  # fmt: skip
    return rows


def _row(cost: Cost, hours: tuple[str, str, str]) -> list[str]:
    """hours: the cells of hours, GPUs and GPU-hours."""
    tokens = (cost.prompt_tokens, cost.generated_tokens)
    sums = (_tokens_cell(number, cost.num_uncounted) for number in tokens)
    means = (formatted(cost.mean(number), "{:,.0f}") for number in tokens)
    num_rows = f"{cost.num_rows:,}" if cost.num_rows else DASH
    return [cost.stage, *sums, num_rows, *means, *hours, _dollars_cell(cost.dollars, cost.is_priced)]


def _tokens_cell(number: int | None, num_uncounted: int) -> str:
    return DASH if number is None else f"{'at least ' if num_uncounted else ''}{number:,}"


def _dollars_cell(dollars: float | None, is_priced: bool) -> str:
    if dollars is None:
        return DASH
    digits = f"{dollars:.4f}" if 0 < dollars < 1 else f"{dollars:,.2f}"  # a first small run costs cents
    return digits if is_priced else f"at least {digits}"


def to_json(costs: list[Cost]) -> list[dict[str, Any]]:
    return [asdict(cost) | {"gpu_hours": cost.gpu_hours} for cost in costs]
