r"""Whether two answers mean the same.

    "1,200 pens"  "1200"                agree: the same number, and a unit stands in one only
    "10 minutes"  "10 hours"            differ
    "\frac{1}{2}" "0.5"                 agree, as exact fractions
    "2x + 1"      "1 + 2x"              agree, by math-verify
    "listen"      "silent"              differ: they are words, not products of letters
    "a dozen"     "12"                  unclear: no rule reads the words

An answer that no rule reads is `unclear`: it counts as unequal, and is counted apart. So does one that needs too much
time. Where a rule has read both, its no is certain.

Texts, exact numbers, units and lists are compared in microseconds, by the table of `rules.py`. Only formulas go to
math-verify, which accepts some wrong answers (huggingface/Math-Verify issues 14, 41, 60); see `math_child.py`.
"""

import inspect
import re
from functools import lru_cache

from ray_distil.errors import UserError
from ray_distil.judge.answers import extract_answer
from ray_distil.judge.forms import verdict_of
from ray_distil.judge.math_process import Verdict
from ray_distil.judge.quantities import exact_value
from ray_distil.judge.rules import is_value, same_values
from ray_distil.judge.spelling import cleaned, is_formula, same_text
from ray_distil.runtime import user_code

JUDGE = "answers.judge"  # the key of a judge of the user's own
MOST_CHARACTERS = 1000  # of an answer that is read as mathematics; a longer one is text
CHOICE = re.compile(r"\(?([A-J])(?:\)|:|\.(?=\s|$))")
_PHRASES = [
    (name, re.compile(pattern))
    for name, pattern in {
        "no solution": r"no (?:solution|answer|such \w+ exists?)|\\emptyset|(?:the )?empty set|no valid solution",
        "no real solution": r"no real (?:solution|root|number|value)s?",
        "infinitely many": r"(?:infinite(?:ly many)?|an infinite number of)(?: \w+)?(?: solution| root| answer)?",
        "does not exist": r"does not exist|doesn't exist|d\.?n\.?e\.?|(?:the )?limit does not exist",
        "undefined": r"(?:is )?(?:undefined|not defined)",
    }.items()
]
_TWICE = re.compile(
    r"\$?(.+?)\$?\s*(?:≈|\\approx(?:eq)?(?![A-Za-z])|\((?:or|i\.e\.|=)(?![A-Za-z]))\s*\$?([^=()≈]+?)\$?\s*\)?\$?"
)
_LIST = re.compile(r"\d{3}(?:,\s*\d{3}){2,}")  # 100, 200, 300 and 100,200,300; but 1,234,567 is a number
_NAME = re.compile(r"\s*(?:[A-Za-z]|\\(?!pi)[a-z]+)(?:_\{?\w+\}?)?\s*")
_SEVERAL = re.compile(r"\(?[A-J]\)?(?:(?:[,/;&]| and | or )+\(?[A-J]\)?)+")
_OPEN = re.compile(r"\.\.\.|\\[lcd]?dots|…")  # a list that goes on


def answers_agree(answer: str | None, reference: str | None) -> bool:
    """Whether two answers mean the same; False where one of them is missing or cannot be read in time."""
    return compare_answers(answer, reference) == "equal"


def compare_answers(answer: str | None, reference: str | None, problem: str = "", judge: str | None = None) -> Verdict:
    """The verdict on two answers: "equal", "different", "unclear" or "timeout". Verdicts are cached by pair.

    judge: the import path of a function of the user's own (answer, reference, problem) -> True, False or None, which
    compares in place of the rules. Raises UserError where it returns something else.
    """
    if answer is None or reference is None:
        return "different"
    if judge is None:
        verdict = _compare(answer, reference)
        return "unclear" if verdict == "different" and _is_an_option(answer, reference, problem) else verdict
    same = user_code.call(judge, JUDGE, answer, reference, problem)
    if same is not None and type(same).__name__ not in ("bool", "bool_"):  # Python's or numpy's
        raise UserError(f"{JUDGE}: {judge} returned {same!r}; a judge returns True, False or None")
    return "unclear" if same is None else verdict_of(bool(same))


def _is_an_option(answer: str, reference: str, problem: str) -> bool:
    """Whether the reference is a letter of the problem's options, and the answer is no letter: it may state the option."""
    letter = re.fullmatch(r"\s*\(?([A-J])[).]?\s*", reference)
    is_listed = letter is not None and re.search(rf"(?:^|[\s(]){letter[1]}[).:]", problem) is not None
    return is_listed and re.fullmatch(r"\W*[A-J]\W*", stated(answer)) is None


