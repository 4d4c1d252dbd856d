"""The card of a trained student: a README.md in its folder, in the form that Hugging Face's hub shows.

The head has the hub's metadata, with the measured figures as evaluation results. The text has the figures with their
intervals, how they were measured, and from what the student was made. The user must add the licence.
"""

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from ray_distil.config.evaluation_config import HELD_OUT, folder_of
from ray_distil.report import benchmark_tables, cards, kept_out
from ray_distil.report.contents import Report
from ray_distil.report.provenance import configuration, declared, is_of_this_student, saved_config, source_of
from ray_distil.store import hub
from ray_distil.store.manifest import CARD, STUDENT, Manifest, read_manifest
from ray_distil.store.storage import Folder

HUB = "hf://datasets/"
FIGURES = {"accuracy": ("Accuracy", 100), "mean_tokens": ("Mean tokens of an answer", 1)}  # name, scale


def write(run: Folder, report: Report) -> None:
    """Write the card of the run's student, if the student has been trained and evaluated. See `card`.

    The card has the settings with which each part was made, and no figure of another student than the one that is there.
    """
    checkpoint = read_manifest(run / "checkpoint")
    if checkpoint is None or report.student is None:
        return
    measured = {(m.summary["name"], m.summary["benchmark"]) for m in _evaluations(run, report, checkpoint)}
    models = [m for m in report.models if m["name"] != report.student or (m["name"], m["benchmark"]) in measured]
    if not any(model["name"] == report.student for model in models):
        return
    made_with = {name: configuration(run, read_manifest(run / name)) for name in ("responses", "sft_examples")}
    saved = configuration(run, checkpoint)
    saved |= {"teachers": made_with["responses"].get("teachers"), "gates": made_with["sft_examples"].get("gates")}
    saved |= {"curation": made_with["sft_examples"].get("curation")}
    saved = cards.licensed(saved, saved_config(run))
    student, text = run / "checkpoint" / STUDENT, card(replace(report, models=models), saved, checkpoint)
    if not student.exists(CARD) or student.read_text(CARD) != text:  # nodes copy a changed file again
        student.write_text(CARD, text)


def _evaluations(run: Folder, report: Report, checkpoint: Manifest) -> Iterator[Manifest]:
    """The finished evaluations of the student that is there."""
    for model in report.models:
        manifest = read_manifest(run / "eval" / model["name"] / folder_of(model["benchmark"]))
        if model["name"] == report.student and manifest is not None and is_of_this_student(manifest, checkpoint):
            yield manifest


def card(report: Report, saved: dict[str, Any], checkpoint: Manifest) -> str:
    """The text of the card. saved: the configuration with which the student was made."""
    configs = {name: report.configs.get((str(report.student), name), saved) for name in report.benchmarks}
    declarations = {name: declared(config).get(name, {"name": HELD_OUT}) for name, config in configs.items()}
    training, teachers = saved.get("training") or {}, saved.get("teachers") or {}
    student = training.get("student", "")

    parts = [
        f"---\n{_metadata(report, saved, declarations)}\n---",
        f"# {report.run}",
        f"{cards.name_of(student)}, trained to answer with fewer tokens: distilled by long2short, after DistilQwen2.5-DS3-0324.",
        "## Figures",
    ]
    for name in report.benchmarks:
        parts += [f"On {name}:", cards.table(list(benchmark_tables.MODEL_COLUMNS), report.model_rows(name))]
        parts += ["\n".join(f"- {comparison}" for comparison in report.comparisons(name))]
        facts = benchmark_tables.facts(declarations[name], configs[name], report.of(name))
        parts += ["\n".join(f"- {fact}: {' '.join(value.split())}" for fact, value in facts)]

    # A user must ask as in training.
    system_prompt = training.get("system_prompt")
    prompt = (
        "that of its chat template, if it has one"
        if system_prompt is None
        else repr(system_prompt)
        if system_prompt
        else "none"
    )
    parts += ["## Use", f"System prompt in training: {prompt}. Behind each instruction: {_suffix(saved)}."]
    if (saved.get("instructions") or {}).get("suffix"):
        parts += ["The chat template does not add the text behind the instruction: write it behind each question."]
    if defaults := _of_the_template(saved, training):
        parts += [
            f"The chat template has these as its defaults, so that a bare question is asked as in training: {defaults}."
        ]

    parts += ["## Made of", "\n".join(f"- {line}" for line in _made_of(report, saved, teachers, training, checkpoint))]
    parts += ["## Data", cards.table(kept_out.SOURCES_HEADER, report.curation.get("sources") or [])]
    lines = report.curation.get("lines") or []
    parts += [cards.listed([cards.plain(line) for line in lines])]
    if not any(line.startswith(kept_out.LOOKED_FOR) for line in lines):
        parts += ["No test problems were looked for among the training problems."]
    parts += ["## Licences", _licences(saved)]
    return "\n\n".join(filter(None, parts)) + "\n"


