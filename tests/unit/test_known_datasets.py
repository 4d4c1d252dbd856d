"""The lines of docs/datasets.md, each on five rows of its dataset's form."""

import json
import re
import shlex
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from ray_distil.config import load
from ray_distil.config.models import responses_of
from ray_distil.judge.agreement import answers_agree
from ray_distil.problems import collecting
from ray_distil.records import sources
from ray_distil.stages import imports

DOC = Path(__file__).resolve().parents[2] / "docs" / "datasets.md"
TABLES = DOC.read_text().split("As responses of the slow teacher")
SYSTEM = "Your role as an assistant involves thoroughly exploring questions."


def lines(table: str) -> dict[str, list[str]]:
    """Dataset -> overrides of its line."""
    found = re.findall(r"^\| ([\w.-]+/[\w.-]+) \| *(?:`([^`]*)`)? *\|$", table, re.MULTILINE)
    return {name: shlex.split(overrides) for name, overrides in found}


AS_INSTRUCTIONS, AS_RESPONSES = map(lines, TABLES)


def rows_of(dataset: str) -> list[dict[str, Any]]:
    """Five rows as the dataset has them: what is asked, what is answered, and what stands beside."""
    made: list[dict[str, Any]] = []
    for k in range(5):
        asked, answer = f"What is {k} + 3?", str(k + 3)
        chain = f"<think>\n{k} and 3 make {answer}.\n</think>\n\nIt is \\boxed{{{answer}}}."
        marked = f"<|begin_of_thought|>\n\n{k} and 3.\n\n<|end_of_thought|>\n\n<|begin_of_solution|>\n\n\\boxed{{{answer}}}\n\n<|end_of_solution|>"
        turns = [{"from": "user", "value": asked}, {"from": "assistant", "value": marked}]
        info = {"source": "x", "reference_answer": answer, "test_case": None, "think_content": None}
        shapes: dict[str, dict[str, Any]] = {
            "open-thoughts/OpenThoughts-114k": {"system": SYSTEM, "conversations": turns},
            "bespokelabs/Bespoke-Stratos-17k": {"system": SYSTEM, "conversations": turns},
            "open-r1/OpenR1-Math-220k": {
                "problem": asked,
                "solution": "...",
                "answer": answer,
                "generations": [chain.replace(answer, "0"), chain],
                "correctness_math_verify": [False, True],
                "messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": chain}],
            },
            "simplescaling/s1K-1.1": {
                "question": asked,
                "solution": answer,
                "cot_type": "math",
                "deepseek_thinking_trajectory": f"{k} and 3.",
                "deepseek_attempt": f"It is \\boxed{{{answer}}}.",
            },
            "AI-MO/NuminaMath-CoT": {
                "source": "cn_k12",
                "problem": asked,
                "solution": f"Adding gives \\boxed{{{answer}}}.",
                "messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": "x"}],
            },
            "openai/gsm8k": {"question": asked, "answer": f"{k} and 3 make <<{k}+3={answer}>>{answer}.\n#### {answer}"},
            "a-m-team/AM-DeepSeek-R1-Distilled-1.4M": {
                "messages": [
                    {"role": "user", "content": asked, "info": info},
                    {"role": "assistant", "content": f"<think>{k} and 3.</think><answer>\\boxed{{{answer}}}</answer>"},
                ]
            },
            "zwhe99/DeepMath-103K": {
                "question": asked,
                "final_answer": answer,
                "difficulty": 2.0,
                "topic": "x",
                **{f"r1_solution_{n}": chain for n in (1, 2, 3)},
            },
            "tatsu-lab/alpaca": {
                "instruction": "Add three to the number.",
                "input": str(k),
                "output": f"It is \\boxed{{{answer}}}.",
                "text": "Below is an instruction ...",
            },
        }
        made.append(shapes[dataset])
    return made


def asked_of(dataset: str, k: int) -> str:
    return f"Add three to the number.\n{k}" if dataset == "tatsu-lab/alpaca" else f"What is {k} + 3?"


def saved(dataset: str, folder: Path) -> Path:
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows_of(dataset)))
    return file


def test_the_tables_have_the_same_datasets() -> None:
    assert list(AS_INSTRUCTIONS) == list(AS_RESPONSES)
    assert len(AS_INSTRUCTIONS) == 9


@pytest.mark.parametrize("dataset", AS_INSTRUCTIONS)
def test_as_instructions(dataset: str, tmp_path: Path) -> None:
    file = saved(dataset, tmp_path)
    config = load(None, [f"instructions.path={file}", *AS_INSTRUCTIONS[dataset]])
    rows = collecting.collect(config.instructions, 0).to_pylist()
    assert not [row["reject_detail"] for row in rows if row["reject_reason"]]
    assert {row["instruction"] for row in rows} == {asked_of(dataset, k) for k in range(5)}
    references = {row["instruction"]: row["reference_answer"] for row in rows}
    if dataset.partition("/")[0] not in ("open-thoughts", "bespokelabs", "tatsu-lab"):
        assert all(answers_agree(str(k + 3), references[asked_of(dataset, k)]) for k in range(5)), references


@pytest.mark.parametrize("dataset", AS_RESPONSES)
def test_as_responses(dataset: str, tmp_path: Path) -> None:
    file = saved(dataset, tmp_path)
    given = ["teachers.slow.engine=null", f"teachers.slow.responses={file}", "long2short.enabled=false"]
    slow = load(None, [*given, *AS_RESPONSES[dataset]]).teachers.slow
    assert slow is not None
    asked = [
        {"instruction_id": f"{k:016x}", "instruction": asked_of(dataset, k), "reference_answer": None, "split": "train"}
        for k in range(5)
    ]
    records = sources.records(responses_of(slow, "teachers.slow"))
    counts: Counter[str] = Counter()
    made = list(imports.matched(imports.by_text(asked), records, "slow", 1, counts))
    assert counts == {imports.MATCHED: 5}
    assert all(answers_agree(row["answer"], str(k + 3)) for k, row in enumerate(made)), [row["answer"] for row in made]
    thinks = dataset not in ("openai/gsm8k", "tatsu-lab/alpaca", "AI-MO/NuminaMath-CoT")
    assert all(bool(row["reasoning"]) == thinks or not thinks for row in made)
    assert not any("|>" in row["reasoning"] + row["answer"] for row in made)
