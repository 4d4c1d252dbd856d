"""The page of a report, in HTML and in Markdown, and the page that compares several runs."""

import json
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from ray_distil.config.evaluation_config import HELD_OUT, folder_of
from ray_distil.drawing.formulas import rendered
from ray_distil.judge.reasons import meanings
from ray_distil.report import ablation, benchmark_tables, cost, excerpts, kept_out, pictures
from ray_distil.report.contents import Report
from ray_distil.report.provenance import declared, saved_config, text_of
from ray_distil.selection.choice import LEFT_OUT
from ray_distil.store.manifest import NOTES, most_common
from ray_distil.store.storage import Folder

Page = dict[str, Any]


def listed(names: list[str]) -> str:
    """E.g. "aime24, math500 and tiny"."""
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1] if names else ""]))


def page_of(run_folder: Folder, report: Report, headline: str, artifacts: Sequence[str]) -> Page:
    """All values for a run's page and Markdown. `artifacts`: those whose rejected rows are shown."""
    saved = saved_config(run_folder)
    compared = [name for name in (report.baseline, report.student or report.compared_model) if name]
    first = folder_of(report.benchmarks[0]) if report.benchmarks else ""

    drawn = pictures.pictures(
        run_folder, report.models, report.stages, report.baseline, report.student or report.compared_model
    )

    # An evaluation alone has a shorter page.
    is_alone = bool(report.models) and report.student is None and not (saved.get("teachers") or saved.get("training"))
    has_all = not is_alone and (saved.get("training") is not None or not saved.get("teachers"))
    return {
        **_of_models(report, _measured_with(report)),
        "run": report.run,
        "kicker": f"Run {report.run}",
        "title": f"{report.run}: {'evaluation' if is_alone else 'distillation report'}",
        "headline": headline,
        "facts": [f"{name}: {text}" for name, text in report.facts.items()],
        "stages": report.stage_rows(),
        "reasons": meanings(reason for stage in report.stages for reason in stage["rejects"]),
        "costs": cost.rows_of(report.costs),
        **_of_gates(report),
        "notes": [*_of_settings(report), *_mostly_rejected(report), *json.loads(text_of(run_folder, NOTES) or "[]")],
        "pictures": [picture for picture in drawn if picture["svg"] or has_all],
        "examples": excerpts.side_by_side(run_folder, compared, first) if len(compared) == 2 else [],
        "rewritten": excerpts.rewritten(run_folder),
        "rejected": excerpts.rejected(run_folder, list(artifacts)),
        "unclear": excerpts.unclear(run_folder, report.models),
        "versions": list(report.versions.items()),
        "command": "python jobs/eval.py --config FILE" if is_alone else "python jobs/distill.py --config FILE",
        "config": text_of(run_folder, "config.yaml"),
    }


def _measured_with(report: Report) -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    """Benchmark -> (its declaration, the configuration), of its first model."""
    settings_of_models = {}
    for name in report.benchmarks:
        config = next(
            (
                report.configs[model["name"], name]
                for model in report.of(name)
                if (model["name"], name) in report.configs
            ),
            {},
        )
        settings_of_models[name] = (_declaration(config, name), config)
    return settings_of_models


def _of_settings(report: Report) -> list[str]:
    """A note for each stage of earlier settings, and for each setting with which the models were not measured alike."""
    notes = [f"{stage} is of earlier settings: {changed}" for stage, changed in report.earlier.items()]
    for name in report.benchmarks:
        facts = {}
        for model in report.of(name):
            config = report.configs.get((model["name"], name))
            if config is not None:
                facts[model["name"]] = benchmark_tables.facts(_declaration(config, name), config, [])
        notes += [f"{name}: not measured alike: {line}" for line in benchmark_tables.differences(facts)]
    return notes


def _mostly_rejected(report: Report) -> list[str]:
    """A note where more than half of the texts that could be learnt fail a gate."""
    notes = []
    for stage in report.stages:
        failed = {reason: n for reason, n in stage["rejects"].items() if reason not in LEFT_OUT}
        number = sum(failed.values())
        if stage["name"] == "sft_examples" and 2 * number > stage["rows_in"]:
            notes.append(f"most candidates are rejected: {number:,} of {stage['rows_in']:,} ({most_common(failed)})")
    return notes


