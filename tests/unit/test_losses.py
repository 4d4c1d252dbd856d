"""What a later stage would surely refuse is refused before the first stage begins, and nothing has moved."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from ray_distil.checks.losses import refuse_losses
from ray_distil.commands import pipeline, plan
from ray_distil.config import load
from ray_distil.config.models import resolve_models
from ray_distil.errors import UserError
from ray_distil.runner.runs import Run
from ray_distil.runtime.progress import Display
from ray_distil.stages import checkpoint, make_instructions, packed, read_problems, responses, sft_examples
from ray_distil.store.artifact import Artifact
from ray_distil.store.schemas import ARTIFACTS
from ray_distil.store.storage import Folder

SMALL = ["instructions.num_train=20", "instructions.num_eval=5"]


def opened(place: Path, *overrides: str) -> tuple[Run, Any]:
    config = load(None, [f"run.storage_path={place}", *SMALL, *overrides])
    return Run(config, resolve_models(config), Display(Console(file=io.StringIO()))), read_problems(config)


def finish(run: Run, name: str, settings: dict[str, Any]) -> None:
    """An artifact without rows, of these settings."""
    kind = ARTIFACTS[name.partition("/")[0]]
    artifact = Artifact(run.folder, name, kind.schema, f"mark of {name}")
    artifact.made_of = {"settings": settings, "inputs": ["rows"], "config": run.config.saved()}
    artifact.start()
    artifact.finish(name, "rows", 0, 3600.0, lambda: {"num_steps": 393} if name == "checkpoint" else {})


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """The place of a run with its problems and a finished student."""
    run, records = opened(tmp_path)
    make_instructions(run, records)
    training = run.config.training
    assert training is not None
    student = run.models["training.student"]
    problems = Artifact(run.folder, "instructions", ARTIFACTS["instructions"].schema, "")
    finish(run, "responses", responses.Responses(run, problems).settings.readable)
    finish(run, "packed", packed.settings_of(run, student, training).readable)
    finish(run, "checkpoint", checkpoint.settings_of(run, student, training).readable)
    return tmp_path


def written(place: Path, number: int) -> str:
    """A file of problems of one's own, as an override."""
    file = place / "mine.jsonl"
    file.write_text(
        "".join(json.dumps({"instruction": f"What is {k} + 2?", "answer": "7"}) + "\n" for k in range(number))
    )
    return f"instructions.path={file}"


def files(place: Path) -> dict[str, bytes]:
    every = (path for path in (place / "tiny").rglob("*") if path.is_file() and "logs" not in path.parts)
    return {str(path): path.read_bytes() for path in every}


