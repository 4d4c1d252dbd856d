r"""The rules by which two answers are compared whose texts differ. The first rule that knows their form decides.

FORMS are rules for forms of their own: times, dates, ratios, matrices, lists. QUANTITIES are rules for values with their
units, and for formulas. Each rule has an example with its verdict; a test compares all of them.
"""

import re
from collections.abc import Callable
from fractions import Fraction
from typing import NamedTuple

from ray_distil.judge import forms, math_process
from ray_distil.judge.forms import Form, verdict_of, verdict_of_all
from ray_distil.judge.math_process import Verdict
from ray_distil.judge.measures import measure
from ray_distil.judge.quantities import SHARES, UNITS, exact_value, parts_of, split_unit, units_agree
from ray_distil.judge.spelling import is_formula, same_text

MOST_ELEMENTS = 50
MOST_WORDS = 3  # of a name; a longer text is a sentence, which no rule reads
_NAMED = re.compile(r"((?:[A-Za-z]|\\[a-z]+|pH|pOH|pK_?\{?[a-z]?\}?)(?:_\{?\w+\}?|\([a-z]\))?) ?= ?(?=\S)")
ONE_LETTER = [name for name in UNITS if len(name) == 1 and name.isalpha()]
_MATRIX = re.compile(r"\\begin\{pmatrix\}(.*?)\\end\{pmatrix\}", re.DOTALL)
_SYMBOL = re.compile(rf"(-?(?:\d+(?:\.\d*)?|\.\d+))([{''.join(ONE_LETTER)}])")
_DECIMAL = re.compile(r"(?<![\w.])(?<!_\{)(\d*\.\d+)(?![\w.]*\.)")
_PI = re.compile(r"\\pi(?![A-Za-z])|π")
_ADDED_CONSTANT = re.compile(r"\+ ?[CcK](?:_\{?\d\}?)?$")
_PERIOD = re.compile(r"(?<![A-Za-z\\])[kmn](?= ?\\pi(?![A-Za-z]))")
_WHOLE_NUMBERS = re.compile(r",? ?(?:where |for )?[kmn] ?\\in ?\\?(?:mathbb)? ?\{?Z\}?$")
_LEADING_RELATION = re.compile(r"\\(?:le|ge|neq?|lt|gt|sim|not)(?![A-Za-z])|[<>]")
_RELATION = re.compile(r"\\(?:le|ge|in|ne|lt|gt)(?![A-Za-z])|[<>]")


class Side(NamedTuple):
    """An answer as a quantity. `text`: the whole answer. `value`, `unit`: of "x = 5 cm" they are "5" and "cm"."""

    text: str
    value: str
    unit: str


class Quantity(NamedTuple):
    """A rule for quantities. `decide(first, second)`: the verdict, or None where a later rule decides."""

    name: str
    example: tuple[str, str, Verdict]
    decide: Callable[[Side, Side], Verdict | None]


def same_values(first: str, second: str) -> Verdict:
    """The verdict on two answers whose texts differ; both are `spelling.cleaned`."""
    for form in FORMS:
        if (verdict := form.decide(first, second)) is not None:
            return verdict
    sides = sides_of(first, second)
    return next(verdict for rule in QUANTITIES if (verdict := rule.decide(*sides)) is not None)


# Forms.


def _matrices(first: str, second: str) -> Verdict | None:
    matrices = [_MATRIX.fullmatch(text) for text in (first, second)]
    return _same_matrices(*(match[1] for match in matrices if match)) if all(matrices) else None


def _lists(first: str, second: str) -> Verdict | None:
    lists = [_elements(text) for text in (first, second)]
    if not any(lists) or any(_RELATION.search(text) for text in (first, second)):
        return None
    with_brackets = [elements or ("", [text]) for elements, text in zip(lists, (first, second), strict=True)]
    return _same_lists(*with_brackets)


def _relations(first: str, second: str) -> Verdict | None:
    leading = [bool(_LEADING_RELATION.match(text)) for text in (first, second)]
    if not any(leading) or all(leading):
        return "different" if all(leading) else None
    text = second if leading[0] else first
    return "unclear" if _RELATION.search(text) or not is_value(text) else "different"


def _names(first: str, second: str) -> Verdict | None:
    """Values of two unknowns. Not a = b and b = a, which math-verify compares."""
    names = [match and match[1] for match in (_NAMED.match(text) for text in (first, second))]
    single = all(name is not None and re.fullmatch(r"[A-Za-z]|p[A-Z]\w*", name) for name in names)
    if single and names[0] != names[1] and str(names[0]) not in second and str(names[1]) not in first:
        return "different"
    return None


FORMS = (
    *forms.FORMS,
    Form(
        "matrices",
        (r"\begin{pmatrix} 0.5 \\ 2 \end{pmatrix}", r"\begin{pmatrix} \frac{1}{2} \\ 2 \end{pmatrix}", "equal"),
        _matrices,
    ),
    Form("lists", (r"\{1, 2\}", r"\{2, 1\}", "equal"), _lists),
    Form("a relation on one side", (r"\le 5", "5", "different"), _relations),
    Form("values of two unknowns", ("x = 5", "y = 5", "different"), _names),
)  # fmt: skip


