"""Every command of the README and of `docs/`: run here, or by the test that the table names."""

import json
import re
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.integration.cluster import PATIENCE, free_port, wait_until

from .conftest import ROOT, SMALL, SmallRun

PROGRAMS = ("make", "RAY_AUTH_MODE=token", "python", ".venv/bin/python", "vllm", "ENDPOINT=https://...")
DISTILL = ".venv/bin/python jobs/distill.py"
# What a cluster, GPUs, a hub or minutes of two cores are needed for is run by these, on addresses and sizes of theirs.
ELSEWHERE = {
    "make demo": "tests/integration/conftest.py::small_run",
    "make test": "tests/integration/test_readme.py::test_make_runs_what_the_readme_says",
    "RAY_AUTH_MODE=token ray job submit --address http://HEAD:8265 --working-dir . -- python jobs/distill.py "
    "run.storage_path=s3://BUCKET/runs": "tests/integration/test_cluster_run.py::test_stopped_it_leaves",
    "ENDPOINT=https://... TOKEN=... .venv/bin/python jobs/infer.py --config=distilqwen2.5-0324_stage1.json": "tests/integration/"
    "test_published_commands.py::test_the_two_commands",
    ".venv/bin/python jobs/train.py --config=distilqwen2.5-0324_stage2.json": "tests/integration/"
    "test_published_commands.py::test_the_two_commands",
    ".venv/bin/python jobs/export.py runs/one-gpu --hub short-math --license cc-by-4.0 --push me/short-math": "tests/unit/"
    "test_hub_upload.py::test_a_data_set_is_created",
    # Downloads several GB, for a machine with GPUs.
    "make setup-gpu": "tests/integration/test_readme.py::test_make_runs_what_the_readme_says",
}


def readme_commands() -> list[str]:
    """The indented lines that begin with a program; continued lines joined, remarks left out."""
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    text = "\n".join(page.read_text() for page in pages).replace("\\\n", " ")
    lines = [re.sub(r"\s+", " ", line.split("  #")[0]).strip() for line in text.splitlines() if line.startswith("    ")]
    return [line for line in lines if line.split(" ")[0] in PROGRAMS]


def shell(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a command of the README in `folder`, by this environment's Python and the jobs of this checkout."""
    words = command.replace(".venv/bin/python", sys.executable).replace("jobs/", f"{ROOT}/jobs/").split()
    return subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=PATIENCE)


def own_problems(small_run: SmallRun, folder: Path) -> None:
    problems = [{"instruction": f"What does a coat of ${k} cost at 20 % off?"} for k in range(40)]
    (folder / "problems.jsonl").write_text("\n".join(map(json.dumps, problems)) + "\n")
    result = shell(OWN_PROBLEMS, folder)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "'problems.jsonl': 40 records: 36 to train on, 4 held out; 0 have an answer" in result.stdout
    assert "the tiny teachers know the problems of the tiny world alone" in result.stdout
    assert not (folder / "runs").exists()


OWN_PROBLEMS = f"{DISTILL} --plan run.name=mine instructions.path=problems.jsonl"


def plan(small_run: SmallRun, folder: Path) -> None:
    result = shell(f"{DISTILL} --plan --config jobs/recipes/one-gpu.yaml", folder)
    assert result.returncode == 0, result.stderr
    assert "GPU-hours" in result.stdout


def one_gpu(small_run: SmallRun, folder: Path) -> None:
    result = shell(f"{DISTILL} --config jobs/recipes/one-gpu.yaml", folder)
    assert result.returncode == 2  # there are no problems here
    assert "problems.jsonl" in result.stderr


def status(small_run: SmallRun, folder: Path) -> None:
    result = shell(f"{DISTILL} --status {small_run.folder}", folder)
    assert result.returncode == 0, result.stderr
    assert "eval/fast" in result.stdout


