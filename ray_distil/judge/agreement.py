r"""Whether two answers mean the same.

    "1,200 pens"  "1200"                agree: the same number, and a unit stands in one only
    "10 minutes"  "10 hours"            differ
    "\frac{1}{2}" "0.5"                 agree, as exact fractions
    "2x + 1"      "1 + 2x"              agree, by math-verify
    "listen"      "silent"              differ: they are words, not products of letters

Texts, exact numbers, units and lists are compared here, in microseconds. Only formulas go to math-verify, which accepts
some wrong answers (huggingface/Math-Verify issues 14, 41, 60); see `math_child.py`.
"""

import re
from fractions import Fraction
from functools import lru_cache

from ray_distil.judge import math_process
from ray_distil.judge.answers import extract_answer
from ray_distil.judge.math_process import Verdict
from ray_distil.judge.quantities import UNITS, exact_value, parts_of, split_unit, units_agree
from ray_distil.judge.spelling import cleaned

MOST_CHARACTERS = 1000  # of an answer that is read as mathematics; a longer one is text
MOST_ELEMENTS = 50
CHOICE = re.compile(r"\(?([A-J])(?:\)|:|\.(?=\s|$))")
_NAMED = re.compile(r"((?:[A-Za-z]|\\[a-z]+)(?:_\{?\w+\}?|\([a-z]\))?) ?= ?(?=\S)")
ONE_LETTER = [name for name in UNITS if len(name) == 1 and name.isalpha()]
_BASE = re.compile(r"\(?([0-9][0-9A-F]*|[A-F][0-9A-F]*[0-9][0-9A-F]*)\)?_\{? ?\(?(\d{1,2}|[a-z]+)\)? ?\}?")
_IN_BASE = re.compile(r" \(?(?:in )?base[- ](\d{1,2}|[a-z]+)\)?$")
_BASES = {"two": "2", "three": "3", "four": "4", "five": "5", "six": "6", "seven": "7", "eight": "8", "nine": "9"}
_MATRIX = re.compile(r"\\begin\{pmatrix\}(.*?)\\end\{pmatrix\}", re.DOTALL)
_TIME = re.compile(r"(\d{1,2}(?::\d{2})*) ?([ap])\.? ?m\.?", re.I)
_NAMES = re.compile(
    r"\\(?:angle|triangle|overline\{[A-Z]|overrightarrow|widehat|vec|parallel|perp)"
)  # behind these, letters name points and are no product
_OPEN = re.compile(r"\.\.\.|\\[lcd]?dots|…")  # a list that goes on
_SYMBOL = re.compile(rf"(-?(?:\d+(?:\.\d*)?|\.\d+))([{''.join(ONE_LETTER)}])")
_DECIMAL = re.compile(r"(?<![\w.])(?<!_\{)(\d*\.\d+)(?![\w.]*\.)")
_DATE = re.compile(
    r"\d+(?:\.\d+){2,}|\d{4}[-/.]\d{1,2}[-/.]\d{1,2}|\d{1,2}[/.]\d{1,2}[/.]\d{2,4}|\d{1,2}:\d{2}(?::\d{2})?(?: ?[ap]\.?m\.?)?",
    re.I,
)
_PARTING = re.compile(r"\d \d|[A-Za-z]{2} ")  # blanks that must stay: 1 1/2, sin x, 1 \\frac{1}{2}
_RATIO = re.compile(r"\d+(?: ?: ?\d+)+")
_SUBSTANCE = re.compile(r"(?=.*[A-Za-z]_?\{?\d)(?:[A-Z][a-z]?(?:_?\{?\d+\}?)?){2,}")  # H2O: no product of letters
_PI = re.compile(r"\\pi(?![A-Za-z])|π")
_FUNCTIONS = {
    "sin", "cos", "tan", "cot", "sec", "csc", "arcsin", "arccos", "arctan", "log", "ln", "exp", "max", "min", "gcd",
    "lcm", "mod", "det", "sqrt", "deg", "lim", "sinh", "cosh", "tanh",
}  # fmt: skip
_LEADING_RELATION = re.compile(r"\\(?:le|ge|neq?|lt|gt|sim|not)(?![A-Za-z])|[<>]")
_MODULO = re.compile(r"\\[pb]?mod(?![A-Za-z])|(?<![A-Za-z])mod(?![A-Za-z])")
_RELATION = re.compile(r"\\(?:le|ge|in|ne|lt|gt)(?![A-Za-z])|[<>]")


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
            return _verdict(" ".join(answer.split()) == " ".join(reference.split()) != "")
    if len({bool(_OPEN.search(text)) for text in (answer, reference)}) == 2:
        return "different"  # 1, 2, 3, ... and 1, 2, 3
    first, second = cleaned(stated(answer)), cleaned(stated(reference))
    if not first or not second:
        return "different"
    if _same_text(first, second):
        return "equal"
    if verdict := _same_choice(first, second):
        return verdict
    return _same_values(first, second)


