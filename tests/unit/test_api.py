"""What a program calls, and the example of docs/api.md."""

import io
import os
import re
import threading
from pathlib import Path

import pandas
import pytest
from rich.console import Console

import ray_distil
from ray_distil import UserError, api, load_config, make_plan, read_report, read_rows
from ray_distil.commands import pipeline
from ray_distil.runtime.progress import Display
from ray_distil.store.artifact import Artifact
from ray_distil.store.schemas import REWRITES, stable_id
from ray_distil.store.storage import Folder
from tests.unit.test_layout import ROOT
from tests.unit.test_status import begun

PAGE = (ROOT / "docs" / "api.md").read_text()


def test_the_names_are_those_of_the_api_and_of_the_page() -> None:
    assert ray_distil.__all__ == api.__all__
    assert {getattr(ray_distil, name) for name in api.__all__} == {getattr(api, name) for name in api.__all__}
    assert set(re.findall(r"^\| `(\w+)", PAGE, re.MULTILINE)) == set(api.__all__)
    assert set(api.__all__) <= set(dir(ray_distil))  # for tab completion
    assert not {"Any", "import_module"} & set(dir(ray_distil))
    with pytest.raises(AttributeError, match="no attribute 'run_all'"):
        _ = ray_distil.run_all


def test_a_plan_starts_nothing_and_tells_what_cannot_be(tmp_path: Path) -> None:
    config = load_config(ROOT / "jobs/recipes/tiny.yaml", [f"run.storage_path={tmp_path}"])
    plan = make_plan(config)
    assert plan.steps
    assert re.search(r"^responses/slow +\d", str(plan), re.MULTILINE)  # as the command prints it
    assert list(tmp_path.iterdir()) == []
    short = load_config(None, ["teachers.slow.engine.engine_kwargs.max_model_len=64"])
    with pytest.raises(UserError, match="max_model_len"):
        make_plan(short)
    with pytest.raises(UserError, match=str(tmp_path)):
        read_report(tmp_path / "none")


def test_what_is_no_configuration_is_told_with_the_call() -> None:
    with pytest.raises(
        UserError, match=r"make_plan needs a configuration, not 'tiny': make_plan\(load_config\('tiny'\)\)"
    ):
        make_plan("tiny")  # type: ignore[arg-type]
    with pytest.raises(
        UserError, match=r"run_pipeline needs a configuration, not None: run_pipeline\(load_config\(\)\)"
    ):
        api.run_pipeline(None)  # type: ignore[arg-type]
    assert load_config("tiny", "run.name=x").run.name == "x"


def test_a_report_has_its_costs_and_prints_its_tables(tmp_path: Path) -> None:
    run = Folder.at(tmp_path / "mine")
    run.write_text("config.yaml", load_config().to_yaml())
    begun(run, name="responses").finish("responses", "responses", 9, 60.0)
    read = read_report(tmp_path / "mine")
    assert [cost.stage for cost in read.costs] == ["responses"]
    text = str(read)
    assert "Stages" in text
    assert "Cost so far" in text
    assert len(text.splitlines()) < 20


def test_the_example_runs_but_for_its_engines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def pretend(config: ray_distil.DistillConfig) -> None:
        asked.append(config)
        (tmp_path / "runs" / "first").mkdir(parents=True)

    monkeypatch.chdir(tmp_path)
    (tmp_path / "jobs").symlink_to(ROOT / "jobs")
    monkeypatch.setattr(api, "run_pipeline", pretend)
    monkeypatch.setattr(api, "read_rows", lambda *_, **__: pandas.DataFrame({"reason": []}))
    exec(PAGE.split("```python\n")[1].split("```")[0], {})
    assert [(config.run.name, config.training.num_train_epochs) for config in asked] == [("first", 1)]


def test_rows_and_rejects_of_a_finished_artifact_as_frames(tmp_path: Path) -> None:
    """What the manifest lists, and no shard that a stopped run has left behind."""
    run = tmp_path / "mine"
    artifact = begun(Folder.at(run), name="instructions")
    with pytest.raises(UserError, match=r"'instructions' of .* is not finished, or is none; finished are none"):
        read_rows(run, "instructions")
    artifact.finish("responses", "rows", 9, 1.0)
    late = run / "instructions" / "part-late.parquet"
    late.write_bytes(next(file for file in (run / "instructions").glob("part-*")).read_bytes())
    rows = read_rows(str(run), "instructions")
    assert sorted(rows["instruction_id"]) == sorted(stable_id(k) for k in range(7))
    assert list(read_rows(run, "instructions", ["split"]).columns) == ["split"]
    rejects = read_rows(run, "instructions", rejects=True)
    assert rejects["reason"].tolist() == ["no_answer", "no_answer"]
    with pytest.raises(UserError, match="finished are instructions"):
        read_rows(run, "rewrites")
    with pytest.raises(UserError, match=r"no column 'nope'; its columns are .*instruction_id"):
        read_rows(run, "instructions", ["split", "nope"])


def test_an_artifact_without_rows_has_its_columns(tmp_path: Path) -> None:
    artifact = Artifact(Folder.at(tmp_path / "mine"), "rewrites", REWRITES, "f")
    artifact.start()
    artifact.finish("rewrites", "rows", 0, 1.0)
    assert list(read_rows(tmp_path / "mine", "rewrites").columns) == REWRITES.names
    assert list(read_rows(tmp_path / "mine", "rewrites", "reasoning").columns) == ["reasoning"]
    assert list(read_rows(tmp_path / "mine", "rewrites", ["reason"], rejects=True).columns) == ["reason"]


def test_a_run_of_a_program_leaves_its_stdout_alone(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A command puts what libraries print into the log; a program keeps its own lines, also of other threads."""
    config = load_config(None, [f"run.storage_path={tmp_path}"])
    for quiet, shown in ((False, "line"), (True, "")):
        with pipeline.opened(config, Display(Console(file=io.StringIO())), quiet=quiet):
            thread = threading.Thread(target=lambda: print("line"))
            thread.start()
            thread.join()
            os.write(2, b"fault")
        captured = capfd.readouterr()
        assert (captured.out.strip(), captured.err.strip()) == (shown, shown and "fault")
    assert "line\n" in (tmp_path / "tiny" / "logs" / "driver.log").read_text()


def test_a_program_calls_the_run_that_leaves_it_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(pipeline, "run", lambda config, display=None, quiet=True: calls.append(quiet))
    api.run_pipeline(load_config())
    assert calls == [False]
