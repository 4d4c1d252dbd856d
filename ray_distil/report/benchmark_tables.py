"""A report's tables of benchmarks: a row for each model, the recipe's table, published figures, how it was measured.

`models` are entries of report.json; `declared` is a benchmark's declaration in config.yaml.
"""

from collections.abc import Callable, Iterable
from typing import Any

from ray_distil.config.evaluation_config import HELD_OUT
from ray_distil.evaluation.scores import clustered_wilson

Model = dict[str, Any]
DASH = "–"
STAGE_HEADER = ("Stage", "In", "Out", "Rejected", "Seconds", "Counted in", "Why rejected")
GROUP = ("Accuracy", "Tokens", "Speed gain")  # columns of each benchmark
PUBLISHED_HEADER = ("Published", "Accuracy", "95% interval", "Tokens", "Answers a problem", "Source")
UNCLEAR_HEADER = ("Where", "Stated answer", "Reference")
CATEGORY_HEADER = ("Category", "Model", "Accuracy", "95% interval", "Tokens", "Completed", "Problems")
RECIPE = {"mmlu_pro": "MMLU_PRO tokens", "aime24": "AIME2024 tokens"}  # columns of the recipe's own table


def formatted(value: float | None, form: str) -> str:
    return DASH if value is None else form.format(value)


def scaled(number: float, units: tuple[str, ...]) -> str:
    """An estimate in the largest unit of a thousand that fits, e.g. "~3.61 MB"."""
    power = 0
    while number >= 1000 and power < len(units) - 1:
        number, power = number / 1000, power + 1
    return f"~{number:.3g}{units[power]}" if number < 999.5 else f"~{number:,.0f}{units[power]}"


def interval(bounds: list[float] | None) -> str:
    return DASH if bounds is None else f"{100 * bounds[0]:.1f}–{100 * bounds[1]:.1f}%"


def _of(key: str, form: str) -> Callable[[Model], str]:
    """A cell with a figure of the model, e.g. "{:.1%}"; a dash where it is not known."""
    return lambda model: formatted(model.get(key), form)


def _problems(model: Model) -> str:
    num_rejected = model.get("num_rejected", 0)
    return f"{model['num_problems']:,}" + (f" ({num_rejected:,} answers rejected)" if num_rejected else "")


def _with_samples(model: Model) -> str:
    """The share of problems of which at least one of all samples is right."""
    return formatted(model.get("pass_at", {}).get(str(model.get("num_samples") or 0)), "{:.1%}")


# Tables with a row for each model of a benchmark: the header of each column, and its cell. Another figure for each model
# is computed in evaluation/scores.py: summary, and has a line here.
Columns = dict[str, Callable[[Model], str]]
MODEL_COLUMNS: Columns = {
    "Model": lambda model: str(model["name"]),
    "Accuracy": _of("accuracy", "{:.1%}"),
    "95% interval": lambda model: interval(model.get("accuracy_interval")),
    "Tokens": _of("mean_tokens", "{:,.1f}"),
    "Completed": _of("completion_rate", "{:.1%}"),
    "Speed gain": _of("speed_gain", "{:.1f}x"),
    "Problems": _problems,
}
SAMPLE_COLUMNS: Columns = {
    "Model": lambda model: str(model["name"]),
    "Median": _of("median_tokens", "{:,.0f}"),
    "90%": _of("p90_tokens", "{:,.0f}"),
    "Thinking": _of("mean_thinking_tokens", "{:,.0f}"),
    "Right": _of("tokens_of_right", "{:,.0f}"),
    "Wrong": _of("tokens_of_wrong", "{:,.0f}"),
    "Cut": _of("tokens_of_cut", "{:,.0f}"),
    "A right answer": _of("tokens_per_correct", "{:,.0f}"),
    "Without answer": _of("no_answer_rate", "{:.1%}"),
    "Unclear": lambda model: formatted(model.get("num_unclear"), f"{{:,}} of {model.get('num_wrong') or 0:,}"),
    "Samples": lambda model: str(model.get("num_samples") or 0),
    "Majority": _of("majority", "{:.1%}"),
    "One of all": _with_samples,
}
SPEED_COLUMNS: Columns = {
    "Model": lambda model: str(model["name"]),
    "Seconds alone": _of("seconds", "{:,.2f}"),
    "Gain in seconds": _of("seconds_gain", "{:.1f}x"),
    "Gain in tokens": _of("speed_gain", "{:.1f}x"),
    "Tokens/s together": _of("tokens_per_s", "{:,.0f}"),
    "Timed alone": lambda model: f"{model.get('num_timed') or 0:,}",
}


def rows_of(columns: Columns, models: Iterable[Model]) -> list[list[str]]:
    return [[cell(model) for cell in columns.values()] for model in models]


def overview(models: list[Model], benchmarks: list[str]) -> list[list[str]]:
    """A row for each model: its name, then the columns GROUP for each benchmark; a dash where it was not measured."""
    by_name = {(model["name"], model["benchmark"]): model for model in models}
    rows = []
    for name in dict.fromkeys(model["name"] for model in models):
        row = [name]
        for benchmark in benchmarks:
            entry = by_name.get((name, benchmark), {})
            accuracy = formatted(entry.get("accuracy"), "{:.1%}")
            bounds = entry.get("accuracy_interval")
            interval = f" ({100 * bounds[0]:.0f}–{100 * bounds[1]:.0f})" if bounds else ""
            row += [
                accuracy + interval,
                formatted(entry.get("mean_tokens"), "{:,.0f}"),
                formatted(entry.get("speed_gain"), "{:.1f}x"),
            ]
        rows.append(row)
    return rows


