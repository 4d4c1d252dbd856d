"""Tokenizers and chat templates: one way to encode a conversation, for engines and for training.

<|im_start|>user ... <|im_start|>assistant\\n  Step 1 ... \\boxed{8}.  <|im_end|>
`------------- prompt, labels -100 -------'    `-- completion, learnt --------'
"""

from functools import lru_cache
from typing import Any

from ray_distil import UserError
from ray_distil.models import local_copy
from ray_distil.prompts import Messages, instruction_messages
from ray_distil.reasoning import THINK_BEGIN

IGNORE_INDEX = -100


@lru_cache(maxsize=4)
def load_tokenizer(model: str) -> Any:
    """The model's AutoTokenizer, once a process. Raises UserError where it has no chat template."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(local_copy(model))
    if not tokenizer.chat_template:
        raise UserError(f"{model!r} has no chat template; give a model with one, such as its -Instruct version")
    return tokenizer


def encode_prompt(messages: Messages, model: str) -> list[int]:
    """Token ids of a conversation up to where the assistant's turn begins."""
    tokenizer = load_tokenizer(model)
    text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def begins_thinking(prompt_ids: list[int], model: str) -> bool:
    """Whether the prompt ends with the mark that begins a think block, as the templates of R1 and its kin do."""
    return bool(prompt_ids) and load_tokenizer(model).decode(prompt_ids[-8:]).rstrip().endswith(THINK_BEGIN)


def token_ids(text: str, model: str) -> list[int]:
    """Token ids of a text by itself."""
    return list(load_tokenizer(model)(text, add_special_tokens=False)["input_ids"])


def encode_example(
    prompt: str, completion: str, model: str, template: str | None = None
) -> tuple[list[int], list[int]]:
    """`(input_ids, labels)` of a training example, of equal length.

    Completion and end of turn are encoded apart from the prompt, because that is how they are generated. A `template`
    stands for the chat template of the model; see `render`.
    """
    encode = load_tokenizer(model)
    if template is None:
        before, end = encode_prompt(instruction_messages(prompt), model), end_of_turn(model)
    else:
        text, behind = render(template, prompt)
        before, ids = (list(encode(t, add_special_tokens=False)["input_ids"]) for t in (text, behind.strip()))
        end = ids[0] if ids else end_of_turn(model)
    after = [*encode(completion, add_special_tokens=False)["input_ids"], end]
    return before + after, [IGNORE_INDEX] * len(before) + after


def render(template: str, prompt: str) -> tuple[str, str]:
    """What a Jinja template of EasyDistill's kind writes before and behind the output.

    It is given `message` (content, output), add_generation_prompt false and add_output true. Raises UserError where
    it does not render, or leaves the output out.
    """
    import jinja2

    mark = "\x00output\x00"
    try:
        made = jinja2.Environment(undefined=jinja2.StrictUndefined).from_string(template)
        text = made.render(message={"content": prompt, "output": mark}, add_generation_prompt=False, add_output=True)
    except jinja2.TemplateError as error:
        raise UserError(f"packing.template: {type(error).__name__}: {error}") from error
    before, found, behind = text.partition(mark)
    if not found:
        raise UserError("packing.template: it does not write message.output where add_output is true")
    return before, behind


@lru_cache(maxsize=4)
def end_of_turn(model: str) -> int:
    """The token that ends the assistant's turn in the model's own chat template, else its eos token.

    Found by a probe: a base model may well have a template that ends turns with another token than its eos_token.
    """
    tokenizer = load_tokenizer(model)
    turns = [{"role": "user", "content": "question"}, {"role": "assistant", "content": "probe"}]
    behind = tokenizer.apply_chat_template(turns, tokenize=False).rpartition("probe")[2]
    ids = tokenizer(behind, add_special_tokens=False)["input_ids"] if behind.strip() else []
    token = ids[0] if ids else tokenizer.eos_token_id
    if token is None:
        raise UserError(
            f"{model!r}: the chat template does not end the assistant's turn; set the tokenizer's eos_token"
        )
    return int(token)


@lru_cache(maxsize=4)
def stop_token_ids(model: str) -> frozenset[int]:
    """The ids at which generation stops: the tokenizer's eos and those of the generation config, as vLLM takes them."""
    from transformers import GenerationConfig

    ids = {load_tokenizer(model).eos_token_id}
    try:
        configured = GenerationConfig.from_pretrained(local_copy(model)).eos_token_id
    except OSError:  # a model may come without generation_config.json
        configured = None
    ids |= set(configured) if isinstance(configured, list) else {configured}
    return frozenset(i for i in ids if i is not None)


def padding_token(model: str) -> int:
    """The padding token, else the eos token: it is never learnt nor attended to."""
    tokenizer = load_tokenizer(model)
    return int(tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id)