# Quantities.


def sides_of(first: str, second: str) -> tuple[Side, Side]:
    """The answers as quantities. A letter behind a number is a unit only where the other side has that unit."""
    pairs = _with_symbols(*(split_unit(_right_side(text)) for text in (first, second)))
    (value, unit), (expected, expected_unit) = pairs
    if unit or expected_unit:  # the units are compared by themselves
        return Side(value, value, unit), Side(expected, expected, expected_unit)
    return Side(first, value, ""), Side(second, expected, "")


def _numbers(first: Side, second: Side) -> Verdict | None:
    """Two numbers. A percent agrees with its share, and with the bare number where that is larger than 1."""
    value, expected = exact_value(first.value), exact_value(second.value)
    if value is None or expected is None:
        return None
    unit = first.unit or second.unit
    if unit in SHARES and first.unit != second.unit and "" in (first.unit, second.unit):
        share, number = (value, expected) if first.unit else (expected, value)
        is_same_percent = unit == "percent" and share == number and abs(share) > 1
        return verdict_of(share / SHARES[unit] == number or is_same_percent)
    measured, expected_measure = (measure(side.unit) if side.unit else None for side in (first, second))
    if measured is not None and expected_measure is not None:
        (size, kinds), (expected_size, expected_kinds) = measured, expected_measure
        return verdict_of(kinds == expected_kinds and value * size == expected * expected_size)
    return verdict_of(value == expected) if units_agree(first.unit, second.unit) else _other_units(first, second)


def _other_units(first: Side, second: Side) -> Verdict:
    """The verdict on quantities whose units do not agree. Where the size of a unit is not known, they may be equal still:
    2 furlongs and 402 m, 12 apples and 12 fruits. Not so 5 apples and 6 pears, nor 1 gallon and 1 L.
    """
    is_same_number = same_text(first.value, second.value)
    measures = [measure(side.unit) for side in (first, second)]
    if measures[0] is not None and measures[1] is not None:
        return "different" if measures[0][1] != measures[1][1] or is_same_number else "unclear"
    if not {first.unit, second.unit}.isdisjoint(SHARES):
        return "different"

    # Things and units: whose names are known.
    units = [set(re.split(r"[ /*]", side.unit)) for side in (first, second)]
    are_things = (units[0] | units[1]).isdisjoint(UNITS.values())
    are_units = units[0] | units[1] <= set(UNITS.values())
    is_certain = (are_units and is_same_number) or (are_things and not is_same_number)
    return "different" if is_certain and exact_value(first.value) is not None else "unclear"


def _angles(first: Side, second: Side) -> Verdict | None:
    """Degrees and radians."""
    if {first.unit, second.unit} != {"degree", ""}:
        return None
    degrees, radians = (first, second) if first.unit else (second, first)
    if not _PI.search(radians.value):
        return None
    return math_process.compare(f"\\frac{{({degrees.value})\\pi}}{{180}}", radians.value)


def _units(first: Side, second: Side) -> Verdict | None:
    measures = [measure(side.unit) for side in (first, second)]
    is_spelling = measures[0] is not None and measures[0] == measures[1]
    if not is_spelling and not units_agree(first.unit, second.unit):
        return _other_units(first, second)
    return "equal" if (first.unit or second.unit) and same_text(first.text, second.text) else None


def _constants(first: Side, second: Side) -> Verdict | None:
    """A constant that is added, and the whole number of a period, have any name: x^2 + C, x^2 + c; n\\pi, k\\pi."""
    texts = [_WHOLE_NUMBERS.sub("", side.text) for side in (first, second)]
    if not any(all(pattern.search(text) for text in texts) for pattern in (_ADDED_CONSTANT, _PERIOD)):
        return None
    renamed = [_PERIOD.sub("k", _ADDED_CONSTANT.sub("+C", text)) for text in texts]
    return "equal" if renamed[0] == renamed[1] else math_process.compare(renamed[0], renamed[1])


def _letters(first: Side, second: Side) -> Verdict | None:
    """The case of letters: in a formula, R and r are two variables; a letter alone may be M or m."""
    if first.text.casefold() != second.text.casefold():
        return None
    return verdict_of(bool(re.fullmatch(r"[A-Za-z]\)?|0x[0-9A-Fa-f]+", first.text)))


def _words(first: Side, second: Side) -> Verdict | None:
    are_values = [is_formula(side.text) or exact_value(side.text) is not None for side in (first, second)]
    return None if all(are_values) else _verdict_by_words((first.text, second.text), are_values)


def _formulas(first: Side, second: Side) -> Verdict:
    return math_process.compare(*(_DECIMAL.sub(_as_fraction, side.text) for side in (first, second)))


