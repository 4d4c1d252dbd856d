"""The report of a run: one self-contained HTML page, and the same facts in Markdown and JSON.

Reads manifests, Parquet shards, `config.yaml`, `notes.json`, `checkpoint/metrics.jsonl` and `report/ablation.json`, and
nothing else. A run can be reported at any point: the page says what the run does not hold. Needs neither Ray nor torch.
"""

from collections.abc import Collection
from dataclasses import replace
from typing import Any

import pyarrow as pa
from rich.table import Table

from ray_distil.config import TRAINED
from ray_distil.config.evaluation_config import folder_of
from ray_distil.errors import DamagedFile, UserError
from ray_distil.evaluation import scores
from ray_distil.report import ablation, cost, excerpts, kept_out, model_card, provenance, report_page
from ray_distil.report.contents import Report, compared_sentence, console_table, difference_seen
from ray_distil.report.cost import Cost, StageFiles
from ray_distil.selection.choice import LEFT_OUT
from ray_distil.store.manifest import MANIFEST, Manifest, most_common, read_manifest
from ray_distil.store.schemas import CHAIN
from ray_distil.store.storage import Folder


def read(run_folder: Folder) -> Report:
    """The report of a run from its manifests. Raises UserError without a run folder."""
    provenance.check_run(run_folder)
    compared = _compared(run_folder)

    manifests = [m for m in (read_manifest(run_folder / name) for name in artifacts_of(run_folder)) if m is not None]
    by_name = {m.artifact: m for m in manifests}
    rewrites, examples = by_name.get("rewrites"), by_name.get("sft_examples")
    times = {(t["name"], t["benchmark"]): t for m in manifests if m.artifact.startswith("timing/") for t in [m.summary]}

    # Figures of the evaluations, beside their baseline.
    earlier = provenance.earlier(run_folder, manifests)
    evaluations = [m for m in manifests if m.artifact.startswith("eval/")]
    summaries = [_figures(run_folder, m) | _of_settings(earlier.get(m.artifact)) for m in evaluations]
    summaries = [summary | _timed(times.get((summary["name"], summary["benchmark"]))) for summary in summaries]
    models = []
    for benchmark in compared["benchmarks"]:
        of_benchmark = [summary for summary in summaries if summary["benchmark"] == benchmark]
        of_benchmark = _beside_baseline(run_folder, of_benchmark, compared["baseline"], benchmark)
        models += scores.compare(of_benchmark, compared["baseline"])

    # Evaluations that the configuration has no more were paid for, and are compared with nothing.
    left = _left_evaluations(run_folder, compared)
    manifests += [manifest for manifest, _ in left]
    earlier |= {manifest.artifact: why for manifest, why in left}

    return Report(
        run=run_folder.name,
        models=models,
        stages=[_stage_entry(m) for m in manifests],
        units=[m.unit for m in manifests],
        baseline=compared["baseline"],
        student=compared["student"] if any(m["name"] == compared["student"] for m in models) else None,
        kept_out=kept_out.by_gate(rewrites, examples, provenance.configuration(run_folder, examples).get("gates", {})),
        curation=kept_out.curation(by_name.get("instructions"), by_name.get("responses"), examples),
        rewriting=kept_out.rewriting(rewrites),
        ablation=ablation.saved(run_folder),
        files=[StageFiles(m.artifact, m.seconds, m.files, m.made_of.get("config")) for m in manifests],
        configs={
            (m.summary["name"], m.summary["benchmark"]): provenance.configuration(run_folder, m) for m in evaluations
        },
        earlier={m.artifact: earlier[m.artifact] for m in manifests if m.artifact in earlier},
        versions=_versions(manifests),
        num_steps=next((m.summary.get("num_steps") for m in manifests if m.artifact == "checkpoint"), None),
        facts=provenance.facts(provenance.saved_config(run_folder), manifests),
    )