def page_of_several(
    report: Report, configs_of: dict[str, dict[str, dict[str, Any]]], comparisons: dict[str, list[str]]
) -> Page:
    """All values for a page of several runs. `configs_of`: run -> benchmark -> with which configuration it was measured;
    `comparisons`: benchmark -> lines.
    """
    declarations: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {}
    unlike = []

    # Runs may have measured a benchmark differently.
    for benchmark in report.benchmarks:
        has_it = {run: configs[benchmark] for run, configs in configs_of.items() if benchmark in configs}
        facts = {
            run: benchmark_tables.facts(_declaration(config, benchmark), config, report.of_run(run, benchmark))
            for run, config in has_it.items()
        }
        unlike += [f"{benchmark}, {line}" for line in benchmark_tables.differences(facts)]
        first = next(iter(has_it.values()))
        declarations[benchmark] = (_declaration(first, benchmark), first)

    page = _of_models(report, declarations)
    for section in page["sections"]:
        section["comparisons"] = comparisons.get(section["name"], [])
    notes = [f"not measured alike: {line}" for line in unlike]

    # Parts of a single run stay empty.
    return {
        **page,
        "baseline": f"{report.baseline} (where that was not measured: the first model)",
        "run": report.run,
        "kicker": f"Runs {report.run}",
        "title": f"{report.run}: compared",
        "facts": [f"{name}: {text}" for name, text in report.facts.items()],
        "headline": f"{len(configs_of)} runs compared on {listed(report.benchmarks)}",
        "stages": [],
        "reasons": {},
        "costs": [],
        **_of_gates(report),
        "notes": notes,
        "pictures": pictures.scatters(report.models, report.baseline, None),
        "examples": [],
        "rewritten": [],
        "unclear": [],
        "rejected": [],
        "versions": [],
        "command": "",
        "config": "",
    }


def _declaration(config: dict[str, Any], benchmark: str) -> dict[str, Any]:
    return declared(config).get(benchmark, {"name": HELD_OUT})


def _of_gates(report: Report) -> Page:
    """The table of rows that the gates kept out, and for each benchmark the table of an ablation."""
    with_variants = report.ablation
    names = list(dict.fromkeys(variant["benchmark"] for variant in with_variants["variants"])) if with_variants else []
    return {
        "curation": {"lines": [], "sources": [], "difficulty": [], "alike": []} | report.curation,
        "sources_header": kept_out.SOURCES_HEADER,
        "difficulty_header": kept_out.DIFFICULTY_HEADER,
        "alike_header": kept_out.ALIKE_HEADER,
        "gate_header": kept_out.HEADER,
        "gates": kept_out.rows_of(report.kept_out),
        "rewriting": report.rewriting,
        "ablation_header": ablation.HEADER,
        "ablations": [{"name": name, "rows": ablation.table(with_variants, name)} for name in names]
        if with_variants
        else [],
        "seeds": with_variants["seeds"] if with_variants else 0,
    }


def _of_models(report: Report, declarations: dict[str, tuple[dict[str, Any], dict[str, Any]]]) -> Page:
    """The tables of models. `declarations`: benchmark -> its declaration, and the configuration that declares it."""
    header, rows = benchmark_tables.recipe_table(
        report.models, [declaration for declaration, _ in declarations.values()]
    )

    several = len(report.benchmarks) > 1
    sections = []
    for name in report.benchmarks:
        declaration, saved = declarations.get(name, ({"name": HELD_OUT}, {}))
        models = report.of(name)
        sections.append({
            "name": name,
            "models": report.model_rows(name),
            "comparisons": report.comparisons(name),
            "samples": report.sample_rows(name),
            "speed": report.speed_rows(name),
            "categories": benchmark_tables.category_rows(models),
            "published": benchmark_tables.published_rows(declaration),
            "facts": benchmark_tables.facts(declaration, saved, models),
        })  # fmt: skip

    return {
        "baseline": report.baseline,
        "student": report.student,
        "benchmarks": report.benchmarks,
        "groups": benchmark_tables.GROUP,
        "overview": benchmark_tables.overview(report.models, report.benchmarks) if several else [],
        "recipe_header": header,
        "recipe": rows,
        "sections": sections,
        "model_header": list(benchmark_tables.MODEL_COLUMNS),
        "sample_header": list(benchmark_tables.SAMPLE_COLUMNS),
        "speed_header": list(benchmark_tables.SPEED_COLUMNS),
        "stage_header": benchmark_tables.STAGE_HEADER,
        "cost_header": cost.HEADER,
        "cost_note": cost.NOTE,
        "category_header": benchmark_tables.CATEGORY_HEADER,
        "published_header": benchmark_tables.PUBLISHED_HEADER,
        "unclear_header": benchmark_tables.UNCLEAR_HEADER,
    }


