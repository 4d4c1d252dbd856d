"""A gate of one's own: texts that talk to the reader are kept out of training.

ray-distil distill "gates.custom=[examples.my_gates:polite]"
"""

from collections.abc import Mapping
from typing import Any

PHRASES = ("as an ai", "certainly!", "great question")


def polite(row: Mapping[str, Any]) -> str | None:
    """The reason that keeps a row out, or None. `row`: a response (`response`) or a rewrite (`reasoning`)."""
    text = (row.get("response") or row.get("reasoning") or "").lower()
    return "talks_to_the_reader" if any(phrase in text for phrase in PHRASES) else None