def _verdict(equal: bool) -> Verdict:
    return "equal" if equal else "different"


def stated(text: str) -> str:
    """The answer that a longer text states (a whole solution, or "Answer: 5"); else the text itself."""
    return extract_answer(text) or text


def _same_text(first: str, second: str) -> bool:
    """Whether two texts are equal. The case of letters matters only in formulas, where M and m are two variables."""
    if _tight(first) == _tight(second):
        return True
    return not (is_formula(first) and is_formula(second)) and first.casefold() == second.casefold()


def _tight(text: str) -> str:
    """A formula without its blanks, unless a blank separates two numbers or two words. Any other text unchanged."""
    bare = re.sub(r"\\[A-Za-z]+ ?", r"\\", text)  # the blank behind a command separates nothing
    parts = _PARTING.search(bare) or re.search(r"\d (?=\\frac)", text)
    return text if not is_formula(text) or parts else text.replace(" ", "")


def _same_choice(first: str, second: str) -> Verdict | None:
    """A verdict by letters of a multiple choice; None where they do not decide.

    E.g. C and "C) 12" are equal, "A. 5" and "B. 5" are different.
    """
    bare = [text.strip("()") if re.fullmatch(r"\(?[A-J]\)?", text) else "" for text in (first, second)]
    letters = [
        letter or ((m := CHOICE.match(text)) and m[1]) for letter, text in zip(bare, (first, second), strict=True)
    ]
    if all(letters) and (any(bare) or letters[0] != letters[1]):
        return _verdict(letters[0] == letters[1])
    return None


