"""What a program calls, and the example of docs/api.md."""

import re
from pathlib import Path

import pytest

import ray_distil
from ray_distil import UserError, api, load_config, make_plan, read_report
from tests.unit.test_layout import ROOT

PAGE = (ROOT / "docs" / "api.md").read_text()


def test_the_names_are_those_of_the_api_and_of_the_page() -> None:
    assert ray_distil.__all__ == api.__all__
    assert {getattr(ray_distil, name) for name in api.__all__} == {getattr(api, name) for name in api.__all__}
    assert set(re.findall(r"^\| `(\w+)", PAGE, re.MULTILINE)) == set(api.__all__)
    assert set(api.__all__) <= set(dir(ray_distil))  # for tab completion
    with pytest.raises(AttributeError, match="no attribute 'run_all'"):
        _ = ray_distil.run_all


def test_a_plan_starts_nothing_and_tells_what_cannot_be(tmp_path: Path) -> None:
    config = load_config(ROOT / "jobs/recipes/tiny.yaml", [f"run.storage_path={tmp_path}"])
    assert make_plan(config).steps
    assert list(tmp_path.iterdir()) == []
    short = load_config(None, ["teachers.slow.engine.engine_kwargs.max_model_len=64"])
    with pytest.raises(UserError, match="max_model_len"):
        make_plan(short)
    with pytest.raises(UserError, match=str(tmp_path)):
        read_report(tmp_path / "none")


def test_the_example_runs_but_for_its_engines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def pretend(config: ray_distil.DistillConfig) -> None:
        asked.append(config)
        (tmp_path / "runs" / "first").mkdir(parents=True)

    monkeypatch.chdir(tmp_path)
    (tmp_path / "jobs").symlink_to(ROOT / "jobs")
    monkeypatch.setattr(api, "run_pipeline", pretend)
    exec(PAGE.split("```python\n")[1].split("```")[0], {})
    assert [(config.run.name, config.training.num_train_epochs) for config in asked] == [("first", 1)]
