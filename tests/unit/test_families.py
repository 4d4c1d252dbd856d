"""Families whose marks of thinking are tokens: asked, split, counted and learnt in the model's own form."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from ray_distil.chat import families
from ray_distil.chat.chat_templates import (
    ChatSettings,
    kept_system_prompt,
    load_tokenizer,
    render_prompt,
    replaced_system_prompt,
)
from ray_distil.chat.reasoning_marks import split_reasoning, with_our_marks
from ray_distil.chat.tokenization import encode_example, generation_ends, token_ids
from ray_distil.checks import model_checks
from ray_distil.checks.model_checks import CheckedModel
from ray_distil.config import load
from ray_distil.config.engine_config import EngineConfig
from ray_distil.config.models import resolve_models
from ray_distil.errors import UserError
from ray_distil.generate.token_rows import encode_batch, finish_batch, finish_options
from ray_distil.runner.runs import Run
from ray_distil.stages import packed
from tests.chat_families import END, OPEN, SPECIAL, TEMPLATES, family, learnt, model_with, special_model, with_tokens

THOUGHT, ANSWER = "Two and three make five.", "It is \\boxed{5}."
CHAIN = f"<think>\n{THOUGHT}\n</think>\n\n{ANSWER}"
QUESTION = [{"role": "user", "content": "What is 2 + 3?"}]
# What a model of the family writes behind its prompt.
WRITTEN = {
    "gpt-oss": f"<|channel|>analysis<|message|>{THOUGHT}<|end|><|start|>assistant<|channel|>final<|message|>{ANSWER}",
    "Command A": f"{THOUGHT}<|END_THINKING|><|START_RESPONSE|>{ANSWER}<|END_RESPONSE|>",
    "Magistral": f"[THINK]{THOUGHT}[/THINK]{ANSWER}",
    "Gemma 4": f"<|channel>thought\n{THOUGHT}<channel|>{ANSWER}",
}


@pytest.fixture(params=SPECIAL)
def model(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, str]:
    return request.param, special_model(request.param, tmp_path)


def answered(text: str, folder: str, stop: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """`(sampling parameters, row)` of an engine that wrote this text: with special tokens where it was asked for them."""
    request = {"id": "0", "messages": QUESTION, "sampling_params": {"max_tokens": 99}}
    (prompt,) = encode_batch(pa.Table.from_pylist([request]), folder, 1024).to_pylist()
    params = prompt["sampling_params"]
    ids = token_ids(text + stop, folder)
    skips = params.get("skip_special_tokens") is not False
    row = {
        "carried": prompt["carried"],
        "generated_text": load_tokenizer(folder).decode(ids[:-1] if stop else ids, skip_special_tokens=skips),
        "generated_tokens": ids,
        "num_input_tokens": len(prompt["tokenized_prompt"]),
        "__inference_error__": "",
    }
    (finished,) = finish_batch(pa.Table.from_pylist([row]), **finish_options(folder)).to_pylist()
    return params, finished


def test_a_thought_is_split_and_counted(model: tuple[str, str]) -> None:
    name, folder = model
    stop = {"gpt-oss": "<|return|>", "Command A": "<|END_OF_TURN_TOKEN|>"}.get(name, END)
    params, row = answered(WRITTEN[name], folder, stop)
    assert params["skip_special_tokens"] is False
    assert split_reasoning(row["generated_text"]) == (THOUGHT, ANSWER)
    behind = len(token_ids(ANSWER, folder))
    assert (
        0 <= row["num_generated_tokens"] - row["num_thinking_tokens"] - behind <= 3
    )  # marks of the answer, and the stop


def test_a_thought_that_was_cut_is_open(model: tuple[str, str]) -> None:
    name, folder = model
    text = WRITTEN[name].partition("five")[0]
    _, row = answered(text, folder, "")
    assert row["finish_reason"] == "length"
    assert split_reasoning(row["generated_text"])[1] == ""
    assert row["num_thinking_tokens"] == row["num_generated_tokens"]


@pytest.mark.parametrize("completion", [ANSWER, CHAIN])
def test_what_is_learnt_is_what_the_model_writes(model: tuple[str, str], completion: str) -> None:
    name, folder = model
    ids, labels = encode_example("What is 2 + 3?", completion, folder)
    prompt, text = learnt(ids, labels, folder)
    assert prompt == render_prompt(QUESTION, folder)
    direct = {
        "gpt-oss": f"<|channel|>final<|message|>{ANSWER}",
        "Command A": f"<|END_THINKING|><|START_RESPONSE|>{ANSWER}<|END_RESPONSE|>",
    }
    expected = WRITTEN[name] if completion == CHAIN else direct.get(name, ANSWER)
    end = {"gpt-oss": "<|return|>", "Command A": ""}.get(name, END)
    assert text == expected + end
    opened = families.opened_mark(prompt)
    read = with_our_marks(f"{opened}\n{text.removesuffix(end)}" if opened else text.removesuffix(end))
    assert split_reasoning(read) == (THOUGHT if completion == CHAIN else "", ANSWER)


@pytest.mark.parametrize("name", TEMPLATES)
def test_other_families_learn_the_completion_as_it_is(name: str, tmp_path: Path) -> None:
    folder = model_with(TEMPLATES[name], tmp_path)
    assert families.special_tokens(folder) == frozenset()
    assert families.thinking_switch(folder) is None
    assert families.family_of(folder) is None
    assert families.before_answer(folder) == ""
    opened = families.opened_mark(render_prompt(QUESTION, folder))
    pieces = families.turn_of(CHAIN, opened, folder)
    assert pieces == [(CHAIN.removeprefix("<think>\n") if name == "R1-Distill" else CHAIN, False)]


def test_think_marks_may_be_special_too(tmp_path: Path) -> None:
    folder = model_with(TEMPLATES["Qwen2.5"], tmp_path)
    with_tokens(tmp_path, ["<think>", "</think>"])
    params, row = answered(f"{CHAIN}<|endoftext|>", folder, END)
    assert params["skip_special_tokens"] is False
    assert split_reasoning(row["generated_text"]) == (THOUGHT, ANSWER)  # without the other special token
    _, labels = encode_example("?", CHAIN, folder)
    assert [label for label in labels if label >= 0] == token_ids(CHAIN + END, folder)


def test_marks_of_a_chat_are_no_marks_of_thinking(tmp_path: Path) -> None:
    """Phi ends its turns with <|end|>, which is a token of gpt-oss too."""
    turn = "<|assistant|>' + m.content + '<|end|>"
    folder = model_with(family(turn, user="<|user|>' + m.content + '<|end|>", begin="<|assistant|>"), tmp_path)
    with_tokens(tmp_path, ["<|user|>", "<|assistant|>", "<|end|>"])
    params, row = answered(CHAIN, folder, "<|end|>")
    assert "skip_special_tokens" not in params
    assert (row["finish_reason"], split_reasoning(row["generated_text"])) == ("stop", (THOUGHT, ANSWER))


def test_a_part_of_a_mark_is_no_family(tmp_path: Path) -> None:
    """A token that marks of several families share, as Kimi's and gpt-oss', beside the thinking of Qwen."""
    folder = model_with(TEMPLATES["Qwen2.5"], tmp_path)
    with_tokens(tmp_path, ["<|sep|>", "<|message|>"])
    assert families.family_of(folder) is None
    assert families.special_tokens(folder) == frozenset()


def test_a_template_without_the_head_of_the_turn_is_no_family(tmp_path: Path) -> None:
    """It looks at no add_generation_prompt: the head is not learnt, which engines would leave in the texts as a word."""
    template = TEMPLATES["Qwen2.5"].partition("{% if add_generation_prompt %}")[0]
    folder = model_with(template, tmp_path)
    _, labels = encode_example("What is 2 + 3?", ANSWER, folder)
    assert [label for label in labels if label >= 0] == token_ids(ANSWER + END, folder)


def test_examples_in_the_marks_of_a_family_are_packed_anew(model: tuple[str, str], tmp_path: Path) -> None:
    """Those of an earlier version had its marks as text; those of other models stay."""

    def values(student: str) -> dict[str, Any]:
        config = load(None, [f"run.storage_path={tmp_path}", f"training.student={student}"])
        run = Run(config, resolve_models(config))
        assert config.training is not None
        return packed.settings_of(run, run.models["training.student"], config.training).values

    assert values(model[1])["marks"]
    assert "marks" not in values("tiny:student-base")


def test_a_file_of_a_tokenizer_that_is_no_json_is_told(tmp_path: Path) -> None:
    folder = model_with(TEMPLATES["Qwen2.5"], tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("{")
    for engine in (None, EngineConfig(model_source=folder)):
        (finding,) = model_checks.findings(CheckedModel("teachers.slow", folder, engine=engine))
        assert "tokenizer_config.json' is no JSON file of a model" in finding.text
    with pytest.raises(UserError, match="copy it again"):
        families.special_tokens(folder)


def test_an_engine_does_not_stop_behind_the_thought_of_gpt_oss(tmp_path: Path) -> None:
    """Where a copy of its template ends the answer with <|end|>, as the thought."""
    template, tokens = SPECIAL["gpt-oss"]
    folder = model_with(template.replace("<|return|>", "<|end|>"), tmp_path)
    with_tokens(tmp_path, tokens)
    (tmp_path / "generation_config.json").write_text(f'{{"eos_token_id": {token_ids("<|return|>", folder)}}}')
    params, row = answered(WRITTEN["gpt-oss"], folder, "<|return|>")
    (end,) = token_ids("<|end|>", folder)
    assert end not in params["stop_token_ids"]
    assert end not in generation_ends(folder)
    assert row["finish_reason"] == "stop"


def test_an_empty_block_of_thinking_before_an_answer_is_not_learnt(tmp_path: Path) -> None:
    for name, block in (("a", "<think>\\n\\n</think>\\n\\n"), ("b", "<|channel>thought\\n<channel|>")):
        (tmp_path / name).mkdir()
        folder = model_with(family(OPEN + block + "' + m.content + '" + END), tmp_path / name)
        with_tokens(tmp_path / name, ["<|channel>", "<channel|>"] if name == "b" else [])
        assert families.before_answer(folder) == ""


OWN = "You are a model that shows its steps."
SYSTEM = "<|im_start|>system\\n"


@pytest.mark.parametrize(
    ("first", "kept", "replaced"),
    [
        (f"{{{{ '{SYSTEM}{OWN}' }}}}{{% if messages[0].role == 'system' %}}{{{{ ' ' + messages[0].content }}}}{{% endif %}}", True, False),
        (f"{{{{ '{SYSTEM}{OWN}{END}' }}}}{{% if messages[0].role == 'system' %}}{{{{ messages[0].content }}}}{{% endif %}}", True, False),
        (f"{{{{ '{SYSTEM}' + (messages[0].content if messages[0].role == 'system' else '{OWN}') + '{END}' }}}}", False, True),
        (f"{{% if messages[0].role == 'system' %}}{{{{ '{SYSTEM}' + messages[0].content + '{END}' }}}}{{% endif %}}", False, False),
        (f"{{{{ '{SYSTEM}{OWN}{END}' }}}}", True, False),
        (f"{{{{ '{SYSTEM}Cutting Knowledge Date: December 2023' }}}}{{{{ messages[0].content if messages[0].role == 'system' else '' }}}}", False, False),
    ],
)  # fmt: skip
def test_a_system_prompt_that_stays_is_told_from_one_that_is_replaced(
    first: str, kept: bool, replaced: bool, tmp_path: Path
) -> None:
    folder = model_with(family(OPEN + "' + m.content + '" + END, first=first), tmp_path)
    assert (OWN in kept_system_prompt(folder), OWN in replaced_system_prompt(folder)) == (kept or False, replaced)
    remarks = [f.text for f in model_checks.template(CheckedModel("training.student", folder))]
    assert any("is added to it, and does not take it away" in text for text in remarks) == kept
    assert any("system_prompt decides" in text for text in remarks) == replaced


def test_a_slow_teacher_without_marks_is_told(tmp_path: Path) -> None:
    def told(folder: str, system_prompt: str | None = None) -> list[str]:
        engine = EngineConfig(model_source=folder)
        checked = CheckedModel("teachers.slow", folder, system_prompt=system_prompt, engine=engine)
        return [finding.text for finding in model_checks.thinking(checked)]

    for name in SPECIAL:
        (tmp_path / name).mkdir()
        assert told(special_model(name, tmp_path / name)) == []
    plain = tmp_path / "plain"
    plain.mkdir()
    model_with(TEMPLATES["Qwen2.5"], plain)
    assert told(str(plain)) == []  # its tokenizer has </think>
    tokenizer = (plain / "tokenizer.json").read_text().replace("</think>", "<other>").replace("<think>", "<another>")
    (tmp_path / "none").mkdir()
    model_with(TEMPLATES["Qwen2.5"], tmp_path / "none")
    (tmp_path / "none" / "tokenizer.json").write_text(tokenizer)
    assert told(str(tmp_path / "none"))[0].startswith("none has no mark of thinking among its tokens")
    assert told(str(tmp_path / "none"), "Think within <think> and </think>.") == []


def test_a_prompt_that_opens_the_thinking_in_words_is_closed_in_words(tmp_path: Path) -> None:
    """Apriel's, of more than twenty tokens of a small tokenizer."""
    begin = "Here are my reasoning steps:\\n"
    answer = "[BEGIN FINAL RESPONSE]\\n' + m.content + '\\n[END FINAL RESPONSE]\\n" + END
    folder = model_with(family(OPEN + answer, begin=OPEN + begin), tmp_path)
    for completion, thought in ((ANSWER, ""), (CHAIN, f"{THOUGHT}\n")):
        _, text = learnt(*encode_example("What is 2 + 3?", completion, folder), folder)
        assert text == f"{thought}[BEGIN FINAL RESPONSE]\n{ANSWER}\n[END FINAL RESPONSE]\n{END}"
    _, row = answered(f"{THOUGHT}\n[BEGIN FINAL RESPONSE]\n{ANSWER}\n[END FINAL RESPONSE]", folder, END)
    assert split_reasoning(row["generated_text"]) == (THOUGHT, ANSWER)