def recipe_table(models: list[Model], declared: list[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Header and rows in the form of the recipe's own table, then its published rows; only benchmarks that were run.

    Both are [] where none was run. Each benchmark has its own speed gain: the published 32B students have 6.1 and 2.9.
    """
    ran = [name for name in RECIPE if any(model["benchmark"] == name for model in models)]
    if not ran:
        return [], []
    rows = []
    for name in dict.fromkeys(model["name"] for model in models):
        by_benchmark = {model["benchmark"]: model for model in models if model["name"] == name}
        mean_tokens = [formatted(by_benchmark.get(b, {}).get("mean_tokens"), "{:,.0f}") for b in ran]
        rows.append([name, *mean_tokens, _gains([by_benchmark.get(b, {}).get("speed_gain") for b in ran])])
    published: dict[str, dict[str, float]] = {}
    for declaration in declared:
        for figure in declaration.get("published", []):
            if figure.get("tokens") and declaration["name"] in ran:
                published.setdefault(figure["model"], {})[declaration["name"]] = figure["tokens"]
    slowest = {b: max((tokens[b] for tokens in published.values() if b in tokens), default=0.0) for b in ran}
    for name, tokens in published.items():
        gains = [slowest[b] / tokens[b] if b in tokens else None for b in ran]
        rows.append([f"{name} (published)", *(formatted(tokens.get(b), "{:,.0f}") for b in ran), _gains(gains)])
    return ["Model", *(RECIPE[b] for b in ran), "Speed gain"], rows


def _gains(gains: list[float | None]) -> str:
    return ", ".join(formatted(gain, "{:.1f}x") for gain in gains)


def published_rows(declared: dict[str, Any]) -> list[list[str]]:
    """Published figures, marked as single runs. They get an interval only where each problem has one answer."""
    rows = []
    for figure in declared.get("published", []):
        n, accuracy, samples = declared.get("num_problems"), figure.get("accuracy"), figure.get("samples", 1)
        bounds = None
        if accuracy is not None and n and samples == 1:  # as many right answers as published
            right = round(accuracy * n)
            bounds = list(clustered_wilson([1.0] * right + [0.0] * (n - right), n))
        answers = "1, a single run" if samples == 1 else f"{samples:,}, a single run"
        tokens = formatted(figure.get("tokens"), "{:,.0f}")
        rows.append(
            [figure["model"], formatted(accuracy, "{:.1%}"), interval(bounds), tokens, answers, figure["source"]]
        )
    return rows


def category_rows(models: list[Model]) -> list[list[str]]:
    """A row for each category and model."""
    names = sorted({name for model in models for name in model.get("categories", {})})
    rows = []
    for name in names:
        for model in models:
            figures = model.get("categories", {}).get(name)
            if figures is not None:
                rows.append([
                    name,
                    model["name"],
                    formatted(figures["accuracy"], "{:.1%}"),
                    interval(figures["accuracy_interval"]),
                    formatted(figures["mean_tokens"], "{:,.0f}"),
                    formatted(figures["completion_rate"], "{:.1%}"),
                    f"{figures['num_problems']:,}",
                ])  # fmt: skip
    return rows


def facts(declared: dict[str, Any], saved: dict[str, Any], models: list[Model]) -> list[tuple[str, str]]:
    """How a benchmark was measured: (name, value) pairs from the saved configuration and the models' manifests."""
    evaluation = saved.get("evaluation", {})
    is_own = declared["name"] == HELD_OUT
    sampling = declared.get("sampling_params") or evaluation.get("sampling_params") or {}

    # The run's own problems have only a suffix.
    prompt = declared.get("prompt")
    if is_own:
        prompt = "{instruction}" + str(saved.get("instructions", {}).get("suffix") or "")

    engine = evaluation.get("engine") or {}
    scored = sorted({model["scored_by"] for model in models if model.get("scored_by")})
    engines = sorted({model["engine"] for model in models if model.get("engine")})
    values = {
        "problems": "held out of the run's own instructions" if is_own else declared.get("path"),
        "limit": declared.get("limit") or "none",
        "prompt": prompt or "as the kind of answer has it",
        "samples": declared.get("num_samples") or evaluation.get("num_samples", 1),
        "sampling": ", ".join(f"{name} {value}" for name, value in sampling.items() if value is not None) or DASH,
        "answer": declared.get("answer", "math"),
        "scorer": ", ".join(scored) or DASH,
        "engine": ", ".join(engines) or DASH,
        "dtype": engine.get("engine_kwargs", {}).get("dtype", "the model's own"),
        "max_model_len": engine.get("engine_kwargs", {}).get("max_model_len", "the model's own"),
    }

    return [(name, str(value)) for name, value in values.items()]


def differences(facts_of: dict[str, list[tuple[str, str]]]) -> list[str]:
    """A sentence for each fact that differs between runs. `facts_of`: name of a run -> its `facts`."""
    lines = []
    for name in dict.fromkeys(name for facts in facts_of.values() for name, _ in facts):
        values = {run: dict(facts).get(name, DASH) for run, facts in facts_of.items()}
        if len(set(values.values())) > 1:
            lines.append(f"{name}: " + "; ".join(f"{run} {value!r}" for run, value in values.items()))
    return lines
