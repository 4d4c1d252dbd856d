"""What a later stage of a command would refuse, asked before the first stage begins: nothing is moved or paid for yet.

A stage asks when it begins (`Run.make`). Of a later stage this is known before:

    its own settings        other ones lose its texts or its student, whatever its rows will be
    the training problems   a student of other ones would be trained again: their texts were not among its own

Whether rows that are made anew are equal to those of before is known only when they are there.
"""

from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any

import numpy as np

from ray_distil.config import TRAINED, StagesConfig
from ray_distil.config.evaluation_config import HELD_OUT
from ray_distil.errors import UserError
from ray_distil.generate import generators
from ray_distil.records.problem_facts import TRAIN, StoredProblems
from ray_distil.records.problems import Problems
from ray_distil.report.provenance import configuration, first_of
from ray_distil.runner import remaking
from ray_distil.runner.runs import Run
from ray_distil.runner.stage import Stage, of_split
from ray_distil.stages import compared_models, expected
from ray_distil.stages.asking import is_asked
from ray_distil.stages.checkpoint import Checkpoint
from ray_distil.stages.eval import Eval, artifact_of
from ray_distil.stages.instructions import Instructions
from ray_distil.stages.packed import Packed
from ray_distil.stages.responses import Responses
from ray_distil.stages.rewrites import Rewrites
from ray_distil.store.artifact import Artifact
from ray_distil.store.ids import Keys, keys_of
from ray_distil.store.manifest import read_manifest
from ray_distil.store.schemas import ARTIFACTS, CHAIN
from ray_distil.store.superseded import differences, saved_made_of, superseded

CHECKPOINT = "checkpoint"


def refuse_losses(run: Run, records: Problems | StoredProblems) -> None:
    """Raises UserError where a stage of this command would surely raise it, unless `run.remake` agrees."""
    for _, error in losses(run, records):
        raise error


def losses(run: Run, records: Problems | StoredProblems | None) -> Iterator[tuple[str, UserError]]:
    """(stage, what it would surely raise), of all stages of this command. Nothing where `run.remake` agrees.

    records: None where they are not known; nothing is said of the problems then.
    """
    if run.config.run.remake:
        return
    problems = Instructions(run, records) if records is not None else None
    if problems is not None:
        yield from _raised(problems.artifact, lambda: run.refuse_loss(problems))

    # By their settings.
    for make in _later_stages(run):
        with suppress(OSError):
            try:
                stage = make()
            except UserError:
                continue  # a model that is not there: its stage says so
            yield from _losses_by_settings(run, stage)

    # By the training problems.
    if problems is not None and records is not None and not isinstance(records, StoredProblems):
        present = records
        yield from _raised(CHECKPOINT, lambda: _refuse_other_problems(run, problems, present))


def remarks(run: Run, records: Problems | StoredProblems | None) -> Iterator[str]:
    """For a plan: what the run would end with, what else it would lose, and what would be made anew with the student.

    A student that is trained again only if other rows come of a change is named too. Nothing where `run.remake` agrees.
    """
    stage_losses = list(losses(run, records))
    for number, (_, error) in enumerate(stage_losses):
        lost = str(error).removesuffix(remaking.HOW_TO)
        yield f"it would also lose: {lost}" if number else f"the run would end with: {error}"
    if run.config.run.remake or run.config.training is None:
        return

    # The student, and its evaluations.
    evaluations = _student_evaluations(run, {stage for stage, _ in stage_losses})
    if CHECKPOINT in [stage for stage, _ in stage_losses]:
        if evaluations:
            yield f"of another student would be made anew: {evaluations}"
    elif (change := _change_before_training(run)) and (loss := _lost_training(run, False)):
        also = f"; of another student would be made anew: {evaluations}" if evaluations else ""
        yield f"if other rows come of {change}, the run would end with: checkpoint: {loss}{also}"


def _raised(stage: str, refuse: Callable[[], None]) -> Iterator[tuple[str, UserError]]:
    try:
        refuse()
    except UserError as error:
        yield stage, error


def _student_evaluations(run: Run, without: set[str]) -> str:
    """E.g. "eval/fast/tiny: 300 problems (the stage has taken 0.20 GPU-hours)"; `without`: artifacts to leave out."""
    parts = []
    for model in run.config.evaluation.models:
        for benchmark in run.config.evaluation.benchmarks if model.model_source == TRAINED else ():
            name = artifact_of(run, model, benchmark)
            if name not in without and (manifest := read_manifest(run.folder / name)) is not None:
                parts.append(f"{name}: {manifest.rows_in:,} {manifest.unit}{remaking.cost_of(_there(run, name))}")
    return ", ".join(parts)


def _change_before_training(run: Run) -> str:
    """The first artifact before the training that has other settings, and which, e.g. "sft_examples.correct True -> False"."""
    by_artifact = expected.settings_of(run)
    for name in CHAIN[: CHAIN.index(CHECKPOINT)]:
        saved, present = saved_made_of(run.folder / name).get("settings"), by_artifact.get(name)
        if saved and present and (changed := list(differences(saved, present))):
            return f"{name}.{first_of(changed)}"
    return ""


