"""With which settings the figures of a run were made, and which of them no longer fit the run as it is now.

A manifest keeps the settings and inputs of its fingerprint, and the whole configuration of the command that finished it.
`settings.json` in the run's folder has the settings of the newest command that began a stage. An artifact that differs
from it, or whose predecessors have changed since, is of earlier settings.
"""

import json
from collections.abc import Iterator
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

import yaml

from ray_distil.config import TRAINED
from ray_distil.config.evaluation_config import HELD_OUT
from ray_distil.errors import UserError
from ray_distil.store.manifest import Manifest, content_mark
from ray_distil.store.schemas import ARTIFACTS
from ray_distil.store.storage import Folder
from ray_distil.store.superseded import differences

EXPECTED = "settings.json"  # artifact -> its settings by the newest configuration
NAMED = 3  # differences that a line names


def check_run(run_folder: Folder) -> None:
    """Raises UserError where there is no folder of a run, e.g. where the path is that of a file."""
    if not run_folder.is_folder():
        kind = ", which is a file" if run_folder.exists() else ""
        raise UserError(
            f"there is no run folder {str(run_folder)!r}{kind}; a run lives in STORAGE_PATH/NAME, e.g. runs/tiny"
        )


def saved_config(run_folder: Folder) -> dict[str, Any]:
    """The configuration in the run's config.yaml; {} without this file."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the same in C, ten times as fast, where PyYAML has it
    return yaml.load(text_of(run_folder, "config.yaml"), Loader=loader) or {}


def declared(saved: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Name in the report -> declaration of the benchmark in the saved configuration."""
    evaluation = saved.get("evaluation", {})
    declarations = evaluation.get("benchmarks", [{"name": HELD_OUT}])
    label = evaluation.get("benchmark") or HELD_OUT
    return {label if b["name"] == HELD_OUT else b["name"]: b for b in declarations}


def text_of(folder: Folder, file: str) -> str:
    """The text of a file; "" without the file."""
    try:
        return folder.read_text(file)
    except FileNotFoundError:
        return ""


def configuration(run_folder: Folder, manifest: Manifest | None) -> dict[str, Any]:
    """The configuration with which an artifact was made; the run's own where its version did not keep it."""
    saved = manifest.made_of.get("config") if manifest is not None else None
    return saved or saved_config(run_folder)


def source_of(section: dict[str, Any] | None) -> str:
    """Who generates by a saved section: a model's folder or name, an endpoint's model and host, a file of responses."""
    section = section or {}
    if endpoint := section.get("endpoint"):
        urls = [endpoint["base_url"]] if isinstance(endpoint["base_url"], str) else endpoint["base_url"]
        return f"{endpoint['model']} at {urlsplit(urls[0]).hostname}"
    backend = section.get("engine") or section.get("backend") or section
    return str(backend.get("model_source") or backend.get("model") or section.get("responses") or "")


def facts(saved: dict[str, Any], manifests: list[Manifest]) -> dict[str, str]:
    """Who is who in a report, and when and where its run was made; without what is not known.

    Each is named as the artifact has it that it made; as the run's configuration (`saved`) has it where none is finished.
    """
    configs = {manifest.artifact: manifest.made_of.get("config") or saved for manifest in manifests}
    teachers = configs.get("responses", saved).get("teachers") or {}
    long2short = configs.get("rewrites", saved).get("long2short") or {}
    student = str((configs.get("checkpoint", saved).get("training") or {}).get("student") or "")

    evaluation = saved.get("evaluation") or {}
    by_name = {}
    for model in evaluation.get("models") or []:
        name = model["name"]
        config = next((config for artifact, config in configs.items() if artifact.startswith(f"eval/{name}/")), saved)
        compared = (config.get("evaluation") or {}).get("models") or []
        source = source_of(next((entry for entry in compared if entry["name"] == name), model))
        by_name[name] = f"{student}, trained here" if source == TRAINED and student else source
    by_name |= {f"{name} teacher": source_of(teachers.get(name)) for name in ("direct", "slow")}
    if long2short.get("enabled"):
        by_name["rewriter"] = source_of(long2short)
    if "student" not in by_name and not evaluation.get("models"):
        by_name["student"] = student
    return {name: text for name, text in (by_name | {"made": _when_and_where(manifests)}).items() if text}


