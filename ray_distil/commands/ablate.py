"""Train the student without a gate, or without the rewriting, and compare it with the student of the full run.

ray-distil ablate --seeds 1 --without shorter long2short          the tiny recipe, two variants
ray-distil ablate --config FILE                                   each gate that is on, and the rewriting, three seeds

The teachers are asked once. Each variant has its own run folder beside the full run, whose report has the table.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ray_distil.commands import cli, pipeline
from ray_distil.config import TRAINED, DistillConfig, load
from ray_distil.errors import UserError
from ray_distil.report import ablation, report
from ray_distil.report.contents import Report
from ray_distil.runner import frozen
from ray_distil.runner.id_rule import IDS_BY_SOURCE
from ray_distil.runner.runs import BEGAN
from ray_distil.runner.stage import required
from ray_distil.runtime.progress import Display
from ray_distil.store.manifest import read_manifest
from ray_distil.store.schemas import CHAIN
from ray_distil.store.storage import Folder
from ray_distil.store.superseded import saved_made_of, supersede


def main(argv: Sequence[str] | None = None) -> int:
    parser = cli.ConfigParser("ablate", __doc__)
    parser.add_argument(
        "--without", nargs="+", metavar="NAME", help="gates, long2short, or several as A+B; default: each"
    )
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="trainings of each; default: %(default)s")
    arguments = parser.parse_args(argv)
    logs: list[Path] = []

    def job() -> None:
        # Overrides may stand behind --without, which takes all words that follow.
        words = arguments.without or []
        without = [word for word in words if "=" not in word]
        overrides = [*arguments.overrides, *(word for word in words if "=" in word)]

        config = load(arguments.config, overrides)
        logs.append(pipeline.log_folder(config))
        console = cli.stdout_console(width=160)
        finished = run(config, without or choices(config), arguments.seeds, Display(console))
        console.print("", *report.ablation_tables(finished), sep="\n")
        console.print(f"report: {config.run_folder / 'report'}/report.html", soft_wrap=True)

    return cli.guarded(job, lambda: logs[0] if logs else None)


REWRITING, REWRITES = "long2short", "rewrites"
TOGETHER = "+"
COPIED = "copied.json"  # in a run's folder: artifact -> fingerprint of what was copied
BEFORE_GATES = CHAIN[: CHAIN.index("sft_examples")]
BEFORE_TRAINING = CHAIN[: CHAIN.index("checkpoint")]


def choices(config: DistillConfig) -> list[str]:
    """The parts that can be left out: the gates that are on, the rewriting, and the rewrites where other texts are left."""
    names = config.gates.enabled
    if "rewrite" in config.candidates and config.teachers.slow is not None:
        other_texts = {"slow"} | ({"direct"} if config.teachers.direct is not None else set())
        names += [REWRITING] + ([REWRITES] if other_texts & set(config.candidates) else [])
    return names


def run(config: DistillConfig, without: list[str], seeds: int, display: Display) -> Report:
    """Make the run and the runs of its ablation, if they are missing; then the run's report with a table of them.

    without: names of `choices`; "complete+correct" leaves out two at once. seeds: trainings of each variant. Raises
    UserError for an unknown name, and where the configuration compares no student.
    """
    parts = choices(config)
    if unknown := [part for name in without for part in name.split(TOGETHER) if part not in parts]:
        raise UserError(f"--without: {unknown[0]!r} is not on in this configuration; known: {', '.join(parts)}")
    if seeds < 1:
        raise UserError(f"--seeds: {seeds} is no number of trainings; give 1 or more")
    student = next((model for model in config.evaluation.models if model.model_source == TRAINED), None)
    if student is None:
        raise UserError("evaluation.models: none is the student; give {name: fast, model_source: student}")

    # Runs share the artifacts of earlier ones.
    planned = {name: [variant(config, name, k) for k in range(seeds)] for name in ("", *without)}
    total = sum(map(len, planned.values()))
    for number, (name, seed, variant_config) in enumerate(_in_order(planned), start=1):
        label = f"without {name}" if name else "as it is"
        display.say(f"\n{number} of {total}: {label}, seed {seed}: {variant_config.run_folder}")
        source = config if seed == 0 else planned[name][0]
        if variant_config is not planned[""][0]:
            _copy(source.run_folder, variant_config.run_folder, BEFORE_GATES if seed == 0 else BEFORE_TRAINING)
        pipeline.run(_as_long(variant_config, config.run_folder) if name else variant_config, display)

    # The table compares all runs.
    labels = [config.evaluation.label(benchmark) for benchmark in config.evaluation.benchmarks]
    folders = {name: [variant_config.run_folder for variant_config in runs] for name, runs in planned.items()}
    table = ablation.read(folders, student.name, labels)
    (config.run_folder / "report").write_text(ablation.FILE, json.dumps(table, indent=1) + "\n")
    return report.build(config.run_folder)


def variant(config: DistillConfig, without: str, seed: int) -> DistillConfig:
    """The configuration of one run of the ablation. The training seed is the configuration's own plus `seed`.

    without: the gates or the rewriting that are left out; "": nothing. With "" and seed 0 it is the given configuration
    itself. All other runs evaluate only the student.
    """
    if not without and seed == 0:
        return config

    student = next(model for model in config.evaluation.models if model.model_source == TRAINED)
    left_out = without.split(TOGETHER) if without else []
    name = "-".join([config.run.name, *(["without", *left_out] if left_out else []), "seed", str(seed)]).replace(
        ":", "."
    )
    first, training = config.training_seed, required(config.training)
    changes = {
        "run": config.run.model_copy(update={"name": name}),
        "training": training.model_copy(update={"seed": first + seed}),
        "evaluation": config.evaluation.model_copy(
            update={"models": [student], "baseline": student.name, "num_timed": 0}
        ),
    }

    # What is left without the rewriting.
    if REWRITING in left_out:
        changes["long2short"] = config.long2short.model_copy(update={"enabled": False})
        candidates = [kind if kind != "rewrite" else "slow" for kind in config.candidates]
        if config.curation.candidates is not None:
            changes["curation"] = config.curation.model_copy(update={"candidates": list(dict.fromkeys(candidates))})
    if REWRITES in left_out:
        candidates = [kind for kind in config.candidates if kind != "rewrite"]
        changes["curation"] = config.curation.model_copy(update={"candidates": candidates})
    gates: dict[str, Any] = dict.fromkeys(set(left_out) - {REWRITING, REWRITES, *config.gates.custom}, False)
    gates["custom"] = [path for path in config.gates.custom if path not in left_out]
    changes["gates"] = config.gates.model_copy(update=gates)
    return config.model_copy(update=changes)


def _as_long(config: DistillConfig, full_run: Folder) -> DistillConfig:
    """The configuration with a training of as many steps as that of the full run.

    A student that an earlier version has trained, for as many epochs, stays as it is; the table shows its steps.
    """
    trained, saved_settings = read_manifest(full_run / "checkpoint"), saved_made_of(config.run_folder / "checkpoint")
    is_by_epochs = bool(saved_settings) and "max_steps" not in saved_settings.get("settings", {})
    if trained is None or "num_steps" not in trained.summary or is_by_epochs:
        return config
    training = required(config.training).model_copy(update={"max_steps": trained.summary["num_steps"]})
    return config.model_copy(update={"training": training})


def _in_order(planned: dict[str, list[DistillConfig]]) -> Iterator[tuple[str, int, DistillConfig]]:
    for name, runs in planned.items():
        for seed, variant_config in enumerate(runs):
            yield name, seed, variant_config


def _copy(source: Folder, target: Folder, artifacts: tuple[str, ...]) -> None:
    """Copy finished artifacts of a run into another run: those that are missing there, or that have changed since."""
    copied = json.loads(target.read_text(COPIED)) if target.exists(COPIED) else {}
    for file in (BEGAN, frozen.FILE, IDS_BY_SOURCE):  # what the full run has settled for all its commands
        if source.exists(file) and not target.exists(file):
            target.write_text(file, source.read_text(file))
    benchmarks = [f"benchmarks/{name}" for name in _folders(source / "benchmarks")]
    for name in (*artifacts, *benchmarks):
        manifest = read_manifest(source / name)
        if manifest is None:
            continue
        mark = f"{manifest.fingerprint} {manifest.content or manifest.rows_out}"
        if copied.get(name) != mark:
            if (target / name).exists():  # it may hold texts that only this variant has asked for
                supersede(target, name, _mark_of(target / name))
            (target / name).copy_from(source / name)
            copied[name] = mark
            target.write_text(COPIED, json.dumps(copied, indent=1) + "\n")


def _folders(place: Folder) -> list[str]:
    return sorted({file.partition("/")[0] for file in place.files(recursive=True)})


def _mark_of(folder: Folder) -> str | None:
    manifest = read_manifest(folder)
    return manifest.fingerprint if manifest is not None else None