def _same_values(first: str, second: str) -> Verdict:
    # Forms that have their own rules.
    times = [_TIME.fullmatch(text) for text in (first, second)]
    if any(times):
        return _verdict(len({match and (match[1], match[2].lower()) for match in times}) == 1)
    if (
        any(_NAMES.search(text) for text in (first, second))
        or len({bool(_MODULO.search(t)) for t in (first, second)}) == 2
    ):
        return "different"  # formulas of points, and a modulus on one side only, need equal texts
    if _DATE.fullmatch(first) or _DATE.fullmatch(second):
        return "different"
    if any(_RATIO.fullmatch(a) and b.isdigit() for a, b in ((first, second), (second, first))):
        return "different"  # 10:1 is not 10
    ratios = [[int(part) for part in text.split(":")] if _RATIO.fullmatch(text) else [] for text in (first, second)]
    if all(len(ratio) > 2 for ratio in ratios):
        return _verdict(_same_ratio(*ratios))
    substances = [_SUBSTANCE.fullmatch(text) and re.sub(r"[_{}]", "", text) for text in (first, second)]
    if any(substances):
        return _verdict(substances[0] == substances[1])
    matrices = [_MATRIX.fullmatch(text) for text in (first, second)]
    if all(matrices):
        return _same_matrices(*(match[1] for match in matrices if match))
    bases = [_in_base(text) for text in (first, second)]
    if any(bases):
        return _verdict(bases[0] == bases[1])
    lists = [_elements(text) for text in (first, second)]
    if any(lists) and not any(_RELATION.search(text) for text in (first, second)):
        return _same_lists(*lists)
    if any(_LEADING_RELATION.match(text) for text in (first, second)):
        return "different"  # at least 5, and 5
    names = [match and match[1] for match in (_NAMED.match(text) for text in (first, second))]
    single = all(name is not None and re.fullmatch(r"[A-Za-z]", name) for name in names)
    if single and names[0] != names[1] and str(names[0]) not in second and str(names[1]) not in first:
        return "different"  # x = 5 and y = 5; not a = b and b = a, which math-verify compares

    # Values and formulas, with their units.
    (value, unit), (expected, expected_unit) = _with_symbols(
        *(split_unit(_right_side(text)) for text in (first, second))
    )
    numbers = exact_value(value), exact_value(expected)
    if numbers[0] is not None and numbers[1] is not None:
        if {unit, expected_unit} == {"percent", ""}:
            larger, smaller = numbers if unit == "percent" else numbers[::-1]
            return _verdict(larger / 100 == smaller or (larger == smaller and abs(larger) > 1))
        return _verdict(numbers[0] == numbers[1] and units_agree(unit, expected_unit))
    if {unit, expected_unit} == {"degree", ""} and _PI.search(expected if unit else value):
        in_degrees, in_radians = (value, expected) if unit else (expected, value)
        return math_process.compare(f"\\frac{{({in_degrees})\\pi}}{{180}}", in_radians)
    if not units_agree(unit, expected_unit):
        return "different"
    if unit or expected_unit:
        first, second = value, expected
        if _same_text(first, second):
            return "equal"
    if first.casefold() == second.casefold():  # in a formula, R and r are two variables; a letter alone may be M or m
        return _verdict(bool(re.fullmatch(r"[A-Za-z]\)?|0x[0-9A-Fa-f]+", first)))
    if not all(is_formula(text) or exact_value(text) is not None for text in (first, second)):
        return "different"
    return math_process.compare(*(_DECIMAL.sub(_as_fraction, text) for text in (first, second)))


def _same_ratio(first: list[int], second: list[int]) -> bool:
    """Whether two ratios are the same, as 1:2:3 and 2:4:6 are: by the products of parts, crosswise."""
    return len(first) == len(second) and all(a * second[0] == b * first[0] for a, b in zip(first, second, strict=True))


def _as_fraction(match: "re.Match[str]") -> str:
    """A decimal number as a fraction: sympy would read the decimal as a floating point number, which is not exact."""
    value = Fraction(match[1])
    return f"(\\frac{{{value.numerator}}}{{{value.denominator}}})"


def _with_symbols(first: tuple[str, str], second: tuple[str, str]) -> list[tuple[str, str]]:
    """Values and units. A letter behind a number (5g) counts as a unit only where the other side has that unit."""
    pairs = []
    for (value, unit), (_, expected) in ((first, second), (second, first)):
        match = _SYMBOL.fullmatch(value) if not unit and expected else None
        is_unit = match is not None and UNITS[match[2]] == expected
        pairs.append((match[1], expected) if match is not None and is_unit else (value, unit))
    return pairs


def _same_matrices(first: str, second: str) -> Verdict:
    rows = [
        [row.split("&") for row in re.split(r"\\\\", inner.strip().removesuffix("\\\\"))] for inner in (first, second)
    ]
    if [len(row) for row in rows[0]] != [len(row) for row in rows[1]]:
        return "different"
    pairs = zip((cell for row in rows[0] for cell in row), (cell for row in rows[1] for cell in row), strict=True)
    return next((verdict for a, b in pairs if (verdict := _element(a.strip(), b.strip())) != "equal"), "equal")


