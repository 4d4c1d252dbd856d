"""What stays of training states, and which are refused before anything starts."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ray_distil.config import StagesConfig
from ray_distil.config.models import resolve_model, resolve_models
from ray_distil.config.section import validate
from ray_distil.errors import UserError
from ray_distil.runner.runs import Run
from ray_distil.stages import checkpoint, make_checkpoint
from ray_distil.store.artifact import Artifact
from ray_distil.store.schemas import PACKED
from ray_distil.store.storage import Folder
from ray_distil.train import sft
from ray_distil.train.sft import SftResult, TrainingJob
from ray_distil.train.states import STATES


class Stopped(Exception):
    pass


class Training:
    """A run whose training is told by `ends`: it saves a state of its settings, and is stopped or complete."""

    def __init__(self, place: Path, patch: pytest.MonkeyPatch) -> None:
        self.place, self.patch = place, patch
        self.weights: Path | None = None  # a file of the student that training writes
        patch.setattr(Run, "start_ray", lambda *_: None)
        patch.setattr(Artifact, "count", lambda *_: 9)
        patch.setattr(Artifact, "tables", lambda *_: iter(()))

    def make(
        self, ends: bool, remake: bool = False, retry_failed: bool = False, packed: str = "f", **settings: Any
    ) -> None:
        run_keys = {"name": "r", "storage_path": str(self.place), "remake": remake, "retry_failed": retry_failed}
        data = {"run": run_keys, "training": {"student": "tiny:student-base"}}
        data["training"] |= {"bf16": False, **settings}
        config = validate(StagesConfig, data)
        run = Run(config, resolve_models(config))

        def train(job: TrainingJob, *_: Any) -> SftResult:
            states = job.output / STATES
            size = settings.get("gradient_accumulation_steps", 8)
            marker = '{"name": "step-4-a", "step": 4, "num_workers": 1, "zero_stage": 2, "files": {}, '
            states.write_text("step-4-a.json", f'{marker}"made_of": "{job.mark}", "train_batch_size": {size}}}')
            if not ends:
                raise Stopped
            if self.weights is not None:
                self.weights.parent.mkdir(parents=True, exist_ok=True)
                self.weights.write_text("weights")
            return SftResult(job.output, 8, 2.0, 1.0)

        self.patch.setattr(sft, "train", train)
        make_checkpoint(run, Artifact(run.folder, "packed", PACKED, packed))

    @contextmanager
    def by_rules(self, rules: int) -> Iterator[None]:
        """Within the block, students are of the rules of an earlier version; 0: of the present ones."""
        present = checkpoint.settings_of
        with self.patch.context() as patch:
            by_all = lambda *run: [*present(*run).all_rules()]  # noqa: E731
            patch.setattr(checkpoint, "settings_of", lambda *run: replace(by_all(*run)[rules], earlier=None))
            yield

    def states(self) -> list[str]:
        """Folders that have states."""
        return sorted({path.parent.parent.name.partition("-")[0] for path in self.place.rglob("step-*.json")})


@pytest.fixture
def training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Training:
    return Training(tmp_path, monkeypatch)


@pytest.mark.parametrize("keep_states", [False, True])
def test_once_complete_no_state_stays_that_was_not_asked_for(training: Training, keep_states: bool) -> None:
    with pytest.raises(Stopped):
        training.make(ends=False, learning_rate=1e-3)
    assert training.states() == ["checkpoint"]
    with pytest.raises(Stopped):
        training.make(ends=False, learning_rate=2e-3, remake=True)
    assert len(list(training.place.rglob("step-*.json"))) == 2, "the superseded one stays while training goes on"
    training.make(ends=True, learning_rate=2e-3, keep_states=keep_states)
    left = [str(path.parent) for path in training.place.rglob("step-*.json")]
    assert left == ([str(training.place / "r" / "checkpoint" / STATES)] if keep_states else [])


def test_another_global_batch_is_refused_while_states_are_there(training: Training) -> None:
    with pytest.raises(Stopped):
        training.make(ends=False)
    with pytest.raises(UserError, match=r"global batch of 2 .* step 4 is of 8; set .*accumulation_steps=8 to go on"):
        training.make(ends=True, gradient_accumulation_steps=2)
    with pytest.raises(UserError, match="global batch of 2"):
        training.make(ends=True, gradient_accumulation_steps=2, remake=True)
    assert training.states() == ["checkpoint"]
    training.make(ends=True, keep_states=True)
    with pytest.raises(UserError, match=r"train_batch_size 8 -> 2: a student of 8 steps would be trained again"):
        training.make(ends=True, gradient_accumulation_steps=2)
    training.make(ends=True, gradient_accumulation_steps=2, remake=True)  # a complete one is no training to go on with


def test_a_failed_training_names_the_state_that_is_kept(tmp_path: Path) -> None:
    folder = Folder.at(tmp_path)
    assert sft.kept_state(folder, "ours") == "no training state was saved yet"
    folder.write_text(
        f"{STATES}/step-4-a.json",
        '{"name": "step-4-a", "step": 4, "num_workers": 1, "zero_stage": 2, "files": {}, "made_of": "ours"}',
    )
    assert sft.kept_state(folder, "ours") == "the training state of step 4 is kept"


def test_another_generation_config_trains_no_student_again(training: Training, tmp_path: Path) -> None:
    """It changes no weight. A student whose fingerprint counts it, as in earlier versions, stays too."""
    student = tmp_path / "model"
    shutil.copytree(resolve_model("tiny:student-base", "k"), student)
    config = student / "generation_config.json"
    config.write_text('{"temperature": 0.6}')
    training.make(ends=True, student=str(student))
    manifest = Path(training.place / "r" / "checkpoint" / "_manifest.json").read_text()
    config.write_text('{"temperature": 0.7}')
    training.make(ends=True, student=str(student))
    assert (training.place / "r" / "checkpoint" / "_manifest.json").read_text() == manifest
    (student / "config.json").write_text((student / "config.json").read_text() + " ")
    with pytest.raises(UserError, match="a student of 8 steps would be trained again"):
        training.make(ends=True, student=str(student))


@pytest.mark.parametrize("rules", [1, 2])
def test_a_student_of_earlier_rules_stays(training: Training, rules: int) -> None:
    with training.by_rules(rules):
        training.make(ends=True)
    manifest = (training.place / "r" / "checkpoint" / "_manifest.json").read_text()
    training.make(ends=True)
    assert (training.place / "r" / "checkpoint" / "_manifest.json").read_text() == manifest


@pytest.mark.parametrize("rules", [0, 1, 2])
def test_only_what_has_changed_is_named(training: Training, tmp_path: Path, rules: int) -> None:
    """A student by earlier rules has another mark of its model; the question names the changed setting alone."""
    model = tmp_path / "model"
    shutil.copytree(resolve_model("tiny:student-base", "k"), model)
    (model / "generation_config.json").write_text('{"temperature": 0.6}')
    with training.by_rules(rules):
        training.make(ends=True, student=str(model))
    with pytest.raises(UserError, match=r"^checkpoint: learning_rate 2e-05 -> 0.001: a student of 8 steps"):
        training.make(ends=True, student=str(model), learning_rate=1e-3)


@pytest.mark.parametrize("rules", [0, 1, 2])
def test_who_tries_failed_rows_again_is_not_asked_about_the_student(training: Training, rules: int) -> None:
    with training.by_rules(rules):
        training.make(ends=True)
    with pytest.raises(UserError, match="the rows that it is made of have changed"):
        training.make(ends=True, packed="with recovered rows")
    training.make(ends=True, packed="with recovered rows", retry_failed=True)
