"""Token ids: engines and training encode a conversation in the same way.

<|im_start|>user ... <|im_start|>assistant\\n  Step 1 ... \\boxed{8}.  <|im_end|>
`------------- prompt, labels -100 -------'    `-- completion, learnt --------'

Only the template writes marks. A mark inside a text is encoded as text: "<|im_end|> ends a turn" does not end a turn.
"""

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache

from ray_distil.chat.chat_templates import (
    PLAIN,
    ChatSettings,
    around_answer,
    encode_prompt,
    holds_control_token,
    load_tokenizer,
    render_prompt,
)
from ray_distil.chat.families import behind_opened_block, family_of, opened_mark, turn_of
from ray_distil.chat.prompts import instruction_messages
from ray_distil.chat.reasoning_marks import HARMONY, THINK_BEGIN, THINK_END
from ray_distil.errors import UserError
from ray_distil.store.hub import local_copy

IGNORE_INDEX = -100
EXAMPLES_AT_ONCE = 1_000
LONGEST_MARK = 64  # tokens of a mark by which a prompt opens the thinking


def token_ids(text: str, model: str) -> list[int]:
    """Token ids of a text alone. Marks in it become the tokens of marks."""
    return list(load_tokenizer(model)(text, add_special_tokens=False)["input_ids"])


