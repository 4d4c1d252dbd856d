"""An engine of a user's own, from `examples/`, answers in Ray's workers as vLLM would: the same texts, each row once.

vLLM's texts are those of the shared small run's slow teacher, which are greedy.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

from ray_distil import read_rows
from ray_distil.config.models import resolve_model
from tests.integration.cluster import PATIENCE
from tests.integration.conftest import ROOT, SMALL, SmallRun

RESPOND = """
import sys
from ray_distil import stages
from ray_distil.config import load
from ray_distil.config.models import resolve_models
from ray_distil.runner.runs import Run

config = load(None, sys.argv[1:])
run = Run(config, resolve_models(config))
stages.make_responses(run, stages.make_instructions(run, stages.read_problems(config)))
"""
SLOW_ALONE = [*(word for word in SMALL if not word.startswith(("run.name", "teachers.direct"))), "teachers.direct=null"]


def without_ray_variables() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}


def respond(folder: Path, name: str, *overrides: str) -> str:
    """What the console says of a run of some responses."""
    words = [f"run.storage_path={folder}", f"run.name={name}", *SLOW_ALONE, *overrides]
    command = [sys.executable, "-c", RESPOND, *words]
    result = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE, env=without_ray_variables()
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_it_answers_as_its_model_does(small_run: SmallRun, tmp_path: Path) -> None:
    model = {"folder": resolve_model("tiny:teacher-r1", "k")}
    backend = json.dumps(
        {
            "build": "examples.my_engine:build",
            "model": "teacher-r1",
            "kwargs": model | {"batch_size": 4},
            "batch_size": 4,
        }
    )
    said = respond(tmp_path, "own", "teachers.slow.engine=null", f"teachers.slow.backend={backend}")
    rows = read_rows(tmp_path / "own", "responses")
    assert len(rows) > 5, said
    shards = [path for path in (tmp_path / "own" / "responses").glob("part-*.parquet")]
    assert len(shards) == -(-len(rows) // 4), "each block of four is saved by itself"
    assert set(rows.model) == {"teacher-r1"}
    assert rows.response_id.is_unique

    of_vllm = read_rows(small_run.folder, "responses")
    texts = of_vllm[of_vllm.teacher == "slow"].set_index("response_id").response
    own = rows.set_index("response_id").response
    assert set(own.index) == set(texts.index)
    same = own == texts.reindex(own.index)
    assert same.mean() > 0.9, "float32 sums in another order now and then draw another token"


def test_rows_that_do_not_keep_the_contract_end_the_stage(tmp_path: Path) -> None:
    body = "rows.map(lambda row: row | {'generated_text': 'x'})"
    (tmp_path / "my_engines.py").write_text(f"def build(num_rows):\n    return lambda rows: {body}\n")
    backend = "teachers.slow.backend={build: my_engines:build, model: m}"
    words = [f"run.storage_path={tmp_path}", "run.name=bad", *SLOW_ALONE, "teachers.slow.engine=null", backend]
    command = [sys.executable, "-c", RESPOND, *words]
    result = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE, env=without_ray_variables()
    )
    assert result.returncode != 0
    assert "my_engines:build gives rows that lack the column 'finish_reason'" in result.stderr.splitlines()[-1]