def _metadata(report: Report, saved: dict[str, Any], declarations: dict[str, dict[str, Any]]) -> str:
    from huggingface_hub import EvalResult, ModelCardData

    results = []
    for name in report.benchmarks:
        figures = next((model for model in report.of(name) if model["name"] == report.student), None)
        declaration = declarations.get(name, {})
        path, _, revision = str(declaration.get("path") or "").partition("@")
        for figure, (title, scale) in FIGURES.items():
            if figures is not None and figures[figure] is not None:
                results.append(
                    EvalResult(
                        task_type="text-generation",
                        dataset_type=path.removeprefix(HUB) if path.startswith(HUB) else name,
                        dataset_name=name,
                        dataset_revision=revision or None,
                        dataset_split=declaration.get("dataset_split") if path.startswith(HUB) else None,
                        metric_type=figure,
                        metric_name=title,
                        metric_value=round(scale * figures[figure], 2),
                        dataset_args={"num_problems": figures["num_problems"]},
                    )
                )
    source = str((saved.get("training") or {}).get("student", ""))
    data = ModelCardData(
        model_name=report.run,
        base_model=hub.split(source)[0] if hub.is_hub_name(source) else None,
        datasets=cards.hub_sources(saved) or None,
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["distillation", "reasoning", "synthetic", "long2short"],
        eval_results=results or None,
    )
    return str(data.to_yaml())


def _made_of(
    report: Report, saved: dict[str, Any], teachers: dict[str, Any], training: dict[str, Any], checkpoint: Manifest
) -> list[str]:
    lines = []
    for name, teacher in teachers.items():
        if isinstance(teacher, dict):
            lines.append(f"{name} teacher: {cards.name_of(source_of(teacher))}; {cards.sampling_of(teacher)}")

    # How many rows came through, and why.
    lines += [
        f"{stage['name']}: {stage['rows_in']:,} in, {stage['rows_out']:,} out, {stage['rows_rejected']:,} rejected"
        for stage in report.stages
        if not stage["name"].startswith(("eval/", "timing/"))
    ]
    lines.append(f"gates: {cards.gates_of(saved)}")
    lines.append(f"choice: {cards.choice_of(saved) or 'all texts that passed the gates'}")
    if report.rewriting:
        lines.append(report.rewriting)

    # The training, and the versions of packages.
    names = (
        "max_steps" if training.get("max_steps") else "num_train_epochs",
        "learning_rate",
        "lr_scheduler_type",
        "warmup_ratio",
        "weight_decay",
        "bf16",
        "lora",
    )
    lines.append(
        "training: " + ", ".join(f"{name} {training[name]}" for name in names if training.get(name) is not None)
    )
    lines.append(", ".join(f"{name} {number}" for name, number in checkpoint.versions.items()))
    return lines


def _licences(saved: dict[str, Any]) -> str:
    """The licences of all that the student is made of, as they are given."""
    training = saved.get("training") or {}
    base, licence = cards.name_of(str(training.get("student", ""))), training.get("student_license")
    rows = [["this model", "", cards.TO_BE_ADDED], ["the model that was trained", base, licence or cards.TO_BE_ADDED]]
    rows += [[f"problems of {s['label']}", s["place"], s["licence"]] for s in cards.sources_of(saved)]
    rows += [[f"texts of the {model['role']}", model["name"], model["licence"]] for model in cards.models_of(saved)]
    return cards.table(["Of", "Where it is from", "Licence"], rows)


def _of_the_template(saved: dict[str, Any], training: dict[str, Any]) -> str:
    """What the exported chat template sets where a request does not; "" for nothing."""
    if (saved.get("packing") or {}).get("template") is not None:
        return "the form of packing.template, for one question a conversation"
    settings_lines = ["the system prompt"] if training.get("system_prompt") is not None else []
    settings_lines += [
        f"{name} {json.dumps(value)}" for name, value in (training.get("chat_template_kwargs") or {}).items()
    ]
    return ", ".join(settings_lines)


def _suffix(saved: dict[str, Any]) -> str:
    suffix = str((saved.get("instructions") or {}).get("suffix") or "")
    return repr(suffix) if suffix else "nothing"
