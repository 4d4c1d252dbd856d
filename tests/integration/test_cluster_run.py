"""One run of the whole recipe as a cluster makes it, and all that holds of it.

A head without CPUs whose autoscaler brings nodes by role, requests by token, the run in an S3 server, Prometheus beside
it, two training workers. The run is submitted, stopped while long2short is at work, submitted again, and once more.

The teachers' responses are those of the shared small run, imported: rewriting and evaluation have engines.
"""

import json
import re
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import pytest
from pyarrow import fs

from ray_distil.config import load
from ray_distil.store.manifest import read_manifest
from ray_distil.store.storage import Folder
from ray_distil.train.states import STATES
from tests.integration.autoscaled import RESOURCES, ROOT, Roles, Watch, autoscaled_cluster
from tests.integration.cluster import Cluster, SubmittedJob, wait_until
from tests.integration.conftest import SMALL, SmallRun
from tests.integration.prometheus import PROMETHEUS, Prometheus
from tests.object_store import CREDENTIALS, ObjectStore, store_with_credentials

BOARD = ROOT / "cluster" / "grafana" / "ray_distil.json"
SAVE_STEPS = 100
MODELS = "[{name: fast, model_source: student}]"
ARGUMENTS = [
    *(argument for argument in SMALL if not argument.startswith("teachers.")),
    *RESOURCES,  # and the rewriter's, below
    f"evaluation.models={MODELS}",
    "evaluation.baseline=fast",
    f"training.save_steps={SAVE_STEPS}",
    "training.keep_states=true",  # the newest two, for all to see
]
TEXTS = {
    "instructions": ["instruction_id", "instruction", "reference_answer", "split"],
    "responses": ["response_id", "instruction_id", "response", "answer", "finish_reason"],
    "rewrites": ["rewrite_id", "reasoning", "rewritten_tokens", "verdict"],
    "sft_examples": ["example_id", "prompt", "completion", "origin_id"],
    "packed": ["sequence_id", "input_ids", "labels", "position_ids"],
    "eval/fast/tiny": ["eval_id", "response", "correct"],
}
STAGES = [*TEXTS, "checkpoint"]
WRITTEN = 'sum(max_over_time(ray_distil_rows_written_total{stage="rewrites"}[1h]))'


@dataclass
class Seen:
    """What was seen of the run while it was made."""

    folder: Folder
    saved: dict[str, bytes] = field(default_factory=dict)  # shards of responses when it was stopped
    output: dict[str, str] = field(default_factory=dict)  # by submission: stopped, again, once-more
    left: set[str] = field(default_factory=set)  # processes of ended jobs
    roles: list[Roles] = field(default_factory=list)  # of the nodes, over time
    unanswered: set[str] = field(default_factory=set)  # queries of the board
    rows_written: float = 0.0  # as Prometheus has it


def board_queries() -> set[str]:
    board = json.loads(BOARD.read_text())
    return {target["expr"].replace("$run", ".*") for panel in board["panels"] for target in panel["targets"]}


def shards(folder: Folder) -> dict[str, bytes]:
    return {name: folder.read_bytes(name) for name in folder.files("part-", ".parquet")}


def rows(folder: Folder, columns: list[str]) -> pd.DataFrame:
    tables = [folder.read_table(name, columns).to_pandas() for name in folder.files("part-", ".parquet")]
    return pd.concat(tables).sort_values(columns[0]).reset_index(drop=True)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    with store_with_credentials(tmp_path_factory.mktemp("s3") / "log") as store:
        yield store


@pytest.fixture(scope="module")
def cluster(store: ObjectStore) -> Iterator[Cluster]:
    with autoscaled_cluster(CREDENTIALS) as made:
        yield made


