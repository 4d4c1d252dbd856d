r"""Whether two answers mean the same.

    "1,200 pens"  "1200"                agree: the same number, and a unit stands in one only
    "10 minutes"  "10 hours"            differ
    "\frac{1}{2}" "0.5"                 agree, as exact fractions
    "2x + 1"      "1 + 2x"              agree, by math-verify
    "listen"      "silent"              differ: they are words, not products of letters

Texts, exact numbers, units and lists are compared in microseconds, by the table of `rules.py`. Only formulas go to
math-verify, which accepts some wrong answers (huggingface/Math-Verify issues 14, 41, 60); see `math_child.py`.
"""

import re
from functools import lru_cache

from ray_distil.judge.answers import extract_answer
from ray_distil.judge.math_process import Verdict
from ray_distil.judge.rules import same_values, verdict_of
from ray_distil.judge.spelling import cleaned, same_text

MOST_CHARACTERS = 1000  # of an answer that is read as mathematics; a longer one is text
CHOICE = re.compile(r"\(?([A-J])(?:\)|:|\.(?=\s|$))")
_OPEN = re.compile(r"\.\.\.|\\[lcd]?dots|…")  # a list that goes on


def answers_agree(answer: str | None, reference: str | None) -> bool:
    """Whether two answers mean the same; False where one of them is missing or cannot be read in time."""
    return compare_answers(answer, reference) == "equal"


def compare_answers(answer: str | None, reference: str | None) -> Verdict:
    """The verdict on two answers: "equal", "different", "unreadable" or "timeout". Verdicts are cached by pair."""
    return "different" if answer is None or reference is None else _compare(answer, reference)


@lru_cache(maxsize=20_000)
def _compare(answer: str, reference: str) -> Verdict:
    if max(len(answer), len(reference)) > MOST_CHARACTERS:
        answer, reference = (stated(text) for text in (answer, reference))
        if max(len(answer), len(reference)) > MOST_CHARACTERS:
            return verdict_of(" ".join(answer.split()) == " ".join(reference.split()) != "")
    if len({bool(_OPEN.search(text)) for text in (answer, reference)}) == 2:
        return "different"  # 1, 2, 3, ... and 1, 2, 3
    first, second = cleaned(stated(answer)), cleaned(stated(reference))
    if not first or not second:
        return "different"
    if same_text(first, second):
        return "equal"
    if verdict := _same_choice(first, second):
        return verdict
    return same_values(first, second)


def stated(text: str) -> str:
    """The answer that a longer text states (a whole solution, or "Answer: 5"); else the text itself."""
    return extract_answer(text) or text


def _same_choice(first: str, second: str) -> Verdict | None:
    """A verdict by letters of a multiple choice; None where they do not decide.

    E.g. C and "C) 12" are equal, "A. 5" and "B. 5" are different.
    """
    bare = [text.strip("()") if re.fullmatch(r"\(?[A-J]\)?", text) else "" for text in (first, second)]
    letters = [
        letter or ((m := CHOICE.match(text)) and m[1]) for letter, text in zip(bare, (first, second), strict=True)
    ]
    if all(letters) and (any(bare) or letters[0] != letters[1]):
        return verdict_of(letters[0] == letters[1])
    return None
