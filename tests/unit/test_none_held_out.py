"""A run without held-out problems: data alone, for which no model is compared."""

import json
from pathlib import Path

import pytest

from ray_distil.checks.preflight import check_plan
from ray_distil.config import DistillConfig, load
from ray_distil.errors import ConfigError
from ray_distil.stages import read_problems

DATA_ALONE = ["training=null", "instructions.num_eval=0"]


def config_of(folder: Path, *overrides: str, config: str | None = None) -> DistillConfig:
    rows = [{"instruction": f"What is {k} plus {k}?", "answer": str(2 * k)} for k in range(40)]
    (folder / "problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return load(config, [f"instructions.path={folder / 'problems.jsonl'}", f"run.storage_path={folder}", *overrides])


def test_all_problems_are_asked(tmp_path: Path) -> None:
    facts = read_problems(config_of(tmp_path, *DATA_ALONE)).facts
    assert (facts.usable["train"], facts.usable["eval"]) == (40, 0)
    facts = read_problems(config_of(tmp_path, config="data-by-endpoint")).facts
    assert (facts.usable["train"], facts.usable["eval"]) == (40, 0)


def test_models_are_not_compared_on_nothing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="instructions.num_eval: 0 holds out no problem, and evaluation.benchmarks"):
        config_of(tmp_path, "instructions.num_eval=0")
    assert config_of(tmp_path, "instructions.num_eval=0", "evaluation.benchmarks=[aime24]").instructions.num_eval == 0
    with pytest.raises(ConfigError, match="takes no problem of eval_path"):
        config_of(tmp_path, *DATA_ALONE, "instructions.eval_path=eval.jsonl")


def test_problems_that_no_teacher_is_asked_are_told(tmp_path: Path) -> None:
    config = config_of(tmp_path, *DATA_ALONE, "teachers.direct=null", "teachers.slow.fraction=0.5")
    told = [line for line in check_plan(config, read_problems(config)) if "asked of no teacher" in line]
    assert told == ["teachers.slow.fraction: about 20 of 40 problems are asked of no teacher"]
    config = config_of(tmp_path, *DATA_ALONE, "teachers.slow.fraction=0.5")
    assert not [line for line in check_plan(config, read_problems(config)) if "asked of no teacher" in line]
