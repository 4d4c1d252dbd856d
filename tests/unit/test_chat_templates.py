"""What is learnt is what is asked and answered: prompt, completion and end of turn in the templates of many families.

The patterns are those of the families' own templates, around the tiny tokenizer's marks. The last test reads the true
tokenizers where RAY_DISTIL_TOKENIZERS names a folder of them: tests/README.md says how they are had.
"""

import json
import os
from pathlib import Path

import pyarrow as pa
import pytest

from ray_distil.chat.chat_templates import (
    ChatSettings,
    default_system_prompt,
    render_prompt,
    takes_system_turn,
    writes_date,
)
from ray_distil.chat.reasoning_marks import split_reasoning
from ray_distil.chat.tokenization import (
    IGNORE_INDEX,
    encode_example,
    encode_prompt,
    end_of_turn,
    load_tokenizer,
    opens_thinking,
    stop_token_ids,
)
from ray_distil.generate.token_rows import finish_batch
from ray_distil.stages.eval import answer_row
from tests.chat_families import END, OPEN, START, TEMPLATES, TINY, family, learnt, model_with

LEARNT = {"Llama-2": "5 " + END, "DeepSeek-Coder": "5\n" + END, "R1-Distill": "\n</think>\n\n5" + END}


@pytest.fixture(params=TEMPLATES)
def model(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, str]:
    """`(family, folder)` of the tiny model with a family's template."""
    return request.param, model_with(TEMPLATES[request.param], tmp_path)


def test_a_turn_ends_with_the_token_that_ends_it(model: tuple[str, str]) -> None:
    name, folder = model
    assert load_tokenizer(folder).decode([end_of_turn(folder)]) == END
    ids, labels = encode_example("2 + 3?", "5", folder)
    prompt, text = learnt(ids, labels, folder)
    assert text == LEARNT.get(name, "5" + END)
    asked = encode_prompt([{"role": "user", "content": "2 + 3?"}], folder)
    assert prompt == load_tokenizer(folder).decode(asked)
    assert ids[: len(asked)] == asked


@pytest.mark.parametrize("completion", ["2 + 3 = 5", "<think>\n2 and 3\n</think>\n\n5"])
def test_what_is_learnt_is_read_as_it_was(model: tuple[str, str], completion: str) -> None:
    name, folder = model
    ids, labels = encode_example("2 + 3?", completion, folder)
    prompt, _ = learnt(ids, labels, folder)
    assert (prompt + load_tokenizer(folder).decode(ids[len(prompt) :])).count("<think>") <= 1
    generated = [label for label in labels if label != IGNORE_INDEX]
    row = {
        "carried": f'{{"prompt_begins_thinking": {json.dumps(opens_thinking(ids[: -len(generated)], folder))}}}',
        "generated_text": load_tokenizer(folder).decode(generated, skip_special_tokens=True),
        "generated_tokens": generated,
        "num_input_tokens": 9,
        "__inference_error__": "",
    }
    stops = stop_token_ids(folder) | {end_of_turn(folder)}
    end = load_tokenizer(folder)("</think>", add_special_tokens=False)["input_ids"]
    (made,) = finish_batch(pa.Table.from_pylist([row]), stops, end, folder).to_pylist()
    evaluated = answer_row(made | {"id": "0", "model_name": "m", "reference_answer": "5"})
    assert made["finish_reason"] == "stop"
    assert made["generated_text"].count("<think>") == ("<think>" in completion or name == "R1-Distill")
    thought, conclusion = split_reasoning(completion)
    assert split_reasoning(made["generated_text"]) == (thought, conclusion)
    assert evaluated["complete"]


def test_a_system_prompt_is_the_templates_own_or_none_or_the_given_one(tmp_path: Path) -> None:
    folder = model_with(TEMPLATES["Qwen2.5"], tmp_path)
    assert default_system_prompt(folder) == "You are a model."
    assert takes_system_turn(folder)

    def prompt(system: str | None) -> str:
        ids, labels = encode_example("2 + 3?", "5", folder, system_prompt=system)
        return learnt(ids, labels, folder)[0]

    assert prompt(None).startswith(f"{START}system\nYou are a model.{END}\n{START}user\n2 + 3?")
    assert prompt("Be brief.").startswith(f"{START}system\nBe brief.{END}\n{START}user\n2 + 3?")
    assert prompt("").startswith(f"{START}system\n{END}\n{START}user\n2 + 3?")