def imported(small_run: SmallRun, folder: Path) -> list[str]:
    """Both teachers' responses as given files, and the slow teacher's engine as the rewriter's."""
    responses = pd.read_parquet(small_run.folder / "responses", columns=["teacher", "instruction", "response"])
    slow = load(None, SMALL).teachers.slow
    files = {name: str(folder / f"{name}.parquet") for name in ("direct", "slow")}
    for name, file in files.items():
        responses[responses.teacher == name].drop(columns="teacher").to_parquet(file)
    teachers = {
        "direct": {"responses": files["direct"]},
        "slow": {"responses": files["slow"], "fraction": slow.fraction},
    }
    rewriter = slow.engine.model_dump(mode="json") | {"resources": {"teacher": 1}}
    rewriter["engine_kwargs"]["max_num_seqs"] = 1  # it is at work for seconds, in which Prometheus sees it
    return [f"teachers={json.dumps(teachers)}", f"long2short.engine={json.dumps(rewriter)}"]


@pytest.fixture(scope="module")
def seen(cluster: Cluster, store: ObjectStore, small_run: SmallRun, tmp_path_factory: pytest.TempPathFactory) -> Seen:
    given = imported(small_run, tmp_path_factory.mktemp("given"))
    arguments = [*ARGUMENTS, *given, f"run.storage_path={store.uri('runs')}"]
    seen = Seen(Folder.at(store.uri("runs")) / "small", unanswered=board_queries())
    targets = cluster.folder / "ray" / "prom_metrics_service_discovery.json"
    wait_until(targets.exists, "Ray names its targets")  # a link: Prometheus would not see that its file is another one
    watching = Prometheus(tmp_path_factory.mktemp("m"), targets.resolve()) if PROMETHEUS else nullcontext()
    with watching as prometheus, Watch(cluster) as watch:
        wait_until(lambda: watch.seen == [()], "there is no node but the head")

        stopped = SubmittedJob(cluster, "stopped", ROOT, *arguments)
        stopped.wait_until(lambda: seen.folder.exists("rewrites/_attempt"), "rewriting has begun", pause=2)
        _, seen.output["stopped"] = stopped.stop()
        seen.left |= stopped.left()
        assert read_manifest(seen.folder / "rewrites") is None
        seen.saved = shards(seen.folder / "responses")

        again = SubmittedJob(cluster, "again", ROOT, *arguments)
        code, seen.output["again"] = again.finish()
        assert code == 0, seen.output["again"]
        seen.left |= again.left()
        if prometheus is not None:
            seen.unanswered = {query for query in seen.unanswered if not prometheus.had_answer(query)}
            seen.rows_written = float(prometheus.query(WRITTEN)[0]["value"][1])

        code, seen.output["once more"] = SubmittedJob(cluster, "once-more", ROOT, *arguments).finish()
        assert code == 0, seen.output["once more"]
        wait_until(lambda: watch.seen[-1] == (), "all nodes have gone")
        seen.roles = watch.seen
    print("nodes over time:", " -> ".join("+".join(roles) or "none" for roles in seen.roles))
    return seen


def test_stopped_it_leaves_no_process_and_what_was_saved_stays(seen: Seen) -> None:
    assert "Job 'stopped' was stopped" in seen.output["stopped"]
    assert seen.left == set()
    assert seen.saved
    assert "responses       complete" in seen.output["again"]
    assert seen.saved.items() <= shards(seen.folder / "responses").items()


@pytest.mark.parametrize("artifact", STAGES)
def test_counts_add_up_in_the_store(seen: Seen, artifact: str) -> None:
    manifest = read_manifest(seen.folder / artifact)
    assert manifest is not None
    assert manifest.rows_in == manifest.rows_out + manifest.rows_rejected > 0


@pytest.mark.parametrize("artifact", TEXTS)
def test_it_makes_what_a_run_on_one_machine_makes(seen: Seen, small_run: SmallRun, artifact: str) -> None:
    """Of the student, trained by two workers that write to the store, the answers tell."""
    columns = TEXTS[artifact]
    local = Folder.at(small_run.folder) / artifact
    pd.testing.assert_frame_equal(rows(seen.folder / artifact, columns), rows(local, columns))


