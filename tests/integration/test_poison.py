"""Rows that would break an engine are rejected with a reason while all others finish; a run that goes wrong ends."""

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd

from ray_distil.manifest import read_manifest
from ray_distil.models import resolve_model
from ray_distil.storage import Folder
from ray_distil.tiny.world import SEED_TEST, held_out
from ray_distil.tokenization import token_ids
from tests.integration.respond import __file__ as RESPOND

ROOT = Path(__file__).resolve().parents[2]
GOOD = [problem.question for problem in held_out(SEED_TEST, 24)]
LONG = "Ann has 3 pens. " * 400  # some 2,400 tokens; the engine takes fewer than 1,024
HUGE = "Ann has 3 pens. " * 65_536  # a megabyte
POISON = {
    "no_instruction": [{"instruction": ""}, {"instruction": None}, {"instruction": 7}, {"question": "?"}, {}],
    "not_an_object": [None, "Ann has 3 pens."],
    "not_unicode": [{"instruction": "Ann has 3 \ud800 pens."}],
    "bad_answer": [{"instruction": "How many?", "answer": [3]}],
    "duplicate": [{"instruction": GOOD[0]}, {"instruction": f"  {GOOD[1]}\n"}],
}


def respond(folder: Path, records: list[object], *overrides: str) -> tuple[subprocess.CompletedProcess[str], Path]:
    file = folder / "problems.jsonl"
    file.write_text("\n".join(json.dumps(record) for record in records))
    command = [sys.executable, RESPOND, f"instructions.path={file}", f"run.storage_path={folder}", "run.name=poison"]
    command.append("run.max_shard_mb=null")  # shards stay as they were written, for all to see
    made = subprocess.run(
        [*command, "teachers.slow=null", *overrides], cwd=folder, capture_output=True, text=True, timeout=240
    )
    return made, folder / "poison"


def test_poison_is_rejected_and_the_others_finish(tmp_path: Path) -> None:
    poison = [record for records in POISON.values() for record in records]
    too_long = [{"instruction": LONG}, {"instruction": HUGE}]
    # In between, so that they share batches with good rows.
    records = [{"instruction": text} for text in GOOD]
    for place, record in enumerate([*poison, *too_long]):
        records.insert(2 * place + 2, record)
    result, run = respond(tmp_path, records, "teachers.direct.engine.batch_size=8")
    assert result.returncode == 0, result.stdout + result.stderr

    instructions = read_manifest(Folder.at(run / "instructions"))
    assert instructions is not None
    assert instructions.rejects == {reason: len(found) for reason, found in sorted(POISON.items())}
    responses = read_manifest(Folder.at(run / "responses"))
    assert responses is not None
    split = pd.read_parquet(run / "instructions").split.value_counts()
    assert responses.rows_in == split["train"]
    assert responses.rows_in == responses.rows_out + responses.rows_rejected
    made = pd.read_parquet(run / "responses")
    assert set(made.finish_reason) == {"stop"}
    # Those held out are not asked; the others are answered, but for the two that do not fit.
    assert made.instruction.isin(GOOD).all()
    asked = set(pd.read_parquet(run / "instructions").query("split == 'train'").instruction)
    assert set(made.instruction) == asked - {LONG, HUGE}
    assert responses.rejects == {"prompt_too_long": len(asked & {LONG, HUGE})}


def test_a_run_whose_answers_are_all_cut_off_ends(tmp_path: Path) -> None:
    records = [{"instruction": text} for text in GOOD]
    cut = "teachers.direct.sampling_params.max_tokens=3"
    result, run = respond(tmp_path, records, cut, "teachers.direct.engine.batch_size=8")
    assert result.returncode == 1, result.stdout + result.stderr
    assert "rows failed or were cut off at max_tokens, more than run.max_reject_fraction=0.5" in result.stderr
    assert read_manifest(Folder.at(run / "responses")) is None
    saved = {file: file.read_bytes() for file in (run / "responses").glob("part-*.parquet")}
    assert saved

    # What is there is not made again, and the answers may be wanted as they are.
    result, run = respond(tmp_path, records, cut, "run.max_reject_fraction=1")
    assert result.returncode == 0, result.stdout + result.stderr
    assert set(pd.read_parquet(run / "responses").finish_reason) == {"length"}
    assert {file: file.read_bytes() for file in saved} == saved


def test_a_row_that_kills_its_engine_each_time_is_rejected_and_the_others_finish(tmp_path: Path) -> None:
    model = resolve_model("tiny:teacher-v3", "k")
    deadly = "Tom has 41 books and 17 of them are red."
    records = [{"instruction": text} for text in GOOD]
    records.insert(9, {"instruction": f"{deadly} How many are not?"})
    engine = "teachers.direct.engine"
    result, run = respond(
        tmp_path,
        records,
        "instructions.num_eval=1",
        f"{engine}.batch_size=4",
        f"{engine}.max_concurrent_batches=2",
        f"{engine}.engine_kwargs.logits_processors=[tests.integration.deadly:Deadly]",
        f'{engine}.env_vars.RAY_DISTIL_DEADLY_TOKENS="{" ".join(map(str, token_ids(deadly, model)[1:-1]))}"',
        f'{engine}.env_vars.PYTHONPATH="{ROOT}"',
    )
    assert result.returncode == 0, result.stdout + result.stderr
    manifest = read_manifest(Folder.at(run / "responses"))
    assert manifest is not None
    assert manifest.rejects == {"engine_error": 1}
    (reject,) = pd.read_parquet(run / "responses" / "_rejects").to_dict("records")
    assert "died 4 times with this row" in reject["detail"]
    asked = pd.read_parquet(run / "instructions").query("split == 'train'").set_index("instruction_id").instruction
    rejected = json.loads(reject["row"])["instruction_id"]
    assert deadly in asked[rejected]
    made = pd.read_parquet(run / "responses")
    assert sorted([*made.instruction_id, rejected]) == sorted(asked.index)
    assert set(made.finish_reason) == {"stop"}
