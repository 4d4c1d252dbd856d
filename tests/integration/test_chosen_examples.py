"""The choice among a problem's texts in a run of imported responses: what is learnt, and that a kill changes nothing."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pytest

from ray_distil import read_rows
from ray_distil.store.manifest import read_manifest
from ray_distil.store.storage import Folder
from tests.integration.cluster import PATIENCE
from tests.integration.conftest import ROOT

NUM_PROBLEMS, NUM_SAMPLES = 300, 4


def write(folder: Path) -> None:
    """Problems of three kinds: solved always, sometimes and never; each slow response has a conclusion."""
    dice = random.Random(5)
    problems, direct, slow = [], [], []
    for k in range(NUM_PROBLEMS):
        text, answer = f"What is {k} + {k * k}, in the {dice.choice('abc')} way?", k + k * k
        problems.append({"instruction": text, "answer": str(answer)})
        share = (1.0, 0.5, 0.0)[k % 3]
        for records in (direct, slow):
            for _ in range(NUM_SAMPLES):
                result = answer if dice.random() < share else answer + 1
                steps = " ".join(["First we add the two numbers."] * dice.randint(1, 9))
                final = f"{steps} The final answer is \\boxed{{{result}}}."
                records.append({"instruction": text, "output": final if records is direct else f"<think>\n{steps * 5}\n</think>\n\n\\boxed{{{result}}}"})  # fmt: skip
    for name, rows in {"problems": problems, "direct": direct, "slow": slow}.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def command(folder: Path, *overrides: str) -> list[str]:
    teachers = [
        override
        for name in ("direct", "slow")
        for override in (
            f"teachers.{name}.engine=null", f"teachers.{name}.responses={folder / name}.jsonl",
            f"teachers.{name}.num_samples={NUM_SAMPLES}", f"teachers.{name}.fraction=1",
        )
    ]  # fmt: skip
    return [
        sys.executable, str(ROOT / "jobs" / "distill.py"), f"instructions.path={folder}/problems.jsonl", "instructions.suffix=",
        "training=null", "long2short.enabled=false", "run.max_shard_mb=null", *teachers, *overrides,
    ]  # fmt: skip


def distilled(folder: Path, name: str, *overrides: str) -> Path:
    done = subprocess.run(
        command(folder, f"run.name={name}", *overrides), cwd=folder, capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "runs" / name


def learnt(run: Path) -> dict[str, list[dict[str, Any]]]:
    """Problem -> its examples."""
    of_problem = defaultdict(list)
    for row in read_rows(str(run), "sft_examples").to_dict("records"):
        of_problem[row["instruction_id"]].append(row)
    return of_problem


def reasons(run: Path) -> Counter[str]:
    manifest = read_manifest(Folder.at(run / "sft_examples"))
    assert manifest is not None
    assert manifest.rows_in == manifest.rows_out + manifest.rows_rejected
    return Counter(manifest.rejects)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("chosen")
    write(place)
    return place


def test_the_shortest_of_all_kinds_is_learnt(folder: Path) -> None:
    plain = distilled(folder, "plain", "curation.candidates=[direct]")
    run = distilled(folder, "shortest", "curation.candidates=[direct, conclusion]", "curation.choose=shortest")
    before, after = learnt(plain), learnt(run)
    assert after.keys() == before.keys() | after.keys()
    assert {len(rows) for rows in after.values()} == {1}
    assert reasons(run)["not_chosen"] > 100
    assert reasons(run)["too_short"] > 100, "a conclusion is the answer alone"
    for problem, (row,) in after.items():
        lengths = sorted(len(text["completion"]) for text in before.get(problem, ()))
        long_enough = [length for length in lengths if length >= 0.5 * lengths[len(lengths) // 2]]
        assert len(row["completion"]) == min(long_enough, default=len(row["completion"]))
        assert row["origin"] in ("direct", "conclusion")
    summary = read_manifest(Folder.at(run / "sft_examples")).summary  # type: ignore[union-attr]
    rates = {float(rate): number for rate, number in summary["pass_rates"].items()}
    assert rates[0.0] == pytest.approx(NUM_PROBLEMS * 0.9 / 3, abs=30)
    assert rates[1.0] == pytest.approx(NUM_PROBLEMS * 0.9 / 3, abs=30)
    assert summary["num_doubted"] == rates[0.0], "all say one more than the reference"
    responses = read_manifest(Folder.at(run / "responses"))
    assert responses is not None
    assert "verdicts" not in responses.summary, "imported responses are judged with the examples"


def test_hard_problems_are_learnt_at_full_length_within_a_budget(folder: Path) -> None:
    overrides = ["curation.candidates=[direct]", "curation.choose=shortest", "curation.slow_fraction=1"]
    run = distilled(folder, "hard", *overrides, "curation.easy_fraction=0", "curation.max_tokens=10000")
    kinds = Counter(row["origin"] for rows in learnt(run).values() for row in rows)
    assert kinds["slow"] > 4 * kinds["direct"], "of a hard problem without a right slow response, the direct one"
    assert {len(rows) for rows in learnt(run).values()} == {1}
    rejects = reasons(run)
    assert rejects["too_easy"] >= 80
    assert rejects["over_budget"] > 10
    total = sum(len(row["completion"]) // 4 for rows in learnt(run).values() for row in rows)
    assert 8_000 < total <= 10_000
    by_rate = read_manifest(Folder.at(run / "sft_examples")).summary["learnt_by_rate"]  # type: ignore[union-attr]
    rows = [row for rows in learnt(run).values() for row in rows]
    sums = [sum(column) for column in zip(*by_rate.values(), strict=True)]
    assert sums == [len(learnt(run)), len(rows), sum(len(row["completion"]) for row in rows)]


def test_a_kill_during_the_choice_changes_nothing(folder: Path) -> None:
    overrides = ["curation.choose=random", "curation.keep=2", "curation.candidates=[direct, slow]"]
    expected = distilled(folder, "whole", *overrides)
    killed = folder / "runs" / "killed"
    process = subprocess.Popen(
        command(folder, "run.name=killed", *overrides), cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    rejects, deadline = killed / "sft_examples" / "_rejects", time.monotonic() + PATIENCE
    while process.poll() is None and time.monotonic() < deadline:
        if any(b"not_chosen" in file.read_bytes() for file in rejects.glob("part-*.parquet")):
            os.kill(process.pid, signal.SIGKILL)
            break
        time.sleep(0.005)
    assert process.wait() == -signal.SIGKILL, "it was killed while examples were rejected"
    assert not (killed / "sft_examples" / "_manifest.json").exists()
    again = distilled(folder, "killed", *overrides)
    ids = [sorted(row["example_id"] for rows in learnt(run).values() for row in rows) for run in (expected, again)]
    assert ids[0] == ids[1]
    assert reasons(expected) == reasons(again)