SWITCHED = {  # what the prompt ends with, thinking or not
    "Qwen3": "{% if enable_thinking is defined and enable_thinking is false %}{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}",
    "DeepSeek-V3.1": "{{ '<think>' if thinking else '</think>' }}",
}


@pytest.mark.parametrize(
    ("name", "variable", "thinks"), [("Qwen3", "enable_thinking", True), ("DeepSeek-V3.1", "thinking", False)]
)
def test_a_teacher_that_thinks_where_it_should_not_is_told(
    name: str, variable: str, thinks: bool, tmp_path: Path
) -> None:
    folder = model_with(family(OPEN + "' + m.content + '" + END, opened=SWITCHED[name]), tmp_path)

    def told(section: str, **variables: bool) -> list[str]:
        engine = EngineConfig(model_source=folder, chat_template_kwargs=variables)
        checked = CheckedModel(section, folder, ChatSettings.of(variables), None, f"{section}.engine", engine)
        return [finding.text for finding in model_checks.thinking(checked)]

    assert families.thinking_switch(folder) == (variable, thinks)
    wrong, right = ("teachers.direct", "teachers.slow") if thinks else ("teachers.slow", "teachers.direct")
    (text,) = told(wrong)
    assert text.endswith(f"set {wrong}.engine.chat_template_kwargs={{{variable}: {str(not thinks).lower()}}}")
    assert told(wrong, **{variable: not thinks}) == told(right) == told("evaluation") == []