def html(page: Page) -> str:
    import jinja2

    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)
    environment.filters["formulas"] = rendered
    environment.filters["count"] = lambda number: benchmark_tables.formatted(number, "{:,}")  # "–" where nobody counted
    return environment.get_template("report.html.jinja").render(page)


def markdown(page: Page) -> str:
    def plain(text: str) -> str:
        return escape(text, quote=False)

    def table(header: Sequence[str], rows: list[list[str]]) -> str:
        lines = [list(header), ["---"] * len(header)]
        lines += [[plain(cell).replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows]
        return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)

    parts = [
        f"# {plain(page['headline'])}",
        f"{page['kicker']}.",
        "\n".join(f"- {plain(fact)}" for fact in page["facts"]),
    ]
    if page["overview"]:
        header = ["Model", *(f"{name} {column}" for name in page["benchmarks"] for column in page["groups"])]
        parts += ["## Models", table(header, page["overview"])]
    for section in page["sections"]:
        parts += [f"## On {section['name']}", table(page["model_header"], section["models"])]
        parts += ["\n".join(f"- {plain(line)}" for line in section["comparisons"])]
        parts += ["### Tokens and samples", table(page["sample_header"], section["samples"])]
        if section["speed"]:
            parts += ["### Speed", table(page["speed_header"], section["speed"])]
        if section["categories"]:
            parts += ["### By category", table(page["category_header"], section["categories"])]
        if section["published"]:
            parts += ["### Published", table(page["published_header"], section["published"])]
        parts += ["### How it was measured", table(("", ""), [list(fact) for fact in section["facts"]])]
    if page["recipe"]:
        parts += ["## In the form of the recipe's own table", table(page["recipe_header"], page["recipe"])]
    if page["notes"]:
        parts += ["## Notes", "\n".join(f"- {plain(note)}" for note in page["notes"])]
    if page["stages"]:
        parts += ["## Rows through the stages", table(page["stage_header"], page["stages"])]
        parts += ["\n".join(f"- {reason}: {plain(meaning)}" for reason, meaning in page["reasons"].items())]
    if page["costs"]:
        parts += ["## What it has cost", table(page["cost_header"], page["costs"]), plain(page["cost_note"])]
    curation = page["curation"]
    if any(curation.values()):
        parts += ["## Problems and texts", "\n".join(f"- {plain(line)}" for line in curation["lines"])]
        parts += [table(page["sources_header"], curation["sources"])] if curation["sources"] else []
        parts += [table(page["difficulty_header"], curation["difficulty"])] if curation["difficulty"] else []
        parts += [table(page["alike_header"], curation["alike"])] if curation["alike"] else []
    if page["gates"]:
        parts += ["## What the gates kept out", table(page["gate_header"], page["gates"]), plain(page["rewriting"])]
    if page["unclear"]:
        parts += ["## Answers that could not be read", table(page["unclear_header"], page["unclear"])]
    for variant_table in page["ablations"]:
        where = f": on {plain(variant_table['name'])}" if len(page["ablations"]) > 1 else ""
        parts += [f"## Without a gate{where}", table(page["ablation_header"], variant_table["rows"])]
    if page["config"]:
        parts += ["## How to reproduce", ", ".join(f"{name} {version}" for name, version in page["versions"])]
        parts += [f"```yaml\n{page['config']}```"]
    return "\n\n".join(parts) + "\n"
