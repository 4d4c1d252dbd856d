"""jobs/distill.py as a person uses it: exit codes and messages, and nothing half-written after a mistake."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def distill(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "jobs" / "distill.py"), *arguments]
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, env=environment)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["training.learning_rat=1"], "training.learning_rat: unknown key; did you mean 'learning_rate'?"),
        (["--config", "absent.yaml"], "absent.yaml"),
        (["instructions.path=absent.jsonl"], "there is no file 'absent.jsonl'"),
        (["instructions.path=bad.jsonl"], "line 2"),
        (["instructions.path=empty.jsonl"], "is empty"),
        (["--status", "runs/none"], "there is no run folder"),
        (["--status", "empty.jsonl"], "empty.jsonl', which is a file"),
        (["run.storage_path=/proc/runs"], "/proc/runs/tiny cannot be written (No such file or directory)"),
        (["run.storage_path=empty.jsonl"], "empty.jsonl/tiny cannot be written (Not a directory)"),
        (["training.student=models/absent"], "training.student: there is no model folder 'models/absent'"),
        (["training.student=./empty"], "'./empty' has no config.json"),
        (["teachers.slow.engine.model_source=tiny:absent"], "the tiny models are tiny:student-base"),
        (["evaluation.models.0.model_source=/absent"], "evaluation.models.0.model_source: there is no model folder"),
    ],
)
def test_mistakes_end_with_2_and_one_line(tmp_path: Path, arguments: list[str], told: str) -> None:
    (tmp_path / "bad.jsonl").write_text('{"instruction": "a"}\n{"instruction"\n')
    (tmp_path / "empty.jsonl").write_text("\n")
    (tmp_path / "empty").mkdir()
    before = sorted(tmp_path.rglob("*"))
    result = distill(tmp_path, *arguments)
    assert result.returncode == 2, result.stderr
    assert told in result.stderr
    assert len(result.stderr.strip().splitlines()) <= 2
    assert sorted(tmp_path.rglob("*")) == before
