"""A figure carries its own settings: what a command refuses, or has not made yet, changes no page and no card."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from ray_distil.commands import pipeline
from ray_distil.config import DistillConfig, load
from ray_distil.config.models import resolve_models
from ray_distil.errors import UserError
from ray_distil.evaluation import scores
from ray_distil.report import provenance, report
from ray_distil.runner.runs import Run
from ray_distil.runtime.progress import Display
from ray_distil.stages import expected
from ray_distil.stages.eval import Eval
from ray_distil.store import manifest as manifest_module
from ray_distil.store.artifact import Artifact
from ray_distil.store.manifest import STUDENT, Manifest, read_manifest, versions, write_manifest
from ray_distil.store.schemas import INSTRUCTIONS, SFT_EXAMPLES
from ray_distil.store.storage import Folder
from ray_distil.version import __version__
from tests.unit.test_reuse import Asked


def run_of(folder: Path, *overrides: str) -> Run:
    config: DistillConfig = load(None, [f"run.storage_path={folder}", *overrides])
    return Run(config, resolve_models(config))


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Asked:
    """A run with responses, rewrites and an evaluation, and its configuration."""
    asked = Asked(tmp_path, monkeypatch)
    asked.run()
    expected.save(run_of(tmp_path))
    return asked


def notes(folder: Path) -> dict[str, str]:
    return dict(report.read(Folder.at(folder / "tiny")).earlier)


def test_a_command_that_is_refused_leaves_the_runs_configuration(made: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (made.folder / "tiny" / "config.yaml").read_text()
    monkeypatch.setattr(
        pipeline, "check", lambda *_: (_ for _ in ()).throw(UserError("packing.max_length: 8, too short"))
    )
    config = load(None, [f"run.storage_path={made.folder}", "training.learning_rate=0.5", "instructions.num_train=5"])
    with pytest.raises(UserError, match="too short"):
        pipeline.run(config, Display())
    assert (made.folder / "tiny" / "config.yaml").read_text() == before


def test_with_its_own_settings_nothing_is_of_earlier_ones(made: Asked) -> None:
    assert notes(made.folder) == {}


@pytest.mark.parametrize(
    ("change", "stage", "said"),
    [
        ("teachers.slow.sampling_params.temperature=0.5", "responses", "slow.sampling_params.temperature 0.0 -> 0.5"),
        (
            "evaluation.sampling_params.temperature=1.5",
            "eval/slow/tiny",
            "sampling_params.temperature 0.0 -> 1.5",
        ),
        ("evaluation.num_samples=4", "eval/slow/tiny", "num_samples 1 -> 4"),
    ],
)
def test_settings_that_have_changed_since_are_named(made: Asked, change: str, stage: str, said: str) -> None:
    expected.save(run_of(made.folder, change))
    assert notes(made.folder)[stage] == said


def test_what_is_made_of_earlier_rows_is_of_earlier_settings(made: Asked) -> None:
    expected.save(run_of(made.folder, "teachers.slow.sampling_params.temperature=0.5"))
    assert notes(made.folder)["rewrites"].endswith("its responses are of earlier settings")
    manifest = made.folder / "tiny" / "responses" / "_manifest.json"
    told = json.loads(manifest.read_text())
    manifest.write_text(json.dumps(told | {"content": "0" * 32}))
    expected.save(run_of(made.folder))
    assert notes(made.folder) == {"rewrites": "its responses have changed"}
    manifest.unlink()
    assert notes(made.folder) == {"rewrites": "its responses are not finished"}


def test_the_page_says_with_what_its_figures_were_measured(made: Asked) -> None:
    expected.save(run_of(made.folder, "evaluation.sampling_params.temperature=1.5", "gates.correct=false"))
    report.build(Folder.at(made.folder / "tiny"))
    page = (made.folder / "tiny" / "report" / "report.md").read_text()
    assert "temperature 0.0" in page
    assert "| sampling | temperature 1.5" not in page
    assert "- eval/slow/tiny is of earlier settings: sampling_params.temperature 0.0 -&gt; 1.5" in page
    assert "- slow is of earlier settings: sampling_params.temperature 0.0 -&gt; 1.5" in page
    assert "eval/slow/tiny (of earlier settings)" in page


def test_a_figure_that_the_code_has_learnt_since_is_on_the_page(made: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    before = report.read(Folder.at(made.folder / "tiny")).models[0]
    summary = scores.summary
    monkeypatch.setattr(scores, "summary", lambda answers: summary(answers) | {"new_figure": answers.num_rows})
    after = report.read(Folder.at(made.folder / "tiny")).models[0]
    assert after == before | {"new_figure": before["num_problems"]}


def student(folder: Path, learning_rate: float) -> None:
    """A student's manifest, and an evaluation of it, as a run with this learning rate leaves them."""
    run = run_of(folder, f"training.learning_rate={learning_rate}")
    made_of = {"settings": {"learning_rate": learning_rate}, "inputs": [], "config": run.config.saved()}
    mark = f"of {learning_rate}"
    checkpoint = Manifest("checkpoint", "checkpoint", mark, "sequences", 9, 9, 0, {}, 1.0, [], made_of=made_of)
    (run.folder / "checkpoint" / STUDENT).write_text("config.json", "{}")
    write_manifest(run.folder / "checkpoint", checkpoint)
    evaluated = read_manifest(run.folder / "eval" / "slow" / "tiny")
    assert evaluated is not None
    figures = evaluated.summary | {"name": "fast"}
    write_manifest(
        run.folder / "eval" / "fast" / "tiny",
        Manifest("eval/fast/tiny", "eval/fast/tiny", "f", "answers", 10, 10, 0, {}, 1.0, [], figures,
                 made_of=made_of | {"inputs": ["problems", mark]}),
    )  # fmt: skip