def text_ids(text: str, model: str) -> list[int]:
    """Token ids of a message's text. Chat marks in it are encoded as text; <think> and </think> stay marks."""
    marks = chat_marks(model)
    if not any(mark in text for mark in marks):
        return token_ids(text, model)
    encode = load_tokenizer(model)
    # Each mark is cut in two and the halves are encoded apart, so that the tokenizer cannot make it one token.
    pieces, start = [], 0
    for match in re.finditer("|".join(re.escape(mark) for mark in sorted(marks, key=len, reverse=True)), text):
        middle = match.start() + max(1, len(match[0]) // 2)
        pieces.append(text[start:middle])
        start = middle
    return [i for piece in [*pieces, text[start:]] for i in encode(piece, add_special_tokens=False)["input_ids"]]


@lru_cache(maxsize=8)
def chat_marks(model: str) -> frozenset[str]:
    """The tokens with a meaning in the model's chats: special tokens, and added tokens that its template writes."""
    tokenizer = load_tokenizer(model)
    template = str(tokenizer.chat_template)
    added = {str(token): token.special for token in tokenizer.added_tokens_decoder.values()}
    marks = {text for text, special in added.items() if (special or text in template) and len(text) > 1}
    return frozenset(marks - {THINK_BEGIN, THINK_END} - {text for text in marks if text.isspace()})


def opens_thinking(prompt_ids: list[int], model: str) -> str:
    """The mark by which a prompt opens the thinking, as the templates of R1 and its kin do; "" where it opens none."""
    return opened_mark(load_tokenizer(model).decode(prompt_ids[-LONGEST_MARK:])) if prompt_ids else ""


def encode_example(
    prompt: str,
    completion: str,
    model: str,
    template: str | None = None,
    system_prompt: str | None = None,
    settings: ChatSettings = PLAIN,
) -> tuple[list[int], list[int]]:
    """`(input_ids, labels)` of a training example, of equal length; see `encode_examples`."""
    return next(encode_examples([(prompt, completion)], model, template, system_prompt, settings))


def encode_examples(
    pairs: Sequence[tuple[str, str]],
    model: str,
    template: str | None = None,
    system_prompt: str | None = None,
    settings: ChatSettings = PLAIN,
) -> Iterator[tuple[list[int], list[int]]]:
    """`(input_ids, labels)`, of equal length, of training examples given as pairs of prompt and completion.

    Completion and end of turn are encoded apart from the prompt, because they are generated so. A `template` replaces
    the model's chat template; see `render`. Thoughts are in the model's own marks, and go on where the prompt opens them;
    see `families.turn_of`. The texts of EXAMPLES_AT_ONCE pairs are encoded in one call, which is faster.
    """
    for start in range(0, len(pairs), EXAMPLES_AT_ONCE):
        part = pairs[start : start + EXAMPLES_AT_ONCE]
        prompts = [_encoded_prompt(prompt, model, template, system_prompt, settings) for prompt, _ in part]
        opened = [opened_mark(text) if isinstance(text, str) else opens_thinking(text, model) for text, _ in prompts]
        completions = [
            _completion_pieces(completion, mark, model, template, settings)
            for (_, completion), mark in zip(part, opened, strict=True)
        ]
        encoded_prompts = _encoded_together([text for text, _ in prompts], model)
        encoded = iter(_encoded_together([text for pieces in completions for text in pieces], model))
        for prompt_ids, (_, end), pieces in zip(encoded_prompts, prompts, completions, strict=True):
            completion_ids = [*(token for _ in pieces for token in next(encoded)), *end]
            yield prompt_ids + completion_ids, [IGNORE_INDEX] * len(prompt_ids) + completion_ids


def _encoded_prompt(
    prompt: str, model: str, template: str | None, system_prompt: str | None, settings: ChatSettings
) -> tuple[str | list[int], tuple[int, ...]]:
    """The text of a prompt, or its ids where it holds a mark that is to stay text; and the ids that end the answer."""
    if template is not None:
        text, tail = render(template, prompt)
        return text, _end_ids(tail, model)
    messages, end = instruction_messages(prompt, system_prompt=system_prompt), turn_end(model, settings)
    if holds_control_token(messages, model, settings):
        return encode_prompt(messages, model, settings), end
    return render_prompt(messages, model, settings), end


def _completion_pieces(
    completion: str, opened: str, model: str, template: str | None, settings: ChatSettings
) -> list[str | list[int]]:
    """A completion as the model's turn holds it: texts, or the ids of those that hold a mark that is to stay text.

    opened: the mark by which the prompt opens the thinking.
    """
    if template is None:
        pieces = turn_of(completion, opened, model, settings)
    else:
        pieces = [(behind_opened_block(completion) if opened == THINK_BEGIN else completion, False)]
    marks = chat_marks(model)
    return [
        text_ids(text, model) if not is_marks and any(mark in text for mark in marks) else text
        for text, is_marks in pieces
        if text
    ]


def _encoded_together(texts: list[str | list[int]], model: str) -> list[list[int]]:
    """`token_ids` of each text; what is encoded already stays. Without the places of characters, which cost as much again."""
    tokenizer = load_tokenizer(model)
    if not tokenizer.is_fast:
        return [token_ids(text, model) if isinstance(text, str) else text for text in texts]
    token_ids("", model)  # the call that turns truncation and padding off
    batch = [text for text in texts if isinstance(text, str)]
    encoded = iter(tokenizer.backend_tokenizer.encode_batch_fast(batch, add_special_tokens=False))
    return [next(encoded).ids if isinstance(text, str) else text for text in texts]


def render(template: str, prompt: str) -> tuple[str, str]:
    """`(before, behind)`: the text that a Jinja template of EasyDistill's kind writes before and behind the output.

    The template gets `message` (content, output), add_generation_prompt false and add_output true. Raises UserError
    where it does not render, or leaves the output out.
    """
    import jinja2

    mark = "\x00output\x00"
    try:
        compiled = jinja2.Environment(undefined=jinja2.StrictUndefined).from_string(template)
        text = compiled.render(
            message={"content": prompt, "output": mark}, add_generation_prompt=False, add_output=True
        )
    except jinja2.TemplateError as error:
        raise UserError(f"packing.template: {type(error).__name__}: {error}") from error
    head, mark_found, tail = text.partition(mark)
    if not mark_found:
        raise UserError("packing.template: it does not write message.output where add_output is true")
    return head, tail


@lru_cache(maxsize=8)
def turn_end(model: str, settings: ChatSettings = PLAIN) -> tuple[int, ...]:
    """The ids that the template writes behind the assistant's text, up to the token that ends the turn.

    They are found with a probe text, because the template of a base model may end turns with another token than its
    eos_token.
    """
    return _end_ids(around_answer(model, settings)[1], model)


def end_of_turn(model: str, settings: ChatSettings = PLAIN) -> int:
    """The token that ends the assistant's turn in the model's own chat template, else its eos token."""
    return turn_end(model, settings)[-1]


def generation_ends(model: str, settings: ChatSettings = PLAIN) -> frozenset[int]:
    """The ids at which an engine stops: those of the model, and the end of its turn.

    gpt-oss ends its thought with <|end|>, and so do templates that were made of its own; its answer ends with <|return|>.
    """
    end, stops = end_of_turn(model, settings), stop_token_ids(model)
    if family_of(model) is HARMONY and load_tokenizer(model).decode([end]) == "<|end|>" and stops - {end}:
        return stops - {end}
    return stops | {end}


@lru_cache(maxsize=64)
def _end_ids(turn_end: str, model: str) -> tuple[int, ...]:
    """The ids of the text behind an answer, up to the first token that ends a turn; eos alone if none does."""
    tokenizer = load_tokenizer(model)
    ends = stop_token_ids(model) | set(tokenizer.all_special_ids) | set(_special_ids(model))
    ids = token_ids(turn_end, model)
    for position, i in enumerate(ids):
        if i in ends:
            return tuple(ids[: position + 1])
    if tokenizer.eos_token_id is None:
        raise UserError(
            f"{model!r}: the chat template does not end the assistant's turn; set the tokenizer's eos_token"
        )
    return (int(tokenizer.eos_token_id),)


def _special_ids(model: str) -> Iterator[int]:
    return (i for i, token in load_tokenizer(model).added_tokens_decoder.items() if token.special)


@lru_cache(maxsize=8)
def stop_token_ids(model: str) -> frozenset[int]:
    """The ids at which generation stops: the tokenizer's eos and those of the generation config, as vLLM takes them."""
    from ray_distil.chat.auto_classes import GenerationConfig

    ids = {load_tokenizer(model).eos_token_id}
    try:
        configured = GenerationConfig.from_pretrained(local_copy(model)).eos_token_id
    except OSError:  # a model may come without generation_config.json
        configured = None
    ids |= set(configured) if isinstance(configured, list) else {configured}
    return frozenset(i for i in ids if i is not None)


def padding_token(model: str) -> int:
    """The padding token; without one the eos token, since padding is neither learnt nor attended to."""
    tokenizer = load_tokenizer(model)
    return int(tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id)