def _versions(manifests: list[Manifest]) -> dict[str, str]:
    """Library -> the versions of it by which the artifacts were made, wherever this page is made."""
    by_library: dict[str, dict[str, None]] = {}
    for manifest in manifests:
        for name, version in manifest.versions.items():
            by_library.setdefault(name, {})[version] = None
    return {name: ", ".join(versions) for name, versions in by_library.items()}


def artifacts_of(run_folder: Folder) -> list[str]:
    """The artifacts that the run's configuration makes, in the order of the stages. Some may not be there."""
    compared = _compared(run_folder)
    return ["instructions", *_benchmarks(compared), *CHAIN[1:], *_evaluations(compared)]


def build(run_folder: Folder) -> Report:
    """Write report/report.html, report.md and report.json, and the student's card; returns the report."""
    report = with_costs(run_folder, read(run_folder))
    folder = run_folder / "report"
    page = report_page.page_of(run_folder, report, headline(report), artifacts_of(run_folder))
    folder.write_text("report.html", report_page.html(page))
    folder.write_text("report.md", report_page.markdown(page))
    folder.write_text("report.json", report.to_json())
    model_card.write(run_folder, report)
    return report


def with_costs(run_folder: Folder, report: Report) -> Report:
    """The report with what the run has cost: this reads a few columns of all shards with texts."""
    return replace(report, costs=cost.costs(run_folder, provenance.saved_config(run_folder), report.files))


def stages_table(report: Report, without: Collection[str] = ()) -> Table:
    """The finished stages as a table for the console; `without`: names of stages to leave out."""
    return report.stages_table(without)


def cost_table(costs: list[Cost]) -> Table:
    """Tokens, GPU-hours and dollars of the stages as a table for the console."""
    return console_table("Cost so far", cost.HEADER, cost.rows_of(costs), left=(0,))


def models_tables(report: Report) -> list[Table]:
    """The compared models as tables for the console, one for each benchmark, in the form of the recipe's table."""
    return report.models_tables()


def ablation_tables(report: Report) -> list[Table]:
    """The student with and without a gate, as tables for the console, one for each benchmark."""
    with_variants = report.ablation or {"variants": []}
    names = dict.fromkeys(variant["benchmark"] for variant in with_variants["variants"])
    return [
        console_table(f"Without a gate, on {name}", ablation.HEADER, ablation.table(with_variants, name), (0,))
        for name in names
    ]


def headline(report: Report) -> str:
    """The result in one sentence, good or bad."""
    by_name = {model["name"]: model for model in report.of(None)}
    slow, fast = by_name.get(report.baseline), by_name.get(str(report.student))
    if report.student is None and report.models:
        models = len({model["name"] for model in report.models})
        return f"{models} model{'s' if models > 1 else ''} on {report_page.listed(report.benchmarks)}"
    examples = next((stage for stage in report.stages if stage["name"] == "sft_examples"), None)
    if not report.models and examples is not None:
        num_left_out = sum(examples["rejects"].get(reason, 0) for reason in LEFT_OUT)
        passed = (
            f"{examples['rows_out'] + num_left_out:,} of {examples['rows_in']:,} texts of the teachers pass the gates"
        )
        return passed + (f", and {examples['rows_out']:,} are learnt" if num_left_out else ", as training examples")
    if not slow or not fast:
        return "This run compares no student with its baseline"

    # Fewer tokens, and at which accuracy.
    if fast["accuracy"] == 0:  # fewer tokens are no gain where no answer is right
        return _nothing_right(report, fast)
    if slow["mean_tokens"] and fast["mean_tokens"]:
        share = fast["mean_tokens"] / slow["mean_tokens"]
        sentence = f"{fast['name']} answers with {share:.0%} of the tokens of {slow['name']}"
    else:
        sentence = f"{fast['name']} beside {slow['name']}, with tokens that were not all counted"
    if slow["accuracy"] is None or fast["accuracy"] is None:
        return sentence
    sentence += f": accuracy {fast['accuracy']:.1%} against {slow['accuracy']:.1%}"
    return sentence + difference_seen((fast.get("against") or {}).get("accuracy"))


