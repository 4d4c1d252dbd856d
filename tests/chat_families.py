"""Chat templates of many families, as patterns around the tiny tokenizer's marks.

python -m tests.chat_families [FOLDER]     the form of each, and of the true tokenizers in FOLDER (README of tests)
"""

import json
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

from ray_distil.chat.chat_templates import PLAIN, encode_prompt, load_tokenizer
from ray_distil.chat.export_template import export_template, exported_tokenizer, served_prompt
from ray_distil.chat.families import family_of, opened_mark, special_tokens
from ray_distil.chat.reasoning_marks import THINK_BEGIN, THINK_END, split_reasoning, with_our_marks
from ray_distil.chat.tokenization import IGNORE_INDEX, encode_example, generation_ends
from ray_distil.config.models import resolve_model
from ray_distil.errors import UserError

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
QUESTION, DIRECT = "What is 2 + 3?", "It is 5."
CHAIN = "<think>\nTwo and three.\n</think>\n\nIt is 5."
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


def of_packages(folder: Path) -> dict[str, str]:
    """Name -> folder of the true tokenizers below FOLDER; gpt-oss' package has no template and gets one of SPECIAL."""
    models = {}
    for file in sorted(folder.glob("*/tokenizer_config.json")):
        template = file.parent / "chat_template.jinja"
        if file.parent.name == "gptoss" and not template.is_file():
            template.write_text(SPECIAL["gpt-oss"][0])
        if "chat_template" in file.read_text() or template.is_file():
            models[f"{file.parent.name} (true)"] = str(file.parent)
    return models


def show(name: str, model: str) -> None:
    """The form of a family: prompt, learnt texts, marks, stops; whether training, engine and export ask the same."""
    start = time.perf_counter()
    tokenizer, family = load_tokenizer(model), family_of(model)
    marks = (family.begin, family.end) if family is not None else (THINK_BEGIN, THINK_END)
    kept = "kept by engines" if special_tokens(model) else "plain"
    stops = [tokenizer.decode([stop]) for stop in sorted(generation_ends(model))]
    print(f"{name}\n  marks   {' ... '.join(marks)} ({kept}), stops at {' '.join(stops)}")

    asked = encode_prompt([{"role": "user", "content": QUESTION}], model)
    served = served_prompt(QUESTION, exported_tokenizer(model, export_template(model, PLAIN, None)))
    same = asked == served
    for completion in (DIRECT, CHAIN):
        ids, labels = encode_example(QUESTION, completion, model)
        prompt, text = learnt(ids, labels, model)
        same = same and ids[: len(asked)] == asked
        if completion is DIRECT:
            print(f"  prompt  {prompt!r}")
        read = with_our_marks(opened_mark(prompt) + text)
        for token in sorted(tokenizer.all_special_tokens, key=len, reverse=True):
            read = read.replace(token, "") if token not in marks else read
        split = split_reasoning(read)[0] == ("Two and three." if completion is CHAIN else "")
        print(f"  learnt  {text!r}{'' if split else '   NOT SPLIT AGAIN'}")
    seconds = time.perf_counter() - start
    print(f"  trained, asked and served are {'one prompt' if same else 'DIFFERENT PROMPTS'}; {seconds:.1f} s")


def main(folder: Path | None) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        models = {}
        for name, template in TEMPLATES.items():
            (Path(scratch) / name).mkdir()
            models[name] = model_with(template, Path(scratch) / name)
        for name in SPECIAL:
            (Path(scratch) / name).mkdir()
            models[name] = special_model(name, Path(scratch) / name)
        for name, model in (models | (of_packages(folder) if folder is not None else {})).items():
            try:
                show(name, model)
            except UserError as error:
                print(f"{name}\n  refused: {error}")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
