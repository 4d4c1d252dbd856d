"""`ray job submit` on a cluster of two raylets: stopped half-way, submitted again, equal to a run on one machine."""

from pathlib import Path

import pandas as pd
import pytest

from ray_distil.manifest import read_manifest
from ray_distil.storage import Folder
from tests.integration.cluster import Cluster, SubmittedJob
from tests.integration.conftest import ROOT, SMALL, SmallRun

# Engines work on one node, training on the other, as on a cluster whose nodes have roles.
ROLES = [
    "teachers.direct.engine.resources={teacher: 1}",
    "teachers.slow.engine.resources={teacher: 1}",
    "evaluation.engine.resources={teacher: 1}",
    "training.resources_per_worker={student: 1}",
]
TEXTS = {
    "instructions": ["instruction_id", "instruction", "reference_answer", "split"],
    "responses": ["response_id", "response", "finish_reason", "num_generated_tokens"],
    "rewrites": ["rewrite_id", "reasoning", "rewritten_tokens", "verdict"],
    "sft_examples": ["example_id", "prompt", "completion", "origin_id"],
    "packed": ["sequence_id", "input_ids", "labels", "position_ids"],
    "eval/base": ["eval_id", "response", "correct"],
    "eval/slow": ["eval_id", "response", "correct"],
    "eval/fast": ["eval_id", "response", "correct"],
}


def rows(folder: Path, columns: list[str]) -> pd.DataFrame:
    return pd.read_parquet(folder)[columns].sort_values(columns[0]).reset_index(drop=True)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory):
    with Cluster(tmp_path_factory.mktemp("c"), "--num-cpus=3", '--resources={"student": 2}') as made:
        made.add_node("--num-cpus=4", '--resources={"teacher": 4}')
        yield made


def test_stopped_and_submitted_again_it_makes_what_a_local_run_makes(
    cluster: Cluster, small_run: SmallRun, tmp_path: Path
) -> None:
    arguments = [*SMALL, *ROLES, f"run.storage_path={tmp_path}"]
    folder = tmp_path / "small"

    stopped = SubmittedJob(cluster, "stopped", ROOT, *arguments)
    stopped.wait_until((folder / "rewrites" / "_attempt").exists, "rewriting has begun")
    _, output = stopped.stop()
    assert "Job 'stopped' was stopped" in output
    assert stopped.left() == set()
    assert read_manifest(Folder.at(folder / "rewrites")) is None
    saved = {file.name: file.read_bytes() for file in (folder / "responses").glob("part-*.parquet")}
    assert saved

    again = SubmittedJob(cluster, "again", ROOT, *arguments)
    code, output = again.finish()
    assert code == 0, output
    assert again.left() == set()
    assert "teacher         complete" in output
    assert "fast answers with" in output  # what the job prints is followed to its end
    assert saved.items() <= {file.name: file.read_bytes() for file in (folder / "responses").iterdir()}.items()
    for artifact, columns in TEXTS.items():
        pd.testing.assert_frame_equal(rows(folder / artifact, columns), rows(small_run.folder / artifact, columns))


def test_a_mistake_ends_the_job_with_its_message(cluster: Cluster) -> None:
    code, output = SubmittedJob(cluster, "mistaken", ROOT, "training.lerning_rate=1").finish(120)
    assert code == 1
    assert "training.lerning_rate: unknown key; did you mean 'learning_rate'?" in output
    assert "exit code 2" in output  # Ray tells the job's own code, and ends with 1
    assert "Traceback" not in output


def test_without_the_token_nothing_is_submitted(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(cluster.environment, "RAY_AUTH_TOKEN", "0" * 32)
    refused = cluster.ray("job", "submit", "--address", cluster.address, "--", "true")
    assert refused.returncode != 0
    assert "token" in (refused.stdout + refused.stderr).lower()