QUANTITIES = (
    Quantity("numbers", ("1,200 pens", "1200", "equal"), _numbers),
    Quantity("degrees and radians", (r"\pi", r"180^\circ", "equal"), _angles),
    Quantity("units", (r"\sqrt{2} cm", r"\sqrt{2} m", "different"), _units),
    Quantity("constants", ("x^2 + C", "x^2 + c", "equal"), _constants),
    Quantity("the case of letters", ("R^2", "r^2", "different"), _letters),
    Quantity("words", ("listen", "silent", "different"), _words),
    Quantity("formulas", ("2x + 1", "1 + 2x", "equal"), _formulas),
)


# Parts of answers.


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
    return verdict_of_all(_element(a.strip(), b.strip()) for a, b in pairs)


def _right_side(text: str) -> str:
    """The value of a named result or a calculation: 5 of "x = 5", 50 of "10 * 5 = 50". Other texts are unchanged."""
    if match := _NAMED.match(text):
        rest = text[match.end() :]
        return rest if "=" not in rest else text
    left, mark, right = text.rpartition("=")
    return (
        right.strip() if mark and not re.search(r"[A-Za-z]", re.sub(r"\\(?:times|cdot|frac|div)", "", left)) else text
    )


def _elements(text: str) -> tuple[str, list[str]] | None:
    r"""`(brackets, elements)` of a list, pair, set or interval; brackets may be "". None for other texts."""
    if match := re.fullmatch(r"([^,;]*?)\\pm ?([^,;]*)", text):
        return "", [f"{match[1]}{sign}{match[2]}" for sign in "+-"]
    brackets, inner = "", text
    pair = re.fullmatch(r"(\(|\[|\\?\{)(.*?)(\)|\]|\\?\})", text, re.DOTALL)
    if pair and _closes_last(text):
        # A set is written with or without the backslash.
        brackets, inner = {"{": "\\{"}.get(pair[1], pair[1]) + {"}": "\\}"}.get(pair[3], pair[3]), pair[2]
    inner = re.sub(r"[,;]? ?\b(?:and|or) ", ";", inner)
    if brackets and not re.search(r", |;", inner):  # (12,144): within brackets, a comma separates
        inner = inner.replace(",", ";")
    parts = parts_of(inner)
    return (brackets, parts) if len(parts) > 1 else None


def _closes_last(text: str) -> bool:
    depth = 0
    for position, sign in enumerate(text):
        depth += (sign in "([{") - (sign in ")]}")
        if depth == 0 and sign in ")]}":
            return position == len(text) - 1
    return False


def _same_lists(first: tuple[str, list[str]], second: tuple[str, list[str]]) -> Verdict:
    """Compare two lists element by element. Sets, and lists of formulas without brackets, may be in any order."""
    if len(first[1]) != len(second[1]):
        are_values = [all(map(is_value, elements)) for _, elements in (first, second)]
        return _verdict_by_words((" ".join(first[1]), " ".join(second[1])), are_values)
    if len(first[1]) > MOST_ELEMENTS:
        return "unclear"
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
    if not (first[0] in free and all(_is_countable(element) for element in second[1])):
        return verdict_of_all(_element(a, b) for a, b in zip(first[1], second[1], strict=True))

    # In any order: where an element may be equal to one that cannot be read, the other list may be certain.
    left, right = list(second[1]), list(first[1])
    verdict = verdict_of_all(_with_partner(element, left) for element in first[1])
    return verdict_of_all(_with_partner(element, right) for element in second[1]) if verdict == "unclear" else verdict


def _with_partner(element: str, left: list[str]) -> Verdict:
    """Whether one of the elements that are left is equal, which is taken from them: each is the partner of one."""
    doubt: Verdict = "different"
    for position, candidate in enumerate(left):
        verdict = _element(element, candidate)
        if verdict == "equal":
            left.pop(position)
        if verdict in ("equal", "timeout"):
            return verdict
        doubt = verdict if doubt == "different" else doubt
    return doubt


def is_value(text: str) -> bool:
    """Whether a text is a number, with its unit or without, or a formula."""
    return is_formula(text) or exact_value(split_unit(text)[0]) is not None


def _verdict_by_words(texts: tuple[str, str], are_values: list[bool]) -> Verdict:
    """The verdict on texts of which one at least is in words. Two names that differ are different; of a sentence, or of
    words beside a value, no rule knows what they mean.
    """
    are_names = not any(are_values) and all(len(text.split()) <= MOST_WORDS for text in texts)
    return "different" if all(are_values) or are_names else "unclear"


def _is_countable(text: str) -> bool:
    """Whether an element of a list is a number, with a unit or without, or a formula."""
    value, unit = split_unit(text)
    return is_formula(text) or exact_value(text) is not None or (unit != "" and exact_value(value) is not None)


def _element(first: str, second: str) -> Verdict:
    return "equal" if same_text(first, second) else same_values(first, second)
