"""The contract of generation: messages in; text, finish_reason and token counts out.

A `Generate` is `Dataset -> Dataset`: one row out for each row in, in any order.

    columns needed: id, messages (list of role and content), sampling_params (dict, the same keys in each row)
    columns added:  generated_text (a think block has both marks, even where the prompt has begun the block),
                    finish_reason ("stop" | "length" | "error"), num_prompt_tokens, num_generated_tokens,
                    num_thinking_tokens (generated tokens up to </think>); a count is 0 where an endpoint gives none;
                    error ("", or "code: detail", e.g. "timeout: no reply within 600 s")
    columns filled: seconds (from sending a request to its whole reply) and finished_at (its time, seconds since 1970),
                    only where rows come with these columns, set to 0.0; they stay 0.0 where not measured
    all other columns are carried through; their values must have a form in JSON
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pyarrow as pa

if TYPE_CHECKING:
    from ray.data import Dataset

Generate = Callable[["Dataset"], "Dataset"]
TRANSIENT = ("engine_error", "timeout", "no_connection", "bad_reply", "http_")  # beginnings of the transient codes
BAD_REQUEST = {"http_400", "http_413", "http_422"}  # these codes are not transient
NO_ACCESS = {"http_401", "http_402", "http_403"}  # key, account or rights: the endpoint refuses all rows alike
ADDED = pa.schema([
    ("generated_text", pa.string()),
    ("finish_reason", pa.string()),
    ("num_prompt_tokens", pa.int32()),
    ("num_generated_tokens", pa.int32()),
    ("num_thinking_tokens", pa.int32()),
    ("error", pa.string()),
])  # fmt: skip
TIMES = ("seconds", "finished_at")


def is_transient(code: str) -> bool:
    """Whether a retry may succeed after an error of this code: yes for http_503, no for http_400 or prompt_too_long."""
    return code.startswith(TRANSIENT) and code not in BAD_REQUEST


def check_messages(messages: Any) -> str:
    """What is wrong with a row's messages, as "code: detail"; "" if nothing."""
    if not messages:
        return "bad_prompt: there are no messages"
    for message in messages:
        content = message.get("content")
        if message.get("role") == "system" and content == "":
            continue  # an empty system turn is allowed: it asks the template for no system prompt
        if not isinstance(content, str) or not content.strip():
            return f"bad_prompt: the {message.get('role')} turn has no text"
    return ""