def export(small_run: SmallRun, folder: Path) -> None:
    result = shell(f".venv/bin/python jobs/export.py {small_run.folder} training.json", folder)
    assert result.returncode == 0, result.stderr
    records = json.loads((folder / "training.json").read_text())
    assert f"{len(records):,} rows of sft_examples" in result.stdout
    assert all(record["instruction"] and record["output"] for record in records)


def published(small_run: SmallRun, folder: Path) -> None:
    result = shell(f".venv/bin/python jobs/export.py {small_run.folder} --hub short-math --license cc-by-4.0", folder)
    assert result.returncode == 0, result.stderr
    card = (folder / "short-math" / "README.md").read_text()
    assert "license: cc-by-4.0" in card
    rows = [row for file in (folder / "short-math").rglob("*.parquet") for row in pq.read_table(file).to_pylist()]
    assert f"{len(rows):,} rows of sft_examples" in result.stdout
    assert all([turn["role"] for turn in row["messages"]] == ["user", "assistant"] for row in rows)


def serve(small_run: SmallRun, folder: Path) -> None:
    """The README's line on the small run's student, at a free port; one chat is answered."""
    port, model = free_port(), str(small_run.folder / "checkpoint" / "student")
    words = SERVE.replace("runs/one-gpu/checkpoint/student", model).replace(".venv/bin/python", sys.executable).split()
    with open(folder / "log", "w") as log:
        server = subprocess.Popen([*words, f"--port={port}"], cwd=folder, stdout=log, stderr=log)
    asked = {"model": "student", "messages": [{"role": "user", "content": "2 + 3?"}], "max_tokens": 9}
    url = f"http://127.0.0.1:{port}/v1/chat/completions"
    request = urllib.request.Request(url, json.dumps(asked).encode(), {"Content-Type": "application/json"})

    def answered() -> Any:
        assert server.poll() is None, (folder / "log").read_text()
        with suppress(urllib.error.URLError), urllib.request.urlopen(request, timeout=60) as reply:
            return json.load(reply)
        return None

    try:
        assert wait_until(answered, "the student answers", pause=1)["choices"][0]["message"]["content"]
    finally:
        server.terminate()
        server.wait(60)


SERVE = (
    ".venv/bin/python -m vllm.entrypoints.openai.api_server --model runs/one-gpu/checkpoint/student "
    "--served-model-name student --kv-cache-memory-bytes 1073741824"
)
EVAL = ".venv/bin/python jobs/eval.py --benchmarks"
COMPARE = f"{EVAL} tiny --models slow=tiny:student-slow base=tiny:student-base"


def compare(small_run: SmallRun, folder: Path) -> None:
    """On 24 problems of 2 samples, three of them timed alone; again, nothing is asked."""
    command = f"{COMPARE} --limit 24 --samples 2 --timed 3"
    result = shell(command, folder)
    assert result.returncode == 0, result.stdout + result.stderr
    report = json.loads((folder / "runs" / "eval" / "report" / "report.json").read_text())
    slow, base = report["models"]
    assert (slow["name"], slow["benchmark"], slow["num_problems"], slow["num_samples"]) == ("slow", "tiny", 24, 2)
    assert slow["accuracy"] > 0.8 > base["accuracy"] + 0.5
    assert (slow["num_timed"], slow["seconds_gain"]) == (3, 1.0)
    assert base["seconds_gain"] > 1
    again = shell(command, folder)
    assert again.stdout.count("complete:") == 5, again.stdout + again.stderr


def ablate(small_run: SmallRun, folder: Path) -> None:
    """On a copy of the small run, whose responses are there; one more training."""
    shutil.copytree(small_run.folder, folder / "small")
    small = [word for word in SMALL if not word.startswith("run.")]
    result = shell(f"{ABLATE} run.name=small run.max_shard_mb=null run.storage_path={folder} {' '.join(small)}", folder)
    assert result.returncode == 0, result.stdout + result.stderr
    told = json.loads((folder / "small" / "report" / "ablation.json").read_text())
    assert [one["without"] for one in told["variants"]] == ["", "shorter"]
    assert all(one["accuracy"] > 0 and one["learnt"] for one in told["variants"])
    assert "responses       complete" in result.stdout
    assert not (folder / "small-without-shorter-seed-0" / "eval" / "slow").exists()


