"""The token that ends a turn is found in chat templates of several families, with the tiny tokenizer's own end token."""

import shutil
from pathlib import Path

import pytest

from ray_distil.models import resolve_model
from ray_distil.tokenization import end_of_turn, load_tokenizer

TINY = resolve_model("tiny:student-base", "k")
END = "<|im_end|>"
# What stands behind the assistant's text, in the families' own templates.
TURNS = {
    "Qwen": "<|im_start|>assistant\\n' + m.content + '" + END + "\\n",
    "Llama-2": " ' + m.content + ' " + END,
    "DeepSeek-Coder": "### Response:\\n' + m.content + '\\n" + END + "\\n",
}
NOT_STRIPPED = pytest.mark.xfail(
    strict=True, raises=AssertionError, reason="the blank in front of the end token is taken for it"
)


def model_with(turn: str, folder: Path) -> str:
    template = "{% for m in messages %}{% if m.role == 'user' %}{{ 'Q: ' + m.content + '\\n' }}{% else %}"
    template += "{{ '" + turn + "' }}{% endif %}{% endfor %}"
    for file in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(Path(TINY) / file, folder)
    (folder / "chat_template.jinja").write_text(template)
    return str(folder)


@pytest.mark.parametrize(
    "family",
    ["Qwen", pytest.param("Llama-2", marks=NOT_STRIPPED), pytest.param("DeepSeek-Coder", marks=NOT_STRIPPED)],
)
def test_the_end_of_a_turn_is_the_token_that_ends_it(family: str, tmp_path: Path) -> None:
    model = model_with(TURNS[family], tmp_path)
    assert load_tokenizer(model).decode([end_of_turn(model)]) == END