def is_formula(text: str) -> bool:
    """Whether a text is a formula. No run of letters, functions and commands apart, may be longer than 3; a run of 2 or
    3 letters needs a digit, operator or command beside it.
    """
    bare = re.sub(r"\\[A-Za-z]+", " ", text)
    runs = [run for run in re.findall(r"[A-Za-z]+", bare) if run not in _FUNCTIONS]
    longest = max(map(len, runs), default=0)
    if longest > 3:
        return False
    if longest > 1:
        return bool(re.search(r"[\d^_=/*]|\\[A-Za-z]", text))
    return bool(re.search(r"[\d^_=/*+<>|!-]|\\[A-Za-z]", text)) or longest == 1


def _right_side(text: str) -> str:
    """The value of a named result or a calculation: 5 of "x = 5", 50 of "10 * 5 = 50". Other texts are unchanged."""
    if match := _NAMED.match(text):
        rest = text[match.end() :]
        return rest if "=" not in rest else text
    left, mark, right = text.rpartition("=")
    return (
        right.strip() if mark and not re.search(r"[A-Za-z]", re.sub(r"\\(?:times|cdot|frac|div)", "", left)) else text
    )


def _in_base(text: str) -> tuple[str, str] | None:
    """`(digits, base)` of a number such as 52_8 or "52 base 8"; None for any other text."""
    text = _IN_BASE.sub(r"_{\1}", text)
    match = _BASE.fullmatch(text)
    return (match[1].lstrip("0"), _BASES.get(match[2], match[2])) if match else None


def _elements(text: str) -> tuple[str, list[str]] | None:
    r"""`(brackets, elements)` of a list, pair, set or interval; brackets may be "". None for other texts."""
    if match := re.fullmatch(r"([^,;]*?)\\pm ?([^,;]*)", text):
        return "", [f"{match[1]}{sign}{match[2]}" for sign in "+-"]
    brackets, inner = "", text
    pair = re.fullmatch(r"(\(|\[|\\?\{)(.*?)(\)|\]|\\?\})", text, re.DOTALL)
    if pair and _closes_last(text):
        # A set is written with or without the backslash.
        brackets, inner = {"{": "\\{"}.get(pair[1], pair[1]) + {"}": "\\}"}.get(pair[3], pair[3]), pair[2]
    parts = parts_of(re.sub(r"(?:, ?| )(?:and|or) ", ",", inner))
    return (brackets, parts) if len(parts) > 1 else None


def _closes_last(text: str) -> bool:
    depth = 0
    for position, sign in enumerate(text):
        depth += (sign in "([{") - (sign in ")]}")
        if depth == 0 and sign in ")]}":
            return position == len(text) - 1
    return False


def _same_lists(first: tuple[str, list[str]] | None, second: tuple[str, list[str]] | None) -> Verdict:
    """Compare two lists element by element. Sets, and lists of formulas without brackets, may be in any order."""
    if first is None or second is None or len(first[1]) != len(second[1]) or len(first[1]) > MOST_ELEMENTS:
        return "different"
    free = {"", "\\{\\}"}
    for bare, tuple_ in ((first, second), (second, first)):  # x=3,y=4 and (3,4)
        assignments = [_NAMED.match(element) for element in bare[1]]
        if (
            bare[0] == ""
            and tuple_[0] == "()"
            and all(assignments)
            and len({name_match[1] for name_match in assignments if name_match}) == len(assignments)
        ):
            first, second = ("()", [e[f.end() :] for e, f in zip(bare[1], assignments, strict=True) if f]), tuple_

    if first[0] != second[0] and not {first[0], second[0]} <= free:
        return "different"
    if not (first[0] in free and all(is_formula(e) or exact_value(e) is not None for e in second[1])):
        verdicts = [_element(a, b) for a, b in zip(first[1], second[1], strict=True)]
        return next((verdict for verdict in verdicts if verdict != "equal"), "equal")

    # In any order: each element has one partner.
    left = list(second[1])
    for element in first[1]:
        match = next((k for k, e in enumerate(left) if _element(element, e) == "equal"), None)
        if match is None:
            return "different"
        left.pop(match)
    return "equal"


def _element(first: str, second: str) -> Verdict:
    return "equal" if _same_text(first, second) else _same_values(first, second)
