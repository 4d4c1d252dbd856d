"""Examples from responses that are there already: no teacher is asked, long2short rewrites, the examples are exported."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pandas as pd
from datasets import Dataset

from ray_distil.judge.agreement import answers_agree
from ray_distil.judge.results import final_result
from ray_distil.report import report
from ray_distil.store.manifest import Manifest, read_manifest
from ray_distil.store.storage import Folder
from ray_distil.tiny import world
from tests.integration.cluster import PATIENCE
from tests.integration.conftest import ROOT
from tests.integration.respond import EXAMPLES, NULL_ENGINE
from tests.integration.respond import __file__ as RESPOND
from tools.tiny import texts

EXPORT = str(ROOT / "jobs" / "export.py")

NUM_PROBLEMS, NUM_HELD_OUT = 60, 6
UNANSWERED, WRONG, CUT = 1, 3, 4  # positions of problems to train on, and not held out


def python(script: str, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    command = [sys.executable, script, *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=PATIENCE, env=environment)


def write_sources(folder: Path) -> list[world.Problem]:
    """Problems as a saved dataset, slow responses as Parquet files of messages, direct ones as CSV."""
    problems, rng = world.held_out(5, NUM_PROBLEMS), random.Random(5)
    answers = [{"problem": p.question, "solution": str(p.answer)} for p in problems]
    Dataset.from_list(answers).save_to_disk(folder / "problems")

    slow = []
    for position, problem in enumerate(problems):
        user, reasoning = {"role": "user", "content": problem.question}, texts.slow_reasoning(problem, rng)
        conclusion = texts.slow_response(problem, "").partition("</think>\n\n")[2]
        conclusion = {WRONG: "The final answer is \\boxed{1000}.", CUT: ""}.get(position, conclusion)
        if position != UNANSWERED:
            slow.append([user, {"role": "assistant", "content": conclusion, "reasoning_content": reasoning}])
    slow.append([{"role": "user", "content": "Another problem?"}, {"role": "assistant", "content": "\\boxed{1}"}])
    slow.append([{"role": "system", "content": "Be brief."}, *slow[5]])
    (folder / "r1").mkdir()
    for number, part in enumerate((slow[:30], slow[30:])):
        pd.DataFrame({"chat": part}).to_parquet(folder / "r1" / f"part-{number}.parquet")

    direct = pd.DataFrame({"instruction": [p.question for p in problems]})
    direct["response"] = [texts.short_response(problem) for problem in problems]
    direct.to_csv(folder / "v3.csv", index=False)
    return problems


def manifest(run: Path, artifact: str) -> Manifest:
    found = read_manifest(Folder.at(run / artifact))
    assert found is not None
    assert found.rows_in == found.rows_out + found.rows_rejected
    return found


def test_examples_of_imported_responses(tmp_path: Path) -> None:
    problems = write_sources(tmp_path)
    arguments = [
        "run.name=imported",
        "instructions.path=problems",
        "instructions.columns={instruction: problem, answer: solution}",
        "teachers.direct={responses: v3.csv}",
        "teachers.slow={responses: r1, columns: {messages: chat}}",
        "long2short.engine={model_source: tiny:teacher-r1}",
    ]
    made = python(RESPOND, tmp_path, f"{NULL_ENGINE}0,0", EXAMPLES, *arguments)
    assert made.returncode == 0, made.stdout + made.stderr
    run = tmp_path / "runs" / "imported"
    report.build(Folder.at(run))

    train = pd.read_parquet(run / "instructions").query("split == 'train'")
    assert len(train) == NUM_PROBLEMS - NUM_HELD_OUT
    assert {problems[k].question for k in (UNANSWERED, WRONG, CUT)} <= set(train.instruction)
    responses, told = pd.read_parquet(run / "responses"), manifest(run, "responses")
    assert (told.rows_in, told.rejects) == (2 * len(train), {"no_response": 1})
    assert told.summary == {"num_unused_records": 2 * NUM_HELD_OUT + 1, "bad_records": {"system_turn": 1}}
    assert set(responses.model) == {"imported"}
    assert responses.num_generated_tokens.isna().all()
    slow = responses[responses.teacher == "slow"]
    assert slow[slow.finish_reason == "length"].instruction.to_list() == [problems[CUT].question]
    assert slow.response.str.startswith("<think>\n").all()

    rejects = manifest(run, "rewrites").rejects
    assert (rejects["source_incomplete"], rejects["source_wrong_answer"]) == (1, 1)
    assert set(rejects) == {
        "source_incomplete",
        "source_wrong_answer",
        "prompt_too_long",
    }  # the last by the null engine
    assert set(pd.read_parquet(run / "rewrites").response_id) < set(slow.response_id)
    assert "whose tokens before or after are not known" in (run / "report" / "report.html").read_text()

    examples = pd.read_parquet(run / "sft_examples")
    assert set(examples.origin) == {"direct", "rewrite"}
    exported = python(EXPORT, tmp_path, str(run), "training.json")
    assert exported.returncode == 0, exported.stderr
    records = json.loads((tmp_path / "training.json").read_text())
    assert sorted((r["instruction"], r["output"]) for r in records) == sorted(
        zip(examples.prompt, examples.completion, strict=True)
    )
    answer_of = {problem.question + world.SUFFIX: str(problem.answer) for problem in problems}
    assert all(answers_agree(final_result(r["output"]), answer_of[r["instruction"]]) for r in records)

    refused = python(EXPORT, tmp_path, str(run), "packed.json", "--artifact", "packed")
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1
    assert "sft_examples, responses, rewrites" in refused.stderr