def _later_stages(run: Run) -> Iterator[Callable[[], Stage]]:
    """Functions that make the stages with something to lose, beside the rows that are there."""
    if run.config.teachers is not None:
        yield lambda: Responses(run, _there(run, "instructions"))
    if (rewriter := generators.rewriter(run.config, run.models, run.date)) is not None:
        yield lambda: Rewrites(run, _there(run, "responses"), rewriter)
    if run.config.training is not None:
        yield lambda: Packed(run, _there(run, "sft_examples"))
        yield lambda: Checkpoint(run, _there(run, "packed"))
    for model in compared_models(run, _there(run, CHECKPOINT)):
        for benchmark in run.config.evaluation.benchmarks:
            folder = artifact_of(run, model[0], benchmark).rpartition("/")[2]
            problems = _there(run, "instructions" if benchmark.name == HELD_OUT else f"benchmarks/{folder}")
            yield partial(Eval, run, problems, benchmark, *model)


def _there(run: Run, name: str) -> Artifact:
    """An artifact as it is in the run's folder, whatever its settings."""
    manifest = read_manifest(run.folder / name)
    fingerprint = manifest.fingerprint if manifest is not None else ""
    return Artifact(run.folder, name, ARTIFACTS[name.partition("/")[0]].schema, fingerprint)


def _losses_by_settings(run: Run, stage: Stage) -> Iterator[tuple[str, UserError]]:
    """What is lost where the stage has other settings than what is there: its own rows, and a student of other examples.

    Nothing is known of a making of an earlier version, which did not say its settings; and what is set aside with these
    settings may come back.
    """
    saved = saved_made_of(run.folder / stage.artifact)
    settings = stage.settings.readable_like(saved.get("settings", {}))
    if not saved or settings == saved["settings"]:
        return
    set_aside = [saved_made_of(old).get("settings") for old in superseded(run.folder, stage.artifact)]
    may_come_back = settings in set_aside

    if not may_come_back and not isinstance(stage, Packed):  # no text is in packed sequences alone
        stage.inputs = saved["inputs"]
        yield from _raised(stage.artifact, lambda: run.refuse_loss(stage))
    if _makes_other_examples(stage, saved["settings"]) and (loss := _lost_training(run, may_come_back)):
        change = first_of(list(differences(saved["settings"], settings)))
        yield CHECKPOINT, UserError(f"checkpoint: {stage.artifact}.{change}: {loss}{remaking.HOW_TO}")


def _makes_other_examples(stage: Stage, saved: dict[str, Any]) -> bool:
    """Whether its settings change what a student learns: other sequences, or other numbers of responses."""
    if isinstance(stage, Responses):
        present = stage.settings.readable
        return any(
            (saved.get(name) or {}).get(key) != present[name][key]
            for name in stage.teachers
            for key in ("fraction", "num_samples")
        )
    return isinstance(stage, Packed)


def _lost_training(run: Run, examples_come_back: bool) -> str:
    """What a training of other sequences would lose; "" for nothing, and where a student may come back with its examples."""
    if run.config.training is None or (examples_come_back and superseded(run.folder, CHECKPOINT)):
        return ""
    loss = remaking.lost_training(Artifact(run.folder, CHECKPOINT, None, "of other sequences"))
    return loss and f"{loss}{remaking.cost_of(_there(run, CHECKPOINT))}"


def _refuse_other_problems(run: Run, stage: Instructions, records: Problems) -> None:
    """Raises UserError where a student, or states of a training, are of other training problems than these.

    Only problems that a teacher is asked about count.
    """
    present = _there(run, "instructions")
    if not present.fingerprint or not (loss := _lost_training(run, run.would_come_back(stage))):
        return
    ids = (table["instruction_id"].to_pylist() for table in of_split(present, TRAIN, ["instruction_id"]))
    old, new = _asked(run.config, ids), _asked(run.config, records.ids(TRAIN))
    num_gone, num_new = len(np.setdiff1d(old, new)), len(np.setdiff1d(new, old))
    if num_gone or num_new:
        saved = configuration(run.folder, read_manifest(run.folder / CHECKPOINT))
        section = saved.get("instructions") or {}
        path = ", ".join(source["path"] for source in section.get("sources") or ()) or section.get("path", "")
        raise UserError(
            f"{run.folder} holds a student trained on other problems ({path}): {num_gone:,} of {len(old):,} are not among "
            f"these ({', '.join(run.config.instructions.paths)}), and {num_new:,} of these are new: {loss}; give run.name=NAME for these, "
            "or add --remake to go on in this run"
        )


def _asked(config: StagesConfig, ids: Iterator[list[str]]) -> Keys:
    """The ids of the problems that some teacher is asked about, as numbers."""
    sections = config.teachers.sections if config.teachers is not None else {}
    parts = [
        keys_of([i for i in part if any(is_asked(i, name, section.fraction) for name, section in sections.items())])
        for part in ids
    ]
    return np.concatenate([keys_of([]), *parts])