def wrong_judge(path: str) -> str:
    """Why a function of the user's own cannot be called as a judge; "" where it can."""
    try:
        inspect.signature(user_code.load(path)).bind("answer", "reference", "problem")
    except (TypeError, ValueError) as error:
        return f"{path} is called with an answer, its reference and the problem: {error}"
    return ""


@lru_cache(maxsize=20_000)
def _compare(answer: str, reference: str) -> Verdict:
    if max(len(answer), len(reference)) > MOST_CHARACTERS:
        answer, reference = (stated(text) for text in (answer, reference))
        if max(len(answer), len(reference)) > MOST_CHARACTERS:
            return "equal" if " ".join(answer.split()) == " ".join(reference.split()) != "" else "unclear"
    if len({bool(_OPEN.search(text)) for text in (answer, reference)}) == 2:
        return "different"  # 1, 2, 3, ... and 1, 2, 3
    if _LIST.fullmatch(answer.strip()) and _without_blanks(answer) == _without_blanks(reference):
        return "equal"
    pairs = [(a, b) for a in spellings(stated(answer)) for b in spellings(stated(reference))]
    verdicts = [_compare_cleaned(cleaned(a), cleaned(b)) for a, b in pairs]
    return next((verdict for verdict in ("equal", "different", *verdicts) if verdict in verdicts), "different")


def _compare_cleaned(first: str, second: str) -> Verdict:
    if not first or not second:
        return "different"
    if same_text(first, second):
        return "equal"
    phrases = phrase_of(first), phrase_of(second)
    if all(phrases):
        return verdict_of(phrases[0] == phrases[1])
    if any(phrases):
        return "different" if is_value(second if phrases[0] else first) else "unclear"
    if verdict := _same_choice(first, second):
        return verdict
    return same_values(first, second)


def _without_blanks(text: str) -> str:
    return re.sub(r",\s+", ",", text.strip())


def phrase_of(text: str) -> str:
    """What an answer without a value says: "no solution", "no real solution", "infinitely many"; "" for other texts."""
    bare = re.sub(r"^(?:there (?:is|are|exists?) |has )", "", text.casefold().strip(" .{}"))
    bare = re.sub(r"(?<=solution)s$|(?<=root)s$|(?<=answer)s$", "", bare)
    return next((name for name, pattern in _PHRASES if pattern.fullmatch(bare)), "")


def spellings(text: str) -> list[str]:
    r"""A value that an answer writes twice, both times: of "1/3 \approx 0.333" and "0.75 (or 3/4)"; else the text alone."""
    match = _TWICE.fullmatch(text.strip())
    if match is None or _NAME.fullmatch(match[1]) or not all(map(_is_value, match.groups())):
        return [text]
    return [match[1], match[2]]


def _is_value(text: str) -> bool:
    """Whether a text is a number or a formula with one."""
    text = cleaned(text)
    return exact_value(text) is not None or (is_formula(text) and bool(re.search(r"\d|\\(?:pi|sqrt)", text)))


def stated(text: str) -> str:
    """The answer that a longer text states (a whole solution, or "Answer: 5"); else the text itself."""
    return extract_answer(text) or text


def _same_choice(first: str, second: str) -> Verdict | None:
    """A verdict by letters of a multiple choice; None where they do not decide.

    E.g. C and "C) 12" are equal, "A. 5" and "B. 5" are different; "A, B and D" is ABD.
    """
    bare = [text.strip("()") if re.fullmatch(r"\(?[A-J]\)?", text) else "" for text in (first, second)]
    several = [_letters(text) for text in (first, second)]
    if all(several) and any(re.search(r"[,/;&]| ", text) for text in (first, second)):
        return verdict_of(several[0] == several[1])
    letters = [
        letter or ((m := CHOICE.match(text)) and m[1]) for letter, text in zip(bare, (first, second), strict=True)
    ]
    if all(letters) and (any(bare) or letters[0] != letters[1]):
        return verdict_of(letters[0] == letters[1])
    return None


def _letters(text: str) -> set[str]:
    """The letters of an answer that names several options: of "A, B and D", A/B/D or ABD; empty for other texts."""
    bare = re.sub(r"[,;] ?and ", ",", text)
    if _SEVERAL.fullmatch(bare):
        return set(re.findall(r"[A-J]", bare))
    return set(text) if re.fullmatch(r"[A-J]{2,6}", text) and list(text) == sorted(set(text)) else set()