def test_the_card_has_the_settings_of_the_student_that_is_there(made: Asked) -> None:
    student(made.folder, 1e-3)
    run = run_of(made.folder, "training.learning_rate=0.5", "training.num_train_epochs=77")
    expected.save(run)
    report.build(run.folder)
    card = (made.folder / "tiny" / "checkpoint" / STUDENT / "README.md").read_text()
    assert "learning_rate 0.001" in card
    assert "77" not in card
    assert "fast" in card


def test_the_card_has_no_figure_of_another_student(made: Asked) -> None:
    student(made.folder, 1e-3)
    file = made.folder / "tiny" / "checkpoint" / "_manifest.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"fingerprint": "another"}))
    report.build(Folder.at(made.folder / "tiny"))
    assert not (made.folder / "tiny" / "checkpoint" / STUDENT / "README.md").exists()
    assert notes(made.folder)["eval/fast/tiny"].startswith("its instructions have changed, the student is trained anew")


def test_a_run_keeps_no_key_of_one_command(tmp_path: Path) -> None:
    config = load(
        None, [f"run.storage_path={tmp_path}", "run.remake=true", "run.retry_failed=true", "run.take_over=true"]
    )
    saved: dict[str, Any] = yaml.safe_load(config.to_yaml())
    assert not {"remake", "retry_failed", "take_over"} & saved["run"].keys()


def test_artifacts_of_an_earlier_version_say_nothing(made: Asked) -> None:
    for file in made.folder.rglob("_manifest.json"):
        told = json.loads(file.read_text())
        told.pop("made_of")
        file.write_text(json.dumps(told))
    expected.save(run_of(made.folder, "evaluation.sampling_params.temperature=1.5"))
    assert notes(made.folder) == {}
    assert (
        provenance.configuration(Folder.at(made.folder / "tiny"), None)["evaluation"]["sampling_params"]["temperature"]
        == 1.5
    )


