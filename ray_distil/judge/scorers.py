r"""Scores a response: the answer that it states, and whether this answer equals the reference, by the kind of answer.

    integer   025, 25 and 25^\circ are the same answer
    math      compared by `agreement.py`
    choice    a letter of the problem's options, or no answer
    text      words; case and spaces do not count

A user's own scorer is a function (response, reference) -> bool, named by its import path in place of a kind: `response`
is the text behind the reasoning. With a new VERSION, or another source of that function, the stored responses are judged again, and no model is asked.
"""

import re
import unicodedata
from collections.abc import Iterable
from typing import Any

from ray_distil.chat.reasoning_marks import split_reasoning
from ray_distil.errors import UserError
from ray_distil.judge.agreement import compare_answers
from ray_distil.judge.answers import extract_answer
from ray_distil.judge.choices import stated_letter
from ray_distil.judge.forms import verdict_of
from ray_distil.judge.math_process import NOT_CERTAIN, Verdict
from ray_distil.runtime import user_code
from ray_distil.store.schemas import without_unseen

VERSION = 4
SCORER = "evaluation.benchmarks.scorer"
_INTEGER = re.compile(r"[-+]?(?:\d{1,3}(?:(?:,|\{,\}|\\,|\\!|,\\!)\d{3})+|\d+)(?:\.0*)?")
_NO_RESULT = re.compile(r"[=<>≤≥≠,;!]|\\(?:le|ge|ne|lt|gt)(?![A-Za-z])|\bor\b")  # before the last =: x = 5 or x = 25
_ORDINAL = re.compile(r"(?<=\d)\s*\^?\s*(?:\\(?:text|mathrm)\s*)?\{?\s*(?:\\(?:text|mathrm)\s*\{)?(?:st|nd|rd|th)\}*$")
_AROUND = re.compile(r"\^\s*\{?\s*\\circ\s*\}?|°|\\(?:text|mathrm|mathbf|textbf)\s*\{|[{}$*]|\\[ ()\[\]]|\.$")


def scored_by(kind: str, judge: str | None = None) -> str:
    """The scorer's name in an EVAL row: kind and version, e.g. "math 1"; of a user's own, its path and source's digest.

    With a judge of the user's own, that stands behind: "math 1 my_judges:same@0123456789abcdef".
    """
    name = user_code.mark(kind) if ":" in kind else f"{kind} {VERSION}"
    return f"{name} {user_code.mark(judge)}" if judge is not None else name


def judge_of(kind: str, judge: str | None) -> str | None:
    """The user's own judge where it compares answers of this kind: not letters, and not in place of an own scorer."""
    return None if kind == "choice" or ":" in kind else judge


def judged(row: dict[str, Any], kind: str, judge: str | None = None) -> dict[str, Any]:
    """An EVAL row with `answer`, `correct`, `unclear` and `scored_by`. A response that was cut is never correct, nor unclear.

    A user's own scorer gives no reason: there `unclear` is None. judge: from `judge_of`.
    """
    conclusion, reference = split_reasoning(row["response"])[1], row["reference_answer"]
    answer = stated(conclusion, kind, row.get("num_choices"))
    right = unclear = None
    if reference is not None and ":" in kind:
        right = row["complete"] and _is_right_by(kind, conclusion, reference)
    elif reference is not None:
        compared = (answer, reference, kind, row.get("instruction") or "", judge)
        verdict = compare(*compared) if row["complete"] else "different"
        right, unclear = verdict == "equal", verdict in NOT_CERTAIN
    return row | {"answer": answer, "correct": right, "unclear": unclear, "scored_by": scored_by(kind, judge)}


def stated(conclusion: str, kind: str, num_choices: int | None = None) -> str | None:
    """The answer that a conclusion states; None where it states none. num_choices: options of a multiple choice."""
    if kind == "choice":
        return stated_letter(conclusion, num_choices or 0)
    return extract_answer(conclusion)


def is_right(answer: str | None, reference: str, kind: str) -> bool:
    return compare(answer, reference, kind) == "equal"


def compare(answer: str | None, reference: str, kind: str, problem: str = "", judge: str | None = None) -> Verdict:
    """The verdict on an answer by the kind of answer, or by the user's own judge. A letter and words are always read."""
    if answer is None or kind == "choice":
        return verdict_of(answer == reference)
    if judge is not None:
        return compare_answers(answer, reference, problem, judge)
    if kind == "text":
        return verdict_of(_words(answer) == _words(reference))
    if kind == "integer":
        left, mark, right = answer.rpartition("=")  # m + n = 25
        is_result = not mark or not _NO_RESULT.search(left)
        number = whole_number(right if is_result else answer)
        if number is None and is_result:
            number = whole_number(left)  # 25 = 5^2
        numbers = number, whole_number(reference)
        if None not in numbers:
            return verdict_of(numbers[0] == numbers[1])
    return compare_answers(answer, reference)


def _is_right_by(path: str, conclusion: str, reference: str) -> bool:
    """Raises UserError where a user's own scorer returns something else than True or False."""
    right = user_code.call(path, SCORER, conclusion, reference)
    if type(right).__name__ not in ("bool", "bool_"):  # Python's or numpy's
        raise UserError(f"{SCORER}: {path} returned {right!r}; a scorer returns True or False")
    return bool(right)


def check_judge(judge: str | None, problems: Iterable[dict[str, Any]]) -> None:
    """Raises UserError where a user's own judge cannot read a reference: each is compared with itself."""
    for row in problems if judge is not None else ():
        compare_answers(row["reference_answer"], row["reference_answer"], row["instruction"], judge)


def check_scorer(kind: str, references: Iterable[str | None]) -> None:
    """Raises UserError where a user's own scorer cannot read a reference: before a model is asked, not behind it."""
    for reference in references if ":" in kind else ():
        if reference is not None:
            _is_right_by(kind, "", reference)


def whole_number(text: str) -> int | None:
    r"""The whole number in a text: 25 for 025, 25., 25^\circ and $25$; 1200 for 1,200; None for any other text."""
    text = _ORDINAL.sub("", without_unseen(unicodedata.normalize("NFKC", text)).strip("$ "))
    bare = _AROUND.sub("", text.replace("−", "-").strip()).strip()
    return int(re.sub(r"\.0*$|[^\d.+-]", "", bare)) if len(bare) < 100 and _INTEGER.fullmatch(bare) else None


def _words(text: str) -> str:
    return " ".join(without_unseen(unicodedata.normalize("NFKC", text)).casefold().split()).strip(" .,;:!\"'*$")