def _nothing_right(report: Report, fast: dict[str, Any]) -> str:
    """E.g. "no answer of fast is right: 100% state none; it has learnt 30 texts in 6 steps; 242 of 272 candidates are rejected"."""
    parts = [f"no answer of {fast['name']} is right, on {fast['num_problems']:,} problems"]
    if without := fast.get("no_answer_rate"):
        parts[0] += f": {without:.0%} state none"
    by_name = {stage["name"]: stage for stage in report.stages}
    if (learnt := by_name.get("packed")) is not None:
        steps = f" in {report.num_steps:,} steps" if report.num_steps is not None else ""
        parts.append(f"it has learnt {learnt['rows_out']:,} texts{steps}")
    examples = by_name.get("sft_examples")
    if examples is not None and examples["rows_rejected"] > examples["rows_out"]:
        why = most_common(examples["rejects"])
        parts.append(f"{examples['rows_rejected']:,} of {examples['rows_in']:,} candidates are rejected ({why})")
    return "; ".join(parts)


def _figures(run_folder: Folder, evaluation: Manifest) -> dict[str, Any]:
    """The figures of an evaluation, as they were computed when it was made; those that the code has learnt since are added."""
    summary = evaluation.summary
    try:
        answers = excerpts.answers_and_rejects(run_folder / evaluation.artifact, list(scores.COLUMNS))
    except (
        FileNotFoundError,
        DamagedFile,
        pa.ArrowInvalid,
    ):  # shards that are gone, or without columns of this version
        return summary
    return scores.summarise(*answers, summary["name"], summary["benchmark"]) | summary


def _of_settings(changed: str | None) -> dict[str, str]:
    return {} if changed is None else {"earlier": changed}


def _stage_entry(manifest: Manifest) -> dict[str, Any]:
    return {
        "name": manifest.artifact,
        "rows_in": manifest.rows_in,
        "rows_out": manifest.rows_out,
        "rows_rejected": manifest.rows_rejected,
        "rejects": manifest.rejects,
        "seconds": manifest.seconds,
    }


def _compared(run_folder: Folder) -> dict[str, Any]:
    """From the saved configuration: names of the compared models and benchmarks, the baseline, the trained student."""
    saved = provenance.saved_config(run_folder)
    evaluation = saved.get("evaluation", {})
    return {
        "names": [model["name"] for model in evaluation.get("models", [])],
        "baseline": evaluation.get("baseline", "slow"),
        "student": next((m["name"] for m in evaluation.get("models", []) if m.get("model_source") == TRAINED), None),
        "benchmarks": list(provenance.declared(saved)),
    }


def _benchmarks(compared: dict[str, Any]) -> list[str]:
    """Names of the artifacts that hold the problems of the benchmarks."""
    return [f"benchmarks/{name}" for name in compared["benchmarks"]]


def _evaluations(compared: dict[str, Any]) -> list[str]:
    """Names of the artifacts of all models on all benchmarks: answers (`eval/`) and times (`timing/`)."""
    both = [f"{name}/{folder_of(b)}" for b in compared["benchmarks"] for name in compared["names"]]
    return [f"{kind}/{label}" for label in both for kind in ("eval", "timing")]


def _left_evaluations(run_folder: Folder, compared: dict[str, Any]) -> list[tuple[Manifest, str]]:
    """Finished evaluations and timings of a model or a benchmark that the configuration does not name, and which it is."""
    present, left = set(_evaluations(compared)), []
    benchmarks = {folder_of(name) for name in compared["benchmarks"]}
    for kind in ("eval", "timing"):
        folders = {file.rpartition("/")[0] for file in (run_folder / kind).files("", f"/{MANIFEST}", recursive=True)}
        for folder in sorted(folders - {name.removeprefix(f"{kind}/") for name in present}):
            model, _, benchmark = folder.partition("/")
            why = f"{benchmark} is no benchmark" if benchmark not in benchmarks else f"{model} is no model"
            if (manifest := read_manifest(run_folder / kind / folder)) is not None:
                left.append((manifest, f"{why} of the configuration"))
    return left


