"""A run that makes only data: teachers by endpoint, nothing is trained, and the examples are written for any trainer."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.integration.cluster import PATIENCE
from tests.integration.conftest import ROOT
from tests.unit.endpoint_server import EndpointServer

NUM_PROBLEMS = 40


def answer(body: dict[str, Any]) -> dict[str, Any]:
    """Right for even numbers; the first request asks 1 + 1."""
    first, second = map(int, re.findall(r"\d+", body["messages"][-1]["content"])[:2])
    return {"content": f"{first} + {second} = {first + second}\n\n\\boxed{{{first + second + first % 2}}}"}


def distill(folder: Path, server: EndpointServer, *overrides: str) -> subprocess.CompletedProcess[str]:
    endpoint = {"base_url": server.url, "model": "served", "api_key_env": None}
    command = [sys.executable, str(ROOT / "jobs" / "distill.py"), "--config", "data-by-endpoint"]
    command += ["instructions.suffix=", "teachers.slow=null", f"teachers.direct.endpoint={json.dumps(endpoint)}"]
    command += ["teachers.direct.endpoint.api_key_env=null", "long2short.enabled=false", "long2short.endpoint=null"]
    return subprocess.run([*command, *overrides], cwd=folder, capture_output=True, text=True, timeout=PATIENCE)


def test_a_run_without_training_ends_with_its_examples(tmp_path: Path) -> None:
    problems = [{"instruction": f"What is {k} + 4?", "answer": str(k + 4)} for k in range(NUM_PROBLEMS)]
    (tmp_path / "problems.jsonl").write_text("\n".join(map(json.dumps, problems)))
    with EndpointServer() as server:
        server.message_of = answer
        made = distill(tmp_path, server)
        assert made.returncode == 0, made.stdout + made.stderr
        again = distill(tmp_path, server)
        num_train = NUM_PROBLEMS
        assert len(server.requests) == num_train + 1  # and one before Ray starts
    assert again.stdout.count("complete:") == 3, again.stdout

    # The records are those of the right answers, and the report says how many they are.
    run = tmp_path / "runs" / "data-by-endpoint"
    records = json.loads((run / "export" / "training.json").read_text())
    numbers = [int(re.findall(r"\d+", record["instruction"])[0]) for record in records]
    assert records
    assert all(number % 2 == 0 for number in numbers)
    assert f"{len(records)} of {num_train} texts of the teachers pass the gates, as training examples" in made.stdout
    assert f"examples: {run}/export/training.json" in made.stdout
    assert "note: training is null: the run ends with its examples" in made.stdout
    assert {file.name for file in run.iterdir()} >= {"instructions", "responses", "sft_examples", "export", "report"}
    assert not {"packed", "checkpoint", "eval"} & {file.name for file in run.iterdir()}


def test_an_empty_account_ends_the_run_and_the_same_command_goes_on(tmp_path: Path) -> None:
    problems = [{"instruction": f"What is {k} + 4?", "answer": str(k + 4)} for k in range(NUM_PROBLEMS)]
    (tmp_path / "problems.jsonl").write_text("\n".join(map(json.dumps, problems)))
    few_at_once = "teachers.direct.endpoint.max_concurrency=2"
    run, num_paid = tmp_path / "runs" / "data-by-endpoint", 12
    with EndpointServer() as server:
        server.message_of = answer
        server.fault_of = lambda body: "402" if len(server.requests) > num_paid else ""
        ended = distill(tmp_path, server, few_at_once)
        assert ended.returncode == 2, ended.stdout + ended.stderr
        assert "responses: the endpoint refuses all requests, http_402: status 402 (served at http" in ended.stderr
        assert len(server.requests) <= num_paid + 2, "nothing more is sent, but what was under way"
        assert not (run / "sft_examples").exists()

        # Rows that were refused are missing, not rejected.
        server.fault_of = lambda body: ""
        made = distill(tmp_path, server, few_at_once)
    assert made.returncode == 0, made.stdout + made.stderr
    assert "40 in, 40 out, 0 rejected (responses)" in made.stdout


def test_rows_that_failed_are_told_with_words_and_the_option_that_tries_them_again(tmp_path: Path) -> None:
    problems = [{"instruction": f"What is {k} + 4?", "answer": str(k + 4)} for k in range(NUM_PROBLEMS)]
    (tmp_path / "problems.jsonl").write_text("\n".join(map(json.dumps, problems)))
    with EndpointServer() as server:
        server.message_of = answer
        server.fault_of = lambda body: "500" if body["messages"][-1]["content"].startswith("What is 2") else ""
        made = distill(tmp_path, server, "teachers.direct.endpoint.max_retries=0")
        line = r"responses: (\d+) rows failed \(http_500 \1: status 500\): --retry-failed tries them again"
        assert re.search(line, made.stdout), made.stdout + made.stderr
        server.fault_of = lambda body: ""
        again = distill(tmp_path, server, "--retry-failed")
    assert "40 in, 40 out, 0 rejected (responses)" in again.stdout, again.stdout + again.stderr


def test_without_an_example_it_fails_and_says_why(tmp_path: Path) -> None:
    problems = [{"instruction": f"What is {k} + 4?", "answer": "0"} for k in range(NUM_PROBLEMS)]
    (tmp_path / "problems.jsonl").write_text("\n".join(map(json.dumps, problems)))
    with EndpointServer() as server:
        server.message_of = answer
        made = distill(tmp_path, server)
    assert made.returncode == 1
    assert "failed: sft_examples: no example passed the gates: wrong_answer 40" in made.stderr
    assert "run the same command again" not in made.stderr
    assert not (tmp_path / "runs" / "data-by-endpoint" / "export").exists()