def test_other_problems_in_the_run_of_a_student_are_refused_before_anything_is_moved(place: Path) -> None:
    before, own = files(place), written(place, 30)
    config = load(None, [f"run.storage_path={place}", *SMALL, own])
    said = r"holds a student trained on other problems \(tiny\): 20 of 20 are not among these .* 20 of these are new: a student "
    with pytest.raises(UserError, match=said + r"of 393 steps .* give run\.name=NAME for these, or add --remake"):
        pipeline.run(config, Display(Console(file=io.StringIO())))
    after = files(place)
    assert {name: data for name, data in after.items() if not name.endswith(("/began", "/.lock"))} == before


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (["instructions.num_train=25"], "0 of 20 are not among these .* 5 of these are new"),
        (["instructions.num_train=19"], "1 of 20 are not among these .* 0 of these are new"),
        (
            ["instructions.num_train=25", "training.learning_rate=1e-4"],
            "^checkpoint: learning_rate 0.002 -> 0.0001: a student",
        ),
        (["packing.max_length=256"], "^checkpoint: packed.max_length 224 -> 256: a student of 393 steps"),
        (["teachers.slow.fraction=0.5"], "^checkpoint: responses.slow.fraction 0.3 -> 0.5: a student of 393 steps"),
    ],
)
def test_what_a_later_stage_would_refuse_is_refused_at_once(place: Path, change: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        refuse_losses(*opened(place, *change))
    refuse_losses(*opened(place, *change, "run.remake=true"))
    refuse_losses(*opened(place, *change, "run.name=mine"))
    if not any("training." in key for key in change):
        refuse_losses(*opened(place, *change, "training=null", "evaluation.models=[]"))


@pytest.mark.parametrize(
    "change",
    [
        [],
        ["instructions.num_eval=4"],  # the training problems of the tiny world stay
        ["gates.correct=false"],  # rows may be the same
        ["training.logging_steps=3"],
    ],
)
def test_what_may_lose_nothing_is_not_refused(place: Path, change: list[str]) -> None:
    refuse_losses(*opened(place, *change))


def test_problems_that_come_back_with_their_student_are_not_refused(place: Path) -> None:
    own = written(place, 30)
    run, records = opened(place, own, "run.remake=true")
    make_instructions(run, records)
    back = opened(place)
    with pytest.raises(UserError, match="trained on other problems"):
        refuse_losses(*back)  # the student of these is still there; but the rows before it would be made anew
    aside = Folder.at(place / "tiny") / "superseded" / "checkpoint-other-1"
    aside.write_text("_fingerprint", "other")
    refuse_losses(*back)


def test_a_stage_that_sets_rows_aside_says_so_once(place: Path) -> None:
    run, records = opened(place, written(place, 30), "run.remake=true")
    said: list[str] = []
    run.display.say = said.append  # type: ignore[method-assign]
    make_instructions(run, records)
    (line,) = [line for line in said if "superseded" in line]
    assert line.startswith("instructions: num_eval") or line.startswith("instructions: sources")
    assert line.endswith("the old settings bring it back")


@pytest.mark.parametrize(
    ("change", "lines"),
    [
        ([], []),
        (["training.logging_steps=3"], []),
        (["training.learning_rate=1e-4"], [
            "the run would end with: checkpoint: learning_rate 0.002 -> 0.0001: a student of 393 steps would be trained again "
            "(the stage has taken 60 min); to keep what is there, return to the old settings or give another run.name; to go "
            "on, add --remake",
            "of another student would be made anew: eval/fast/tiny: 0 rows (the stage has taken 60 min)"]),
        (["training.learning_rate=1e-4", "packing.max_length=256"], [
            "the run would end with: checkpoint: packed.max_length 224 -> 256: ",
            "it would also lose: checkpoint: learning_rate 0.002 -> 0.0001: a student of 393 steps would be trained again (",
            "of another student would be made anew: eval/fast/tiny: "]),
        (["training.system_prompt=Hm.", "evaluation.models=[]"], [
            "the run would end with: checkpoint: packed.system_prompt null -> Hm.: a student of 393 steps would be trained"]),
        (["curation.choose=shortest"], [
            "if other rows come of sft_examples.choose null -> shortest, the run would end with: checkpoint: a student of 393 steps would be trained again (the stage has taken 60 min); of another student would be made anew: eval/fast/tiny: "]),
        (["training.learning_rate=1e-4", "run.remake=true"], []),
        (["gates.correct=false", "run.name=mine"], None),
    ],
)  # fmt: skip
def test_a_plan_names_what_would_be_trained_again(place: Path, change: list[str], lines: list[str] | None) -> None:
    run, _ = opened(place)
    finish(run, "sft_examples", sft_examples.settings_of(run.config).readable)
    finish(run, "eval/fast/tiny", {})
    before, config = files(place), load(None, [f"run.storage_path={place}", *SMALL, *change])
    remarks = plan.checked(config).remarks
    told = [line for line in remarks if "student" in line and "is there: " not in line]
    assert len(told) == len(lines or [])
    assert all(line.startswith(beginning) for line, beginning in zip(told, lines or [], strict=True)), told
    assert any("is there: " in line for line in remarks) == (lines is not None)
    assert files(place) == before, "nothing is written"
