"""What is trained is what is exported, served and asked: the prompt of a bare question, token for token."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from ray_distil.chat.chat_templates import ChatSettings, encode_prompt, load_tokenizer
from ray_distil.chat.export_template import (
    PROBES,
    difference,
    export_template,
    exported_tokenizer,
    served_prompt,
    trained_prompt,
)
from ray_distil.errors import UserError
from tests.chat_families import END, START, TEMPLATES, TINY, model_with

PROMPTS = [None, "", "Be \"brief\" \\ and\n'clear' 😀 {% if %}."]
VARIABLES: list[dict[str, Any]] = [
    {},
    {"enable_thinking": False},
    {"enable_thinking": True, "words": ["a'b", {"c": None}], "number": 1.5},
]
THINKS = (
    "{% if enable_thinking is defined and not enable_thinking %}{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}"
    "{% if words is defined %}{{ words[0] ~ words[1].c ~ number }}{% endif %}"
)
EASY_DISTILL = f"{START}user\n{{{{ message.content }}}}{END}\n{START}assistant\n{{% if add_output %}}{{{{ message.output }}}}{END}{{% endif %}}"  # fmt: skip


def exported(model: str, folder: Path, *settings: Any) -> str:
    """The tokenizer of an export, in a folder."""
    exported_tokenizer(model, export_template(model, *settings)).save_pretrained(folder)
    if (Path(model) / "config.json").is_file():
        shutil.copy(Path(model) / "config.json", folder)
    return str(folder)


def check(model: str, folder: Path, *settings: Any) -> None:
    student = exported(model, folder, *settings)
    for question in PROBES:
        trained = trained_prompt(question, model, *(settings if len(settings) == 3 else (*settings, None)))
        assert served_prompt(question, AutoTokenizer.from_pretrained(student)) == trained
        assert encode_prompt([{"role": "user", "content": question}], student) == trained, "as our own jobs ask"
        if settings[1] is not None:  # as the run's own evaluation asks
            turns = [{"role": "system", "content": settings[1]}, {"role": "user", "content": question}]
            assert encode_prompt(turns, student) == trained


@pytest.mark.parametrize("variables", range(len(VARIABLES)))
@pytest.mark.parametrize("system_prompt", PROMPTS)
@pytest.mark.parametrize("family", TEMPLATES)
def test_an_export_is_asked_as_it_was_trained(
    family: str, system_prompt: str | None, variables: int, tmp_path: Path
) -> None:
    (tmp_path / "base").mkdir()
    base = model_with(TEMPLATES[family] + THINKS, tmp_path / "base")
    settings = ChatSettings.of(VARIABLES[variables], "2026-01-31")
    check(base, tmp_path / "student", settings, system_prompt)
    assert difference(base, settings, system_prompt) == ""


def test_without_settings_the_template_is_the_base_models_own() -> None:
    assert export_template(TINY, ChatSettings(), None) == load_tokenizer(TINY).chat_template
    assert export_template(TINY, ChatSettings.of({}, "2026-01-31"), None) == load_tokenizer(TINY).chat_template


def test_a_system_prompt_of_a_request_takes_the_place_of_trainings(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    base = model_with(TEMPLATES["Gemma"], tmp_path / "base")
    student = exported(base, tmp_path / "student", ChatSettings(), "Be brief.")
    user = {"role": "user", "content": "2 + 3?"}
    for own in ("Be long.", ""):
        turns = [{"role": "system", "content": own}, user]
        assert encode_prompt(turns, student) == encode_prompt(turns, base)


def test_a_packing_template_writes_the_system_prompt_itself() -> None:
    assert "set training.system_prompt=null" in difference(TINY, ChatSettings(), "Be brief.", EASY_DISTILL)


def test_a_request_can_set_what_it_wants_otherwise(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    base = model_with(TEMPLATES["Qwen2.5"] + THINKS, tmp_path / "base")
    student = exported(base, tmp_path / "student", ChatSettings.of({"enable_thinking": False}), "Be brief.")
    tokenizer = AutoTokenizer.from_pretrained(student)
    turns = [{"role": "system", "content": "Be long."}, {"role": "user", "content": "2 + 3?"}]
    asked = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False, enable_thinking=True)
    assert "Be long." in asked
    assert "Be brief." not in asked
    assert not asked.endswith("</think>\n\n")


def test_white_space_with_which_a_template_begins_stays(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    base = model_with("\n  " + TEMPLATES["Llama-3"] + THINKS, tmp_path / "base")
    check(base, tmp_path / "student", ChatSettings.of({"enable_thinking": False}), "Be brief.")


@pytest.mark.parametrize(
    "template",
    [
        EASY_DISTILL,
        "Q: {{message.content}}\nA: {{message.output}}" + END,
        "{% if true %}\n\n  {% endif %}\n" + EASY_DISTILL,
    ],
)
def test_a_packing_template_is_the_exports(template: str, tmp_path: Path) -> None:
    check(TINY, tmp_path, ChatSettings(), None, template)
    tokenizer = AutoTokenizer.from_pretrained(str(tmp_path))
    with pytest.raises(Exception, match="one question a conversation"):
        tokenizer.apply_chat_template([{"role": "user", "content": "a"}] * 2, tokenize=False)


def test_a_template_that_cannot_ask_as_it_trains_is_told() -> None:
    with pytest.raises(UserError, match="it changes the question's text; write {{ message.content }} as it is"):
        difference(TINY, ChatSettings(), None, "{{ message.content | upper }} A: {{ message.output }}")


TRUE = ("qwen2_5", "qwen3", "deepseek_v3", "deepseek_r1_distill", "llama3", "llama3_1", "llama3_2", "gemma3")


@pytest.mark.parametrize("system_prompt", PROMPTS)
@pytest.mark.parametrize("name", TRUE)
def test_true_tokenizers(name: str, system_prompt: str | None, tmp_path: Path) -> None:
    path = Path(os.environ.get("RAY_DISTIL_TOKENIZERS", "")) / name
    if not (path / "tokenizer.json").is_file():
        pytest.skip("RAY_DISTIL_TOKENIZERS names no folder that has it")
    for number, variables in enumerate(VARIABLES[:2] + [{"enable_thinking": True}]):
        check(str(path), tmp_path / str(number), ChatSettings.of(variables, "2026-01-31"), system_prompt)


def test_a_template_that_refuses_a_question_is_told() -> None:
    with pytest.raises(UserError, match="refuses a question: no"):
        served_prompt("2 + 3?", exported_tokenizer(TINY, "{{ raise_exception('no') }}"))


def test_a_tokenizer_that_is_another_one_when_it_is_read_again_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """As Transformers takes another class for it than the base model's."""
    save = type(load_tokenizer(TINY)).save_pretrained

    def save_with_another_mark(tokenizer: Any, folder: str) -> None:
        save(tokenizer, folder)
        file = Path(folder) / "tokenizer.json"
        file.write_text(file.read_text().replace(START, "<other>"))

    monkeypatch.setattr(type(load_tokenizer(TINY)), "save_pretrained", save_with_another_mark)
    assert "instead of" in difference(TINY, ChatSettings(), None)
