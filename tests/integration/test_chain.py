"""The whole chain on real engines: counts that add up, real rejects, a second run that redoes nothing."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest

from ray_distil.config.models import TINY_MODELS
from ray_distil.store import schemas
from ray_distil.store.manifest import read_manifest
from ray_distil.store.storage import Folder

from .conftest import BATCH_SIZE, SmallRun

ARTIFACTS = {
    "instructions": schemas.INSTRUCTIONS,
    "responses": schemas.RESPONSES,
    "rewrites": schemas.REWRITES,
    "sft_examples": schemas.SFT_EXAMPLES,
    "packed": schemas.PACKED,
    "eval": schemas.EVAL,
}


def state_of(folder: Path) -> dict[str, Any]:
    """Every file of a run but its logs, with its time of change."""
    files = [
        f for f in folder.rglob("*") if f.is_file() and "logs" not in f.parts and f.name not in (".lock", "config.yaml")
    ]
    return {str(f.relative_to(folder)): f.stat().st_mtime_ns for f in files if "report" not in f.parts}


STAGES = [*list(ARTIFACTS)[:-1], "checkpoint", "eval/base/tiny", "eval/slow/tiny", "eval/fast/tiny"]


@pytest.mark.parametrize("artifact", STAGES)
def test_rows_in_are_rows_out_and_rejected(small_run: SmallRun, artifact: str) -> None:
    manifest = read_manifest(Folder.at(small_run.folder / artifact))
    assert manifest is not None
    assert manifest.rows_in == manifest.rows_out + manifest.rows_rejected > 0
    assert manifest.rows_rejected == sum(manifest.rejects.values())


@pytest.mark.parametrize("artifact", ARTIFACTS)
def test_artifact_is_one_table_of_its_schema(small_run: SmallRun, artifact: str) -> None:
    table = pq.read_table(small_run.folder / artifact)
    assert table.schema.equals(ARTIFACTS[artifact])
    ids = table.column(0).to_pylist()
    assert len(set(ids)) == len(ids) > 0


def test_rows_flow_from_stage_to_stage(small_run: SmallRun) -> None:
    def frame(artifact: str) -> pd.DataFrame:
        return pd.read_parquet(small_run.folder / artifact)

    instructions, responses, rewrites, examples = map(frame, ("instructions", "responses", "rewrites", "sft_examples"))
    train = set(instructions[instructions.split == "train"].instruction_id)
    assert set(responses[responses.teacher == "direct"].instruction_id) == train
    slow = responses[responses.teacher == "slow"]
    assert 0 < len(slow) < len(train)
    assert set(rewrites.response_id) <= set(slow.response_id)
    assert set(examples.origin_id) <= set(responses.response_id) | set(rewrites.rewrite_id)
    packed = frame("packed")
    assert sorted(e for row in packed.example_ids for e in row) == sorted(examples.example_id)
    held_out = set(instructions[instructions.split == "eval"].instruction_id)
    evaluated = frame("eval")
    assert not held_out & set(examples.instruction_id)
    assert all(set(evaluated[evaluated.model == m].instruction_id) == held_out for m in ("base", "slow", "fast"))


def test_teachers_think_and_rewrites_are_short(small_run: SmallRun) -> None:
    responses = pd.read_parquet(small_run.folder / "responses")
    slow, direct = responses[responses.teacher == "slow"], responses[responses.teacher == "direct"]
    assert slow.response.str.contains("</think>").mean() > 0.9
    assert direct.num_generated_tokens.mean() < slow.num_generated_tokens.mean() / 3
    rewrites = pd.read_parquet(small_run.folder / "rewrites")
    assert rewrites.compression_ratio.mean() < 0.5
    assert (rewrites.verdict == "accepted").mean() > 0.8


def test_each_batch_of_an_engine_is_saved_by_itself(small_run: SmallRun) -> None:
    responses = pd.read_parquet(small_run.folder / "responses")
    shards = list((small_run.folder / "responses").glob("part-*.parquet"))
    batches = [-(-len(rows) // BATCH_SIZE) for _, rows in responses.groupby("teacher")]
    assert len(shards) >= sum(batches) > len(batches)


def test_status_prints_what_the_manifests_say(small_run: SmallRun) -> None:
    shown = small_run.distill("--status", str(small_run.folder)).stdout
    for artifact in STAGES:
        manifest = read_manifest(Folder.at(small_run.folder / artifact))
        assert manifest is not None
        line = next(line for line in shown.splitlines() if line.startswith(manifest.stage))
        assert line.split()[1:4] == [f"{n:,}" for n in (manifest.rows_in, manifest.rows_out, manifest.rows_rejected)]


def test_second_run_redoes_nothing(small_run: SmallRun) -> None:
    before = state_of(small_run.folder)
    result = small_run.make()
    assert state_of(small_run.folder) == before
    assert result.stdout.count("complete:") == len(STAGES)


def test_the_fast_student_answers_with_fewer_tokens_than_the_slow_one(small_run: SmallRun) -> None:
    """A student that was not trained is right nowhere, as base is, or never stops; this one is right on a fifth."""
    report = json.loads((small_run.folder / "report" / "report.json").read_text())
    models = {model["name"]: model for model in report["models"]}
    fast, slow = models["fast"], models["slow"]
    print(json.dumps(models))
    assert models["base"]["accuracy"] == 0
    assert slow["accuracy"] > 0.8
    assert fast["accuracy"] > 0
    assert fast["completion_rate"] >= 0.9
    assert fast["mean_tokens"] < slow["mean_tokens"] / 2


def test_student_learnt_and_loads(small_run: SmallRun) -> None:
    losses = [
        json.loads(line)["loss"]
        for line in (small_run.folder / "checkpoint" / "metrics.jsonl").read_text().splitlines()
    ]
    assert sum(losses[-3:]) < 0.5 * sum(losses[:3])
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = small_run.folder / "checkpoint" / "student"
    student = AutoModelForCausalLM.from_pretrained(folder)
    base = AutoModelForCausalLM.from_pretrained(ROOT_BASE)
    assert {n: p.shape for n, p in student.named_parameters()} == {n: p.shape for n, p in base.named_parameters()}
    assert AutoTokenizer.from_pretrained(folder).chat_template == AutoTokenizer.from_pretrained(ROOT_BASE).chat_template


ROOT_BASE = TINY_MODELS / "student-base"
