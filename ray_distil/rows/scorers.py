r"""What a response is worth: the answer that it states, and whether that is the reference, by the kind of answer.

    integer   025 and 25 are one answer, and 25^\circ too
    math      as `agreement.py` has it
    choice    a letter of the range, or nothing
    text      words, whatever their case and spaces

A new VERSION judges stored responses again, and asks no model.
"""

import re
import unicodedata
from typing import Any

from ray_distil.texts.agreement import answers_agree
from ray_distil.texts.answers import extract_answer
from ray_distil.texts.choices import stated_letter
from ray_distil.texts.reasoning import split_reasoning

VERSION = 1
_INTEGER = re.compile(r"[-+]?(?:\d{1,3}(?:(?:,|\{,\}|\\,|\\!|,\\!)\d{3})+|\d+)(?:\.0*)?")
_AROUND = re.compile(r"\^\s*\{?\s*\\circ\s*\}?|°|\\(?:text|mathrm|mathbf|textbf)\s*\{|[{}$*]|\\[ ()\[\]]|\.$")


def scored_by(kind: str) -> str:
    """As a row of EVAL says it."""
    return f"{kind} {VERSION}"


def judged(row: dict[str, Any], kind: str) -> dict[str, Any]:
    """An EVAL row with `answer`, `correct` and `scored_by`. A cut answer is not correct, whatever it had said before."""
    conclusion, reference = split_reasoning(row["response"])[1], row["reference_answer"]
    answer = stated(conclusion, kind, row.get("num_choices"))
    right = None if reference is None else row["complete"] and is_right(answer, reference, kind)
    return row | {"answer": answer, "correct": right, "scored_by": scored_by(kind)}


def stated(conclusion: str, kind: str, num_choices: int | None = None) -> str | None:
    """The answer that a conclusion states."""
    if kind == "choice":
        return stated_letter(conclusion, num_choices or 0)
    return extract_answer(conclusion)


def is_right(answer: str | None, reference: str, kind: str) -> bool:
    if answer is None:
        return False
    if kind == "choice":
        return answer == reference
    if kind == "text":
        return _words(answer) == _words(reference)
    if kind == "integer":
        numbers = whole_number(answer.rpartition("=")[2]), whole_number(reference)  # m + n = 25
        if None not in numbers:
            return numbers[0] == numbers[1]
    return answers_agree(answer, reference)


def whole_number(text: str) -> int | None:
    r"""25 of 025, 25., 25^\circ and $25$; 1200 of 1,200; None of what is no whole number."""
    bare = _AROUND.sub("", unicodedata.normalize("NFKC", text).replace("−", "-").strip()).strip()
    return int(re.sub(r"\.0*$|[^\d.+-]", "", bare)) if len(bare) < 100 and _INTEGER.fullmatch(bare) else None


def _words(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split()).strip(" .,;:!\"'*$")
