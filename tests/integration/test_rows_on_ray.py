"""Stages of rows on a real Ray: what needs all rows of an artifact at once is right, wherever their shards are."""

import random
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from ray_distil.config import load
from ray_distil.config.models import resolve_model, resolve_models
from ray_distil.runner.runs import Run
from ray_distil.stages import make_examples, packed
from ray_distil.store import schemas
from ray_distil.store.artifact import Artifact
from ray_distil.store.shards import table_of
from ray_distil.store.storage import Folder

STUDENT = resolve_model("tiny:student-base", "k")
CHUNK, WINDOW = 40, 3


def examples(folder: Path, number: int) -> Artifact:
    """Example shards of all sizes."""
    made, dice = Artifact(Folder.at(folder), "sft_examples", schemas.SFT_EXAMPLES, "made of this"), random.Random(0)
    rows = [
        {
            "example_id": schemas.stable_id("example", k),
            "instruction_id": f"{k:016x}",
            "prompt": f"{k} pens?",
            "completion": "pens " * (1 if k % 40 else 90),
            "origin": "direct",
            "origin_id": f"{k:016x}",
        }
        for k in range(number)
    ]
    made.start()
    while rows:
        size = dice.randint(1, 30)
        made.write_table(table_of(rows[:size], schemas.SFT_EXAMPLES), "sft_examples")
        rows = rows[size:]
    made.finish("sft_examples", "examples", number, 1.0)
    return made


@pytest.mark.usefixtures("local_ray")
def test_equal_texts_of_a_problem_are_learnt_once(tmp_path: Path) -> None:
    config = load(None, [f"run.storage_path={tmp_path}", "long2short.enabled=false"])
    responses, dice = Artifact(config.run_folder, "responses", schemas.RESPONSES, "made of this"), random.Random(1)
    rows = [
        response_row(k, problem=k // 8, answer=13 if k % 9 else 14, way=dice.choice(("Add.", "Count on.")))
        for k in range(200)
    ]
    responses.start()
    for start in range(0, 200, 13):  # most problems have samples in two shards
        responses.write_table(table_of(rows[start : start + 13], schemas.RESPONSES), "responses")
    responses.finish("responses", "responses", 200, 1.0)

    made = make_examples(Run(config, resolve_models(config)), responses, None)
    right = [row for row in rows if row["answer"] == "13"]
    different = {(row["instruction_id"], row["response"]) for row in right}
    assert Counter((row["instruction_id"], row["completion"]) for row in made.read_table().to_pylist()) == Counter(
        different
    )
    manifest = made.manifest()
    assert manifest is not None
    rejects = {"same_text": len(right) - len(different), "wrong_answer": 200 - len(right)}
    assert (manifest.rows_in, manifest.rows_out, manifest.rejects) == (200, len(different), rejects)


@pytest.mark.usefixtures("local_ray")
def test_a_judge_of_ones_own_decides_what_is_learnt(tmp_path: Path) -> None:
    words = [f"run.storage_path={tmp_path}", "long2short.enabled=false", "answers.judge=examples.my_judges:rounded"]
    config = load(None, words)
    responses = Artifact(config.run_folder, "responses", schemas.RESPONSES, "made of this")
    answers = ("1/3", "0.333", "0.34", "a third")
    rows = [response_row(k, problem=k, answer=13, way="Divide.") for k in range(len(answers))]
    rows = [row | {"answer": text, "reference_answer": "1/3"} for row, text in zip(rows, answers, strict=True)]
    responses.start()
    responses.write_table(table_of(rows, schemas.RESPONSES), "responses")
    responses.finish("responses", "responses", len(rows), 1.0)

    manifest = make_examples(Run(config, resolve_models(config)), responses, None).manifest()
    assert manifest is not None
    assert (manifest.rows_out, manifest.rejects) == (2, {"unclear_answer": 1, "wrong_answer": 1})


def response_row(number: int, problem: int, answer: int, way: str) -> dict[str, Any]:
    return {
        "response_id": schemas.stable_id("response", number),
        "instruction_id": f"{problem:016x}",
        "instruction": f"{problem} pens?",
        "reference_answer": "13",
        "teacher": "direct",
        "sample_index": number,
        "response": f"{way} The final answer is \\boxed{{{answer}}}.",
        "reasoning": "",
        "answer": str(answer),
        "finish_reason": "stop",
        "num_prompt_tokens": 9,
        "num_generated_tokens": 9,
        "model": "m",
        "sampling_params": "{}",
    }


@pytest.mark.usefixtures("local_ray")
@pytest.mark.parametrize(
    "number", [CHUNK * WINDOW + 1, *(pytest.param(n, marks=pytest.mark.long) for n in (1, CHUNK * 5))]
)
def test_the_sequences_are_those_of_one_table_in_order(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packed, "CHUNK_EXAMPLES", CHUNK)
    monkeypatch.setattr(packed, "WINDOW", WINDOW)
    given, target = (
        examples(tmp_path, number),
        Artifact(Folder.at(tmp_path), "packed", schemas.PACKED, "", "example_ids"),
    )
    how = {"model": STUDENT, "max_length": 64}

    table = given.read_table(list(packed.COLUMNS))
    slices = [table.slice(start, CHUNK) for start in range(0, number, CHUNK)]
    expected = pa.concat_tables(
        packed.pack_chunk(part.append_column("chunk", pa.array([k] * part.num_rows, pa.int32())), **how)
        for k, part in enumerate(slices)
    )
    starts = packed.chunk_starts(packed.all_sizes(given.read(list(packed.SIZED))))
    target.start()
    for window in packed.pack(lambda: given.read(list(packed.COLUMNS)), starts, **how):
        target.write([window], "packed")
    manifest = target.finish("packed", "examples", number, 1.0)

    is_rejected = expected["reject_reason"].is_valid()
    kept = expected.filter(pa.compute.invert(is_rejected)).select(schemas.PACKED.names)
    assert target.read_table().to_pylist() == kept.sort_by("sequence_id").to_pylist()
    assert manifest.rows_rejected == pa.compute.sum(is_rejected).as_py() == -(-number // 40)
