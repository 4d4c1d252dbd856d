"""Rows that would break an engine are rejected with a reason while all others finish; a run that goes wrong ends."""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from tempfile import gettempdir
from typing import Any

import pandas as pd
import pytest

from ray_distil.chat.tokenization import token_ids
from ray_distil.config.models import resolve_model
from ray_distil.store.manifest import Manifest, read_manifest
from ray_distil.store.storage import Folder
from ray_distil.tiny.world import SEED_TEST, held_out
from tests.integration.cluster import PATIENCE
from tests.integration.conftest import ROOT
from tests.integration.respond import NULL_ENGINE
from tests.integration.respond import __file__ as RESPOND

GOOD = [problem.question for problem in held_out(SEED_TEST, 24)]
LONG = "Ann has 3 pens. " * 400  # some 2,400 tokens; the engine takes fewer than 1,024
HUGE = "Ann has 3 pens. " * 65_536  # a megabyte
KILLS = "Tom has 41 books and 17 of them are red."  # the engine, each time
DEADLY = f"{KILLS} How many are not?"
POISON = {
    "no_instruction": [{"instruction": ""}, {"instruction": None}, {"instruction": 7}, {"question": "?"}, {}],
    "not_an_object": [None, "Ann has 3 pens."],
    "not_unicode": [{"instruction": "Ann has 3 \ud800 pens."}],
    "bad_answer": [{"instruction": "How many?", "answer": [3, 4]}],
    "duplicate": [{"instruction": GOOD[0]}, {"instruction": f"  {GOOD[1]}\n"}],
}
ENGINE = "teachers.direct.engine"


def respond(folder: Path, records: list[Any], *overrides: str) -> tuple[subprocess.CompletedProcess[str], Path]:
    """A run of the direct teacher; overrides of `respond.py` itself come first."""
    file = folder / "problems.jsonl"
    file.write_text("\n".join(json.dumps(record) for record in records))
    settings = [f"instructions.path={file}", f"run.storage_path={folder}", "run.name=poison", "teachers.slow=null"]
    settings.append("run.max_shard_mb=null")  # shards stay as they were written, for all to see
    command = [sys.executable, RESPOND, *overrides, *settings]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=PATIENCE), folder / "poison"


@dataclass
class Poisoned:
    """What a run of good, bad and deadly records made."""

    instructions: Manifest
    responses: Manifest
    asked: dict[str, str]  # id -> instruction, of those to train on
    made: pd.DataFrame
    rejects: pd.DataFrame
    secret: str  # an environment variable of the engine
    files: list[Path]  # of the run, and of all Rays that started meanwhile


def sessions_of_ray() -> set[Path]:
    return {path for path in Path(gettempdir(), "ray").glob("session_*") if not path.is_symlink()}


@pytest.fixture(scope="module")
def poisoned(tmp_path_factory: pytest.TempPathFactory) -> Poisoned:
    poison = [record for records in POISON.values() for record in records]
    unfit = [{"instruction": text} for text in (LONG, DEADLY, HUGE)]
    # In between, so that they share batches with good rows.
    records: list[Any] = [{"instruction": text} for text in GOOD]
    for place, record in enumerate([*poison, *unfit]):
        records.insert(2 * place + 2, record)
    secret = " ".join(map(str, token_ids(KILLS, resolve_model("tiny:teacher-v3", "k"))[1:-1]))
    before = sessions_of_ray()
    result, run = respond(
        tmp_path_factory.mktemp("poison"),
        records,
        "instructions.num_eval=1",
        f"{ENGINE}.batch_size=4",
        f"{ENGINE}.max_concurrent_batches=2",
        f"{ENGINE}.engine_kwargs.logits_processors=[tests.integration.deadly:Deadly]",
        f'{ENGINE}.env_vars.RAY_DISTIL_DEADLY_TOKEN="{secret}"',
        f'{ENGINE}.env_vars.PYTHONPATH="{ROOT}"',
    )
    assert result.returncode == 0, result.stdout + result.stderr
    instructions, responses = (read_manifest(Folder.at(run / name)) for name in ("instructions", "responses"))
    assert instructions is not None
    assert responses is not None
    asked = pd.read_parquet(run / "instructions").query("split == 'train'")
    made, rejects = pd.read_parquet(run / "responses"), pd.read_parquet(run / "responses" / "_rejects")
    texts = dict(zip(asked.instruction_id, asked.instruction, strict=True))
    files = [f for folder in (*(sessions_of_ray() - before), run) for f in folder.rglob("*") if f.is_file()]
    return Poisoned(instructions, responses, texts, made, rejects, secret, files)


def test_bad_records_are_rejected_before_they_are_asked(poisoned: Poisoned) -> None:
    assert poisoned.instructions.rejects == {reason: len(found) for reason, found in sorted(POISON.items())}
    assert {LONG, HUGE, DEADLY} <= set(poisoned.asked.values())


def test_all_others_finish(poisoned: Poisoned) -> None:
    responses, made = poisoned.responses, poisoned.made
    assert responses.rows_in == responses.rows_out + responses.rows_rejected == len(poisoned.asked)
    assert set(made.finish_reason) == {"stop"}
    assert set(made.instruction) == set(poisoned.asked.values()) - {LONG, HUGE, DEADLY}
    assert made.instruction_id.is_unique


def test_a_prompt_that_does_not_fit_and_a_row_that_kills_its_engine_each_time_are_rejected(poisoned: Poisoned) -> None:
    assert poisoned.responses.rejects == {"kills_engine": 1, "prompt_too_long": 2}
    rejects = {
        poisoned.asked[json.loads(row["row"])["instruction_id"]]: row for row in poisoned.rejects.to_dict("records")
    }
    assert {text: row["reason"] for text, row in rejects.items()} == {
        LONG: "prompt_too_long",
        HUGE: "prompt_too_long",
        DEADLY: "kills_engine",
    }
    assert rejects[DEADLY]["detail"].startswith("the engine died 4 times with this row")


def test_a_secret_reaches_the_engine_and_no_file(poisoned: Poisoned) -> None:
    assert poisoned.responses.rejects["kills_engine"] == 1  # the engine has it
    names = {file.name for file in poisoned.files}
    assert {"_manifest.json", "raylet.out", "runtime_env_agent.log"} <= names
    assert [file for file in poisoned.files if poisoned.secret.encode() in file.read_bytes()] == []


def test_a_run_whose_answers_are_all_cut_off_ends(tmp_path: Path) -> None:
    records = [{"instruction": text} for text in GOOD]
    cut = [f"{NULL_ENGINE}0.1,0", "teachers.direct.sampling_params.max_tokens=3", f"{ENGINE}.batch_size=8"]
    result, run = respond(tmp_path, records, *cut)
    assert result.returncode == 1, result.stdout + result.stderr
    assert "rows failed or were cut off, more than run.max_reject_fraction=0.5" in result.stderr
    assert read_manifest(Folder.at(run / "responses")) is None
    saved = {file: file.read_bytes() for file in (run / "responses").glob("part-*.parquet")}
    assert saved

    # What is there is not made again, and the answers may be wanted as they are.
    result, run = respond(tmp_path, records, *cut, "run.max_reject_fraction=1")
    assert result.returncode == 0, result.stdout + result.stderr
    assert set(pd.read_parquet(run / "responses").finish_reason) == {"length"}
    assert {file: file.read_bytes() for file in saved} == saved
