"""Rows of messages as token ids for an engine, and what an engine generated as rows of the contract (`generation.py`).

An engine that takes token ids and gives token ids, as ray.data.llm's do, needs no more than these two functions of a batch.
"""

import json
import time
from functools import lru_cache
from typing import Any

import pyarrow as pa

from ray_distil.chat.chat_templates import PLAIN, ChatSettings, encode_prompt
from ray_distil.chat.families import special_tokens, thinking_end, without_specials
from ray_distil.chat.model_files import TRUST, read_config, trust
from ray_distil.chat.reasoning_marks import THINK_BEGIN, THINK_END, thinking_is_open, thinking_of, with_our_marks
from ray_distil.chat.tokenization import end_of_turn, generation_ends, opens_thinking, token_ids
from ray_distil.errors import KillsEngine, UserError
from ray_distil.generate.generation import TIMES, check_messages

INFERENCE_ERROR = "__inference_error__"  # ray.data.llm gives no row with such an error to the engine
OPENED = "prompt_begins_thinking"  # the mark by which the prompt opens the thinking, or ""


@lru_cache(maxsize=4)
def model_length(model: str) -> int:
    """The longest sequence that the model's own configuration allows, in tokens. Raises UserError where it names none."""
    try:
        config = read_config(model).get_text_config()
        return int(config.max_position_embeddings)
    except (AttributeError, ValueError) as error:  # the length has another name, or transformers lacks the architecture
        raise UserError(
            f"{model!r} does not say how long its sequences are; set engine_kwargs.max_model_len"
        ) from error


def encode_batch(
    table: pa.Table,
    model: str,
    max_model_len: int | None,
    chat: ChatSettings = PLAIN,
    trust_remote_code: bool = False,
) -> pa.Table:
    """Rows as ray.data.llm takes them: token ids by the model's chat template, or an error.

    Generation also stops at the token with which the template ends a turn. In a base model it can differ from eos.
    """
    trust(model, {TRUST: trust_remote_code})
    longest = max_model_len or model_length(model)
    ends, end = generation_ends(model, chat), end_of_turn(model, chat)
    added: dict[str, Any] = {"stop_token_ids": [end] if end in ends else sorted(ends)}
    if special_tokens(model):  # else the marks of thinking are not in the text
        added["skip_special_tokens"] = False

    rows = []
    for row in table.to_pylist():
        error = check_messages(row["messages"])
        ids: list[int] = []
        if not error:
            ids = encode_prompt(row["messages"], model, chat)
            if len(ids) >= longest:
                error = f"prompt_too_long: {len(ids)} tokens, and the engine takes fewer than {longest}"

        # One text carries the columns through the engine.
        carried = {name: value for name, value in row.items() if name not in ("messages", "sampling_params")}
        carried[OPENED] = opens_thinking(ids, model)
        rows.append({
            "id": row["id"],
            "carried": json.dumps(carried),
            "tokenized_prompt": ids,
            "sampling_params": row["sampling_params"] | added,
            INFERENCE_ERROR: error,
            "num_input_tokens": len(ids),
        })  # fmt: skip
    return pa.Table.from_pylist(rows)


def finish_reason(generated_tokens: list[int], stop_ids: frozenset[int]) -> str:
    """ "stop" where the last generated token ends a turn, else "length".

    ray.data.llm drops vLLM's own finish_reason. vLLM keeps the stop token in the generated ids, and looks for it before
    it looks at max_tokens. So a stop token at the end means "stop", even after exactly max_tokens tokens.
    """
    return "stop" if generated_tokens and generated_tokens[-1] in stop_ids else "length"


def num_thinking_tokens(tokens: list[int], begin: str, text: str, think_end_ids: list[int], model: str) -> int:
    """How many of the generated tokens come before the conclusion of a text. `begin`: think mark of the prompt, or "".

    think_end_ids: of the mark by which the model ends its thinking.

    The end mark is searched in the token ids: to load a tokenizer takes seconds, in which an engine's last rows would
    wait. The text is encoded again only where the mark is written in other tokens than `think_end_ids`.
    """
    marked = with_our_marks(begin + text)
    thinking = thinking_of(marked)
    if not thinking or thinking_is_open(marked):
        return len(tokens) if thinking else 0
    n, num_marks = len(think_end_ids), thinking.count(THINK_END)  # a thought may quote </think>, or hold a block
    for start in range(len(tokens) - n + 1):
        num_marks -= tokens[start : start + n] == think_end_ids
        if num_marks == 0:
            return start + n
    in_prompt = f"{THINK_BEGIN}\n" if begin else ""
    return min(len(tokens), len(token_ids(thinking.removeprefix(in_prompt), model)))


def finish_options(model: str, chat: ChatSettings = PLAIN, trust_remote_code: bool = False) -> dict[str, Any]:
    """The arguments of `finish_batch` for a model."""
    trust(model, {TRUST: trust_remote_code})
    think_end_ids = token_ids(thinking_end(model), model)
    options = {"model": model, "think_end_ids": think_end_ids, "specials": special_tokens(model)}
    return {"stop_ids": generation_ends(model, chat), TRUST: trust_remote_code, **options}


def finish_batch(
    table: pa.Table,
    stop_ids: frozenset[int],
    think_end_ids: list[int],
    model: str,
    specials: frozenset[str] | None = None,
    trust_remote_code: bool = False,
) -> pa.Table:
    """ray.data.llm's output in the columns of the contract. A row's `finished_at` is the time of its whole batch.

    specials: special tokens that the engine has left in its texts; None: see `families.special_tokens`.
    """
    specials = special_tokens(model) if specials is None else specials
    trust(model, {TRUST: trust_remote_code})
    rows, now = [], time.time()
    for row in table.to_pylist():
        error = row[INFERENCE_ERROR] or ""
        if KillsEngine.__name__ in error:
            error = f"kills_engine: {error.partition(f'{KillsEngine.__name__}: ')[2] or error}"
        elif error and error.partition(": ")[0] not in ("bad_prompt", "prompt_too_long"):
            error = f"engine_error: {error}"

        # The prompt may have begun the thinking.
        tokens = [] if error else list(row["generated_tokens"])
        carried = json.loads(row["carried"])
        timed = carried.keys() >= set(TIMES)
        text = "" if error else row["generated_text"]
        opened = carried.pop(OPENED) or ""
        begin = f"{opened}\n" if opened and not text.lstrip().startswith(opened) else ""  # some models write it again

        rows.append(carried | {
            "generated_text": "" if error else without_specials(with_our_marks(begin + text), specials),
            "finish_reason": "error" if error else finish_reason(tokens, stop_ids),
            "num_prompt_tokens": int(row["num_input_tokens"] or 0),
            "num_generated_tokens": len(tokens),
            "num_thinking_tokens": num_thinking_tokens(tokens, begin, text, think_end_ids, model),
            "error": error,
            **({"seconds": 0.0 if error else float(row["time_taken_llm"]), "finished_at": now} if timed else {}),
        })  # fmt: skip
    return pa.Table.from_pylist(rows)
