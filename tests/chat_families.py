"""Chat templates of many families, as patterns around the tiny tokenizer's marks.

python -m tests.chat_families [FOLDER]     prompt, learnt text and stop ids of each, and of the tokenizers in FOLDER
"""

import json
import shutil
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from ray_distil.chat.tokenization import IGNORE_INDEX, encode_example, end_of_turn, load_tokenizer, stop_token_ids
from ray_distil.config.models import resolve_model

TINY = resolve_model("tiny:student-base", "k")
END, START = "<|im_end|>", "<|im_start|>"
USER = START + "user\\n' + m.content + '" + END + "\\n"
OPEN = START + "assistant\\n"
REFUSES = "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
SYSTEM = (
    "{% if messages[0].role == 'system' %}{{ '" + START + "system\\n' + messages[0].content + '" + END + "\\n' }}"
    "{% else %}{{ '" + START + "system\\nYou are a model.'"
    " + '" + END + "\\n' }}{% endif %}"
)
DATED = "{{ 'Today: ' + strftime_now('%d %b %Y') + '\\n' }}"
THINK = "{{ '<think>\\n' }}"


def family(answer: str, first: str = "", opened: str = "", user: str = USER, begin: str = OPEN) -> str:
    """A template: what stands first, the user's turn, and the assistant's (` + m.content + ` in `answer`)."""
    turns = "{% for m in messages %}{% if m.role == 'user' %}{{ '" + user + "' }}"
    turns += "{% elif m.role == 'assistant' %}{{ '" + answer + "' }}{% endif %}{% endfor %}"
    return first + turns + "{% if add_generation_prompt %}{{ '" + begin + "' }}" + opened + "{% endif %}"


TEMPLATES = {
    "Qwen2.5": family(OPEN + "' + m.content + '" + END + "\\n", first=SYSTEM),
    "SmolLM2": family(OPEN + "' + m.content + '" + END + "\\n", first=SYSTEM),
    "Qwen3": family(OPEN + "<think>\\n\\n</think>\\n\\n' + m.content + '" + END + "\\n"),
    "Llama-2": family(" ' + m.content + ' " + END, user="[INST] ' + m.content + ' [/INST]", begin=""),
    "Llama-3": family(OPEN + "\\n' + m.content + '" + END),
    "Llama-3.1": family(OPEN + "\\n' + m.content + '" + END, first=DATED),
    "Gemma": family(OPEN + "' + m.content + '" + END + "\\n", first=REFUSES),
    "DeepSeek-Coder": family("### Response:\\n' + m.content + '\\n" + END + "\\n", begin="### Response:\\n"),
    "DeepSeek-V3": family("' + m.content + '" + END, begin=""),
    "R1-Distill": family("' + m.content + '" + END, begin="", opened=THINK),
}


def model_with(template: str, folder: Path) -> str:
    for file in ("config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"):
        shutil.copy(Path(TINY) / file, folder)
    (folder / "chat_template.jinja").write_text(template)
    return str(folder)


# Families whose marks of thinking are special tokens: template, and the tokens.
CHANNEL = "<|start|>assistant<|channel|>final<|message|>' + m.content + '<|return|>"
RESPONSE = "<|CHATBOT_TOKEN|><|START_RESPONSE|>' + m.content + '<|END_RESPONSE|><|END_OF_TURN_TOKEN|>"
SPECIAL = {
    "gpt-oss": (
        family(CHANNEL, user="<|start|>user<|message|>' + m.content + '<|end|>", begin="<|start|>assistant"),
        ["<|start|>", "<|message|>", "<|channel|>", "<|end|>", "<|return|>"],
    ),
    "Command A": (
        family(
            RESPONSE,
            user="<|USER_TOKEN|>' + m.content + '<|END_OF_TURN_TOKEN|>",
            begin="<|CHATBOT_TOKEN|><|START_THINKING|>",
        ),
        ["<|USER_TOKEN|>", "<|CHATBOT_TOKEN|>", "<|START_THINKING|>", "<|END_THINKING|>", "<|START_RESPONSE|>",
         "<|END_RESPONSE|>", "<|END_OF_TURN_TOKEN|>"],
    ),
    "Magistral": (
        family("' + m.content + '" + END, user="[INST]' + m.content + '[/INST]", begin=""),
        ["[THINK]", "[/THINK]", "[INST]", "[/INST]"],
    ),
    "Gemma 4": (
        family(OPEN + "' + m.content + '" + END + "\\n"),
        ["<|channel>", "<channel|>"],
    ),
}  # fmt: skip


def with_tokens(folder: Path, special: Iterable[str], plain: Iterable[str] = ()) -> None:
    """Add tokens to the tokenizer of a folder; `special`: those that engines leave out of texts."""
    file = folder / "tokenizer.json"
    tokenizer = json.loads(file.read_text())
    added = {token["content"]: token for token in tokenizer["added_tokens"]}
    number = 1 + max(token["id"] for token in added.values())
    for mark in [*special, *plain]:
        if mark in added:
            added[mark]["special"] = mark in special
            continue
        options = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
        tokenizer["added_tokens"].append({"id": number, "content": mark, "special": mark in special, **options})
        number += 1
    file.write_text(json.dumps(tokenizer))


def special_model(name: str, folder: Path) -> str:
    """The tiny student in the form of a family of SPECIAL."""
    template, tokens = SPECIAL[name]
    model_with(template, folder)
    with_tokens(folder, tokens)
    return str(folder)


def learnt(ids: list[int], labels: list[int], model: str) -> tuple[str, str]:
    """`(prompt, learnt)` of an example as texts."""
    known = [label for label in labels if label != IGNORE_INDEX]
    assert ids[-len(known) :] == known
    decode = load_tokenizer(model).decode
    return decode(ids[: -len(known)]), decode(known)


def main(folder: Path | None) -> None:
    made = {}
    with tempfile.TemporaryDirectory() as scratch:
        for name, template in TEMPLATES.items():
            (Path(scratch) / name).mkdir()
            made[name] = model_with(template, Path(scratch) / name)
        found = sorted(folder.glob("*/tokenizer_config.json")) if folder else []
        made |= {f"{f.parent.name} (true)": str(f.parent) for f in found if "chat_template" in f.read_text()}
        for name, model in made.items():
            ids, labels = encode_example("What is 2 + 3?", "2 + 3 = 5.", model)
            prompt, text = learnt(ids, labels, model)
            stops = sorted(stop_token_ids(model) | {end_of_turn(model)})
            print(f"{name}\n  prompt  {prompt!r}\n  learnt  {text!r}\n  end {end_of_turn(model)}, stops at {stops}")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
