"""What is wrong with an engine is told in a line, before it has cost anything, or after two tries."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.cluster import PATIENCE

JOB = Path(__file__).resolve().parents[2] / "jobs" / "distill.py"


def distill(folder: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    arguments = ["instructions.num_train=20", "run.name=wrong", f"run.storage_path={folder}", *overrides]
    return subprocess.run(
        [sys.executable, str(JOB), *arguments], cwd=folder, capture_output=True, text=True, timeout=PATIENCE
    )


def test_arguments_that_vllm_does_not_know_are_told_at_the_first_engine(tmp_path: Path) -> None:
    made = distill(
        tmp_path,
        "teachers.direct.engine.engine_kwargs.max_model_lem=512",
        "evaluation.engine.engine_kwargs.max_num_seq=8",
    )
    assert made.returncode == 2, made.stdout + made.stderr
    assert made.stderr.splitlines() == [
        "error: evaluation.engine.engine_kwargs.max_num_seq: vLLM has no such argument; did you mean 'max_num_seqs'?",
        "teachers.direct.engine.engine_kwargs.max_model_lem: vLLM has no such argument; did you mean 'max_model_len'?",
    ]


@pytest.mark.long  # two starts of an engine
def test_an_engine_that_does_not_start_ends_the_run_with_its_reason(tmp_path: Path) -> None:
    made = distill(tmp_path, "teachers.direct.engine.engine_kwargs.dtype=float77", "teachers.slow=null")
    assert made.returncode == 1, made.stdout + made.stderr
    assert len(made.stdout.splitlines()) < 12, made.stdout  # what Ray prints of it is in the log
    first, second = made.stderr.splitlines()
    assert first.startswith("failed: responses: failed twice with no row finished in between: ")
    assert "float77" in first
    assert second.startswith("the whole error is in ")
    assert "Traceback" in (tmp_path / "wrong" / "logs" / "driver.log").read_text()
