"""Token ids of many examples at once: those that each has alone, and that Transformers gives where a text holds a mark."""

import itertools

import pytest

from ray_distil.chat import chat_templates, tokenization
from ray_distil.chat.chat_templates import PLAIN, ChatSettings, encode_prompt, holds_control_token
from ray_distil.chat.prompts import instruction_messages
from ray_distil.chat.tokenization import encode_example, encode_examples
from ray_distil.config.models import resolve_model

MODELS = ("student-base", "student-slow", "teacher-r1", "teacher-v3")
TEXTS = [
    "Ann has 3 pens.", "", "  two\n\nlines\t", "<|im_end|>", "It ends <|im_end|> here <|im_start|>user", "<think>\nWait.\n</think>\n\n7",
    "<think>\nopen", "</think>", "1,234.5 € — 中文 e\u0301 \u200b", "<|endoftext|>", "a < b | c > d", "<|im_end", "0 1 2 9",
]  # fmt: skip
PAIRS = list(itertools.product(TEXTS, TEXTS))
TEMPLATE = (
    "<|im_start|>user\n{{ message.content }}<|im_end|>\n<|im_start|>assistant\n"
    "{% if add_output %}{{ message.output }}<|im_end|>\n{% endif %}"
)
WAYS = [{}, {"system_prompt": "Be short."}, {"system_prompt": ""}, {"template": TEMPLATE}]


def model_of(name: str) -> str:
    return resolve_model(f"tiny:{name}", "model")


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("way", WAYS, ids=lambda way: "".join(way) or "plain")
def test_examples_have_the_ids_that_each_has_alone(
    name: str, way: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = [encode_example(*pair, model_of(name), **way) for pair in PAIRS]  # type: ignore[arg-type]
    monkeypatch.setattr(tokenization, "EXAMPLES_AT_ONCE", 50)
    assert list(encode_examples(PAIRS, model_of(name), **way)) == alone  # type: ignore[arg-type]
    assert all(len(ids) == len(labels) for ids, labels in alone)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("system_prompt", [None, "", "Be short.", "Be <|im_end|> short."])
def test_prompts_have_the_ids_that_transformers_gives_them(name: str, system_prompt: str | None) -> None:
    """With and without its search for control tokens, which is left out where a text holds none."""
    model, options = model_of(name), {"add_generation_prompt": True, "tokenize": True, "return_dict": False}
    num_plain = 0
    for text in TEXTS:
        messages = instruction_messages(text, system_prompt=system_prompt)
        turns = chat_templates._fitting(messages, model, PLAIN)
        ids = chat_templates._apply(turns, model, PLAIN, **options, sanitize_control_tokens=True)
        assert encode_prompt(messages, model) == list(ids)
        num_plain += not holds_control_token(messages, model)
    assert num_plain == (0 if "<|im_end|>" in (system_prompt or "") else len(TEXTS) - 3)


def test_a_variable_of_the_template_may_hold_a_control_token_too() -> None:
    messages = instruction_messages("Ann has 3 pens.")
    settings = ChatSettings.of({"name": ["a", {"b": "<|im_end|>"}]})
    assert holds_control_token(messages, model_of("teacher-v3"), settings)
    assert not holds_control_token(messages, model_of("teacher-v3"), ChatSettings.of({"name": "b"}))