def _timed(summary: dict[str, Any] | None) -> dict[str, Any]:
    """The measured times of a model, for its entry in report.json; {} where nothing was measured."""
    return {} if summary is None else {name: summary[name] for name in ("seconds", "num_timed")}


def _beside_baseline(
    run_folder: Folder, models: list[dict[str, Any]], baseline: str, benchmark: str
) -> list[dict[str, Any]]:
    """The models with `against`: accuracy and tokens compared with the baseline by problem; None for the baseline."""
    if baseline not in [model["name"] for model in models]:
        return models
    base = _answers(run_folder, baseline, benchmark)
    entries = []
    for model in models:
        is_baseline = model["name"] == baseline
        pair = None if is_baseline else _pair(_answers(run_folder, model["name"], benchmark), base)
        entries.append(model | {"against": pair})
    return entries


def _pair(answers: pa.Table, base: pa.Table) -> dict[str, Any]:
    """A model beside the baseline, on their common problems."""
    return {"accuracy": scores.difference(answers, base), "tokens": scores.gain(answers, base)}


def build_several(run_folders: list[Folder]) -> tuple[Report, str]:
    """Several runs as one report, and its HTML page. A model is named RUN/NAME. Raises UserError for what is no run."""
    models, comparisons = [], dict[str, list[str]]()
    configs_of: dict[str, dict[str, dict[str, Any]]] = {}  # run -> benchmark -> the configuration of its first model
    facts: dict[str, str] = {}
    by_name = _names(run_folders)
    for name, folder in by_name.items():
        of_run = read(folder)
        configs_of[name] = {benchmark: config for (_, benchmark), config in reversed(of_run.configs.items())}
        models += [m | {"run": name, "own_name": m["name"], "name": f"{name}/{m['name']}"} for m in of_run.models]
        facts |= {f"{name}/{fact}": text for fact, text in of_run.facts.items()}
    if not models:
        raise UserError(f"{', '.join(by_name)}: none of these runs has compared a model yet")

    # One baseline, where it was measured.
    benchmarks = list(dict.fromkeys(model["benchmark"] for model in models))
    baseline = f"{models[0]['run']}/{read(run_folders[0]).baseline}" if models[0]["run"] == next(iter(by_name)) else ""
    if baseline not in [model["name"] for model in models]:
        baseline = models[0]["name"]

    compared = []
    for benchmark in benchmarks:
        of_benchmark = [model for model in models if model["benchmark"] == benchmark]
        base = baseline if any(model["name"] == baseline for model in of_benchmark) else of_benchmark[0]["name"]
        answers = {m["name"]: _answers(by_name[m["run"]], m["own_name"], benchmark) for m in of_benchmark}
        pairs = {name: _pair(rows, answers[base]) if name != base else None for name, rows in answers.items()}
        compared += scores.compare([m | {"against": pairs[m["name"]]} for m in of_benchmark], base)
        comparisons[benchmark] = [compared_sentence(name, base, pair) for name, pair in pairs.items() if pair]

    report = Report(", ".join(by_name), compared, [], [], baseline, None, facts=facts)
    return report, report_page.html(report_page.page_of_several(report, configs_of, comparisons))


def _names(run_folders: list[Folder]) -> dict[str, Folder]:
    """Name -> run. The name is the folder's; equal names get a number, e.g. "tiny" and "tiny-2"."""
    by_name: dict[str, Folder] = {}
    for folder in run_folders:
        number = sum(folder_named.name == folder.name for folder_named in by_name.values())
        by_name[f"{folder.name}-{number + 1}" if number else folder.name] = folder
    return by_name


def _answers(run_folder: Folder, model: str, benchmark: str) -> Any:
    columns = ["instruction_id", "correct", "complete", "answer", "num_generated_tokens"]
    return excerpts.answers(run_folder / "eval" / model / folder_of(benchmark), columns)