def _when_and_where(manifests: list[Manifest]) -> str:
    """E.g. "2026-12-01, in 7 min, on 2 CPUs": the day of the newest artifact, and the time in which some stage worked."""
    dated = [(datetime.fromisoformat(m.finished), m.seconds, m.machine) for m in manifests if m.finished]
    if not dated:
        return ""
    worked, until = 0.0, 0.0
    for start, end in sorted((end.timestamp() - seconds, end.timestamp()) for end, seconds, _ in dated):
        worked += max(0.0, end - max(until, start))
        until = max(until, end)
    newest = max(dated)
    places = [machine for *_, machine in dated if "GPU" in machine] or [
        newest[2]
    ]  # before Ray starts no GPU is counted
    duration = f"{worked / 60:,.0f} min" if worked < 7200 else f"{worked / 3600:,.1f} h"
    return f"{newest[0].date()}, in {duration}" + (f", on {places[-1]}" if places[-1] else "")


def earlier(run_folder: Folder, manifests: list[Manifest]) -> dict[str, str]:
    """Artifact of earlier settings -> what has changed since, e.g. "learning_rate 2e-05 -> 0.5"."""
    expected = json.loads(text_of(run_folder, EXPECTED) or "{}")
    by_artifact = {manifest.artifact: manifest for manifest in manifests}
    notes: dict[str, str] = {}
    for name, manifest in by_artifact.items():  # in the order of the stages
        changed = list(_changes(name, manifest, by_artifact, expected, notes))
        if changed:
            notes[name] = first_of(changed)
    return notes


def first_of(changed: list[str]) -> str:
    """The first differences, and how many more there are, in a line."""
    more = [f"{len(changed) - NAMED} more"] if len(changed) > NAMED else []
    return ", ".join(changed[:NAMED] + more)


def successors(artifact: str) -> list[str]:
    """The artifacts that are made of an artifact's rows."""
    return [name for name, kind in ARTIFACTS.items() if artifact in kind.predecessors]


def is_of_this_student(evaluation: Manifest, checkpoint: Manifest) -> bool:
    """Whether an evaluation is of the student that the run has now; true where its version did not say of which."""
    inputs = evaluation.made_of.get("inputs")
    return inputs is None or checkpoint.fingerprint in inputs


def _predecessors(name: str, by_artifact: dict[str, Manifest]) -> tuple[str, ...]:
    """The artifacts whose rows an artifact is made of; of an evaluation its problems."""
    if not name.startswith("eval/"):
        return ARTIFACTS[name].predecessors if name in ARTIFACTS else ()
    benchmark = f"benchmarks/{name.rpartition('/')[2]}"
    return (benchmark if benchmark in by_artifact else "instructions",)


def _changes(
    name: str, manifest: Manifest, by_artifact: dict[str, Manifest], expected: dict[str, Any], notes: dict[str, str]
) -> Iterator[str]:
    made_of = manifest.made_of
    if not made_of:
        return

    # The artifacts whose rows it has.
    for predecessor in _predecessors(name, by_artifact):
        if expected and predecessor not in expected and ARTIFACTS[predecessor.partition("/")[0]].predecessors:
            continue  # a stage that the run does not have any more
        if predecessor in by_artifact and content_mark(by_artifact[predecessor]) not in made_of["inputs"]:
            yield f"its {predecessor} have changed"
        elif predecessor not in by_artifact and predecessor in expected:
            yield f"its {predecessor} are not finished"
        elif predecessor in notes:
            yield f"its {predecessor} are of earlier settings"

    # The student that it evaluates.
    student = by_artifact.get("checkpoint") if name.startswith("eval/") else None
    is_of_student = name.startswith("eval/") and "model" not in expected.get(name, {"model": ""})
    if "checkpoint" in notes and student is not None and student.fingerprint in made_of["inputs"]:
        yield "its model is of earlier settings"
    elif is_of_student and (student is None or not is_of_this_student(manifest, student)):
        yield "the student is trained anew"

    # Its own settings.
    if name in expected:
        settings = {key: made_of["settings"].get(key) for key in expected[name]}
        yield from differences(settings, expected[name])