ABLATE = ".venv/bin/python jobs/ablate.py --seeds 1 --without shorter"


def second_student(small_run: SmallRun, folder: Path) -> None:
    """On a copy of the small run without its student; all texts are complete, and another student is trained and asked."""
    shutil.copytree(small_run.folder, folder / "small-3b", ignore=shutil.ignore_patterns("checkpoint"))
    small = [word for word in SMALL if not word.startswith(("run.name", "training.num_train_epochs"))]
    words = f"run.name=small-3b run.storage_path={folder} {' '.join(small)} training.num_train_epochs=1"
    result = shell(f"{DISTILL} {words} training.student=tiny:student-slow", folder)
    assert result.returncode == 0, result.stdout + result.stderr
    for stage in ("instructions", "responses", "rewrites", "sft_examples", "eval/base/tiny", "eval/slow/tiny"):
        assert re.search(rf"^{stage} +complete:", result.stdout, re.MULTILINE), result.stdout
    assert re.search(r"^checkpoint +.* tokens", result.stdout, re.MULTILINE), result.stdout


SECOND_STUDENT = (
    f"{DISTILL} --config jobs/recipes/one-gpu.yaml run.name=one-gpu-3b "
    "training.student=Qwen/Qwen2.5-3B-Instruct evaluation.models.0.model_source=Qwen/Qwen2.5-3B-Instruct"
)


def compare_plan(small_run: SmallRun, folder: Path) -> None:
    command = EVAL_PLAN.replace("runs/one-gpu", str(small_run.folder))
    result = shell(f"{command} --max-tokens 600", folder)
    assert result.returncode == 0, result.stderr
    assert "eval/mine/math500" in result.stdout


EVAL_PLAN = f"{EVAL} aime24,math500 --models mine=runs/one-gpu/checkpoint/student --plan"
HERE: dict[str, Callable[[SmallRun, Path], None]] = {
    OWN_PROBLEMS: own_problems,
    f"{DISTILL} --plan --config jobs/recipes/one-gpu.yaml": plan,
    f"{DISTILL} --config jobs/recipes/one-gpu.yaml": one_gpu,
    f"{DISTILL} --status runs/one-gpu": status,
    ".venv/bin/python jobs/export.py runs/one-gpu training.json": export,
    ".venv/bin/python jobs/export.py runs/one-gpu --hub short-math --license cc-by-4.0": published,
    COMPARE: compare,
    ABLATE: ablate,
    EVAL_PLAN: compare_plan,
    SERVE: serve,
    SECOND_STUDENT: second_student,
}


def test_every_command_is_run_by_a_test() -> None:
    assert set(readme_commands()) == HERE.keys() | ELSEWHERE.keys()
    for test in ELSEWHERE.values():
        file, _, name = test.partition("::")
        assert f"def {name}" in (ROOT / file).read_text(), test


# A chain of its own. `make test-cluster` has its parts in others: a file of problems in test_poison, the rest in the small run.
LONG = {COMPARE, ABLATE, SERVE, SECOND_STUDENT}


@pytest.mark.parametrize("command", [pytest.param(c, marks=[pytest.mark.long] * (c in LONG)) for c in HERE])
def test_a_command_does_what_the_readme_says(command: str, small_run: SmallRun, tmp_path: Path) -> None:
    HERE[command](small_run, tmp_path)


@pytest.mark.parametrize(
    ("target", "runs"),
    [
        ("demo", "jobs/distill.py"),
        ("setup-gpu", "touch .venv/.ready"),
        ("test", "tests/unit tests/integration/test_chain.py"),
        ("test-cluster", "--ignore tests/integration/test_chain.py tests/integration"),
    ],
)
def test_make_runs_what_the_readme_says(target: str, runs: str) -> None:
    command = ["make", "--no-print-directory", "-n", target]  # under `make test` this make is a nested one
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert shown.splitlines()[-1].endswith(runs)