def test_a_stage_that_the_run_has_no_more_changes_nothing(made: Asked) -> None:
    """As in an ablation without the rewriting, into which the rewrites were copied."""
    run = run_of(made.folder)
    examples = Artifact(run.folder, "sft_examples", SFT_EXAMPLES, "f")
    examples.made_of = {"settings": {}, "inputs": [responses_of(made.folder)], "config": {}}
    examples.start()
    examples.finish("sft_examples", "candidates", 0, 1.0)
    assert "its rewrites have changed" in notes(made.folder)["sft_examples"]
    expected.save(run_of(made.folder, "long2short.enabled=false"))
    assert "rewrites" not in notes(made.folder).get("sft_examples", "")


def responses_of(folder: Path) -> str:
    return str(json.loads((folder / "tiny" / "responses" / "_manifest.json").read_text())["content"])


def test_an_evaluation_of_other_problems_is_marked(made: Asked) -> None:
    file = made.folder / "tiny" / "instructions" / "_manifest.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"content": "0" * 32}))
    assert notes(made.folder)["eval/slow/tiny"] == "its instructions have changed"


def test_answers_of_a_student_of_an_earlier_version_are_asked_about(made: Asked) -> None:
    config = load(None, [f"run.storage_path={made.folder}", "evaluation.sampling_params.temperature=0.5"])
    run = Run(config, resolve_models(config))
    fast = next(model for model in config.evaluation.models if model.name == "fast")
    shutil.copytree(made.folder / "tiny" / "eval" / "slow", made.folder / "tiny" / "eval" / "fast")
    (made.folder / "tiny" / "eval" / "fast" / "tiny" / "_made_of.json").unlink()
    problems = Artifact(run.folder, "instructions", INSTRUCTIONS, "f")
    (held_out,) = config.evaluation.benchmarks
    with pytest.raises(UserError, match="texts would be asked for again"):
        run.make(Eval(run, problems, held_out, fast, run.models["training.student"], "its training"))


def test_a_manifest_has_the_revision_of_the_code(tmp_path: Path) -> None:
    package = tmp_path / "ray_distil"
    package.mkdir()
    (package / "a.py").write_text("x = 1\n")
    without_git = manifest_module.revision(tmp_path)
    assert re.fullmatch("code [0-9a-f]{12}", without_git)
    git = ["git", "-C", str(tmp_path), "-c", "user.name=n", "-c", "user.email=e"]
    for arguments in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"]):
        subprocess.run([*git, *arguments], check=True)
    clean = manifest_module.revision(tmp_path)
    assert re.fullmatch("commit [0-9a-f]{12}", clean)
    (package / "a.py").write_text("x = 2\n")
    assert manifest_module.revision(tmp_path) == f"{clean} and changes"
    shutil.rmtree(tmp_path / ".git")
    assert manifest_module.revision(tmp_path) not in (without_git, clean)
    assert versions()["ray-distil"].startswith(f"{__version__} (")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (["evaluation.benchmark=held-out"], "tiny is no benchmark of the configuration"),
        (["evaluation.benchmarks=[aime24]"], "tiny is no benchmark of the configuration"),
        (["evaluation.models=[{name: base, model_source: tiny:student-base}]", "evaluation.baseline=base"],
         "slow is no model of the configuration"),
    ],
)  # fmt: skip
def test_evaluations_that_the_configuration_has_no_more_are_of_earlier_settings(
    made: Asked, change: list[str], why: str
) -> None:
    before = report.read(Folder.at(made.folder / "tiny"))
    expected.save(run_of(made.folder, *change))
    after = report.read(Folder.at(made.folder / "tiny"))
    assert after.earlier["eval/slow/tiny"] == why
    assert [stage for stage in after.stages if stage["name"] == "eval/slow/tiny"] == [before.stages[-1]]
    assert "eval/slow/tiny (of earlier settings)" in [row[0] for row in after.stage_rows()]
    assert [file.artifact for file in after.files].count("eval/slow/tiny") == 1
    assert after.models == []