def test_the_whole_run_lies_in_the_store(seen: Seen, cluster: Cluster) -> None:
    for name in ("checkpoint/student/model.safetensors", "report/report.html", "config.yaml"):
        assert seen.folder.exists(name), name
    assert not any(path.name == "small" for path in cluster.folder.rglob("*"))


def states(run: Folder) -> dict[int, list[tuple[str, float]]]:
    """Optimiser step -> name and time of change of each file of the state that was saved there."""
    found: dict[int, list[tuple[str, float]]] = {}
    filesystem, path = (run / "checkpoint" / STATES).filesystem_and_path()
    for info in filesystem.get_file_info(fs.FileSelector(path, recursive=True)):
        step = re.search(r"/step-(\d+)-\w+/rank-", info.path)
        if step and info.type == fs.FileType.File:  # a folder in a store has no time of change
            found.setdefault(int(step[1]), []).append((info.base_name, info.mtime_ns / 1e9))
    return found


def test_the_training_state_of_each_rank_is_in_the_store(seen: Seen) -> None:
    saved = states(seen.folder)
    assert len(saved) == 2
    for files in saved.values():
        assert len([name for name, _ in files if name.startswith("zero_pp_rank_")]) == 2, files


def test_a_training_state_is_in_the_store_as_soon_as_it_is_saved(seen: Seen) -> None:
    lines = [json.loads(line) for line in (seen.folder / "checkpoint").read_text("metrics.jsonl").splitlines()]
    saved = {step: max(changed for _, changed in files) for step, files in states(seen.folder).items()}
    first, last = min(saved), max(saved)
    between = sum(line["seconds"] for line in lines if first < line["step"] <= last)
    assert between > 1  # the store tells seconds
    assert saved[last] - saved[first] > between / 2


def test_submitted_once_more_it_redoes_nothing(seen: Seen) -> None:
    assert "report: s3://" in seen.output["again"]  # what the job prints is followed to its end
    assert seen.output["once more"].count("complete:") == len(STAGES)
    assert "messages of engines and workers" not in seen.output["once more"]  # no worker was asked for


def test_the_status_is_read_from_the_store(seen: Seen, tmp_path: Path) -> None:
    assert "eval/fast" in SmallRun(tmp_path).distill("--status", str(seen.folder)).stdout
    assert list(tmp_path.iterdir()) == []


def test_nodes_come_and_go_with_the_stages(seen: Seen) -> None:
    over_time = [set(roles) for roles in seen.roles]

    def first(wanted: set[str], unwanted: set[str], after: int = 0) -> int:
        """When there is a node of each wanted role and none of an unwanted one."""
        times = range(after, len(over_time))
        return next(i for i in times if wanted <= over_time[i] and not unwanted & over_time[i])

    generation = first({"teacher"}, {"student"})  # it needs no training node
    training = first({"student"}, {"teacher"}, generation)  # teachers are let go while the student is trained
    assert first({"teacher"}, set(), training) > training  # and come back to evaluate it
    assert over_time[-1] == set()


@pytest.mark.skipif(PROMETHEUS is None, reason="needs prometheus (Debian: apt-get install prometheus)")
def test_every_query_of_the_board_has_an_answer(seen: Seen) -> None:
    # On a CPU there is no MFU, and nothing is held out.
    assert all("train_mfu" in query or "train_eval_loss" in query for query in seen.unanswered), seen.unanswered
    assert seen.rows_written > 0


def test_a_mistake_ends_the_job_with_its_message(cluster: Cluster) -> None:
    code, output = SubmittedJob(cluster, "mistaken", ROOT, "training.lerning_rate=1").finish()
    assert code == 1
    assert "training.lerning_rate: unknown key; did you mean 'learning_rate'?" in output
    assert "exit code 2" in output  # Ray tells the job's own code, and ends with 1
    assert "Traceback" not in output


def test_without_the_token_nothing_is_submitted(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(cluster.environment, "RAY_AUTH_TOKEN", "0" * 32)
    refused = cluster.ray("job", "submit", "--address", cluster.address, "--", "true")
    assert refused.returncode != 0
    assert "token" in (refused.stdout + refused.stderr).lower()