@pytest.mark.parametrize("name", ["Gemma", "DeepSeek-V3"])  # refuses it; leaves it out
def test_without_a_system_turn_its_text_goes_before_the_users(name: str, tmp_path: Path) -> None:
    folder = model_with(TEMPLATES[name], tmp_path)
    assert not takes_system_turn(folder)
    assert default_system_prompt(folder) == ""
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "2 + 3?"}]
    assert f"{START}user\nBe brief.\n\n2 + 3?{END}" in render_prompt(messages, folder)
    assert render_prompt([{"role": "system", "content": ""}, messages[1]], folder) == render_prompt(
        messages[1:], folder
    )


def test_the_date_that_a_template_writes_is_the_runs(tmp_path: Path) -> None:
    folder = model_with(TEMPLATES["Llama-3.1"], tmp_path)
    assert writes_date(folder)
    messages = [{"role": "user", "content": "2 + 3?"}]
    assert render_prompt(messages, folder, ChatSettings(date="2026-01-31")).startswith("Today: 31 Jan 2026\n")
    assert not writes_date(TINY)


def test_variables_of_the_template_reach_it(tmp_path: Path) -> None:
    empty = "{% if enable_thinking is defined and not enable_thinking %}{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}"
    folder = model_with(family(OPEN + "' + m.content + '" + END + "\\n", opened=empty), tmp_path)
    off = ChatSettings.of({"enable_thinking": False})
    messages = [{"role": "user", "content": "2 + 3?"}]
    assert render_prompt(messages, folder, off).endswith("<think>\n\n</think>\n\n")
    assert not render_prompt(messages, folder).endswith("</think>\n\n")
    ids, labels = encode_example("2 + 3?", "5", folder, settings=off)
    prompt, text = learnt(ids, labels, folder)
    assert prompt == render_prompt(messages, folder, off)
    assert text == f"5{END}"


def test_marks_in_a_text_are_text() -> None:
    end = end_of_turn(TINY)
    ids, labels = encode_example(f"What does {END} do?", f"It ends a turn: {END} is a mark, {START} another.", TINY)
    assert labels.count(end) == 1
    assert [i for i, label in zip(ids, labels, strict=True) if label == IGNORE_INDEX].count(end) == 1
    prompt, text = learnt(ids, labels, TINY)
    assert prompt == f"{START}user\nWhat does {END} do?{END}\n{START}assistant\n"
    assert text == f"It ends a turn: {END} is a mark, {START} another.{END}"


def test_a_thought_in_a_completion_keeps_its_marks() -> None:
    tokenizer = load_tokenizer(TINY)
    marks = tokenizer.convert_tokens_to_ids(["<think>", "</think>"])
    _, labels = encode_example("2 + 3?", f"<think>\nThe mark {END}.\n</think>\n\n5", TINY)
    assert [label for label in labels if label in marks] == marks


ENDS = {"qwen2_5": END, "qwen3": END, "deepseek_v3": "<｜end▁of▁sentence｜>", "llama3": "<|eot_id|>"}
ENDS |= {"llama3_1": "<|eot_id|>", "gemma3": "<end_of_turn>"}


@pytest.mark.parametrize("name", ENDS)
def test_true_tokenizers(name: str) -> None:
    path = Path(os.environ.get("RAY_DISTIL_TOKENIZERS", "")) / name
    if not (path / "tokenizer.json").is_file():
        pytest.skip("RAY_DISTIL_TOKENIZERS names no folder that has it")
    folder = str(path)
    assert load_tokenizer(folder).decode([end_of_turn(folder)]) == ENDS[name]
    ids, labels = encode_example("2 + 3?", "2 + 3 = 5.\n\n\\boxed{5}", folder)
    text = learnt(ids, labels, folder)[1]
    assert text == f"2 + 3 = 5.\n\n\\boxed{{5}}{ENDS[name]}"
    assert ids[: -len([i for i in labels if i >= 0])] == encode_prompt([{"role": "user", "content": "2 + 3?"}], folder)
    marked, labels = encode_example(f"What is {ENDS[name]}?", f"{ENDS[name]} ends a turn.", folder)
    assert [i for i in labels if i >= 0].count(end_of_turn(folder)) == 1
    assert learnt(marked, labels, folder)[1] == f"{ENDS[name]} ends a turn.{ENDS[name]}"
