r"""The rules by which two answers are compared whose texts differ. The first rule that knows their form decides.

FORMS are rules for forms of their own: times, dates, ratios, matrices, lists. QUANTITIES are rules for values with their
units, and for formulas. Each rule has an example with its verdict; a test compares all of them.
"""

import re
from collections.abc import Callable
from fractions import Fraction
from typing import NamedTuple

from ray_distil.judge import math_process
from ray_distil.judge.math_process import Verdict
from ray_distil.judge.measures import measure, seconds_of
from ray_distil.judge.quantities import SHARES, UNITS, exact_value, parts_of, split_unit, units_agree
from ray_distil.judge.spelling import is_formula, same_text

MOST_ELEMENTS = 50
_NAMED = re.compile(r"((?:[A-Za-z]|\\[a-z]+|pH|pOH|pK_?\{?[a-z]?\}?)(?:_\{?\w+\}?|\([a-z]\))?) ?= ?(?=\S)")
ONE_LETTER = [name for name in UNITS if len(name) == 1 and name.isalpha()]
_BASE = re.compile(r"\(?([0-9][0-9A-F]*|[A-F][0-9A-F]*[0-9][0-9A-F]*)\)?_\{? ?\(?(\d{1,2}|[a-z]+)\)? ?\}?")
_IN_BASE = re.compile(r" \(?(?:in )?base[- ](\d{1,2}|[a-z]+)\)?$")
_BASES = {"two": "2", "three": "3", "four": "4", "five": "5", "six": "6", "seven": "7", "eight": "8", "nine": "9"}
_MATRIX = re.compile(r"\\begin\{pmatrix\}(.*?)\\end\{pmatrix\}", re.DOTALL)
_TIME = re.compile(r"(\d{1,2}(?::\d{2})*) ?([ap])\.? ?m\.?", re.I)
_NAMES = re.compile(
    r"\\(?:angle|triangle|overline\{[A-Z]|overrightarrow|widehat|vec|parallel|perp)"
)  # behind these, letters name points and are no product
_SYMBOL = re.compile(rf"(-?(?:\d+(?:\.\d*)?|\.\d+))([{''.join(ONE_LETTER)}])")
_DECIMAL = re.compile(r"(?<![\w.])(?<!_\{)(\d*\.\d+)(?![\w.]*\.)")
_DATE = re.compile(
    r"\d+(?:\.\d+){2,}|\d{4}([-/.])\d{1,2}\1\d{1,2}|\d{1,2}([/.])\d{1,2}\2\d{2,4}|\d{1,2}:\d{2}(?::\d{2})?(?: ?[ap]\.?m\.?)?",
    re.I,
)
_RATIO = re.compile(r"\d+(?: ?: ?\d+)+")
_SUBSTANCE = re.compile(
    r"(?=.*[A-Za-z]_?\{?\d)(?:[A-Z][a-z]?(?:_?\{?\d+\}?)?){2,}|(?:[A-Z][a-z]?(?:_?\{?\d+\}?)?)+\^?\{?\d*[+-]\}?"
)  # H2O, SO4^{2-}: no product of letters
_SHELLS = re.compile(r"(?:\d[spdf]\^?\{?\d{1,2}\}? ?){2,}")  # 1s^2 2s^2 2p^6
_REACTION = re.compile(r"[A-Za-z0-9_^{}()+ -]+->[A-Za-z0-9_^{}()+ -]+")
_SETS = re.compile(r"[A-Z](?:'|\^c)?(?:(?: ?\\cap ?[A-Z](?:'|\^c)?)+|(?: ?\\cup ?[A-Z](?:'|\^c)?)+)")
_ISO_DATE = re.compile(r"(\d{4})-(\d{1,2})-(\d{1,2})")
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_MONTH = r"(jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*\.?"
_NAMED_DATE = re.compile(
    rf"{_MONTH} (\d{{1,2}})(?:st|nd|rd|th)?(?:[,;]? ?(\d{{4}}))?|(\d{{1,2}})(?:st|nd|rd|th)?(?: of)? {_MONTH}(?:,? ?(\d{{4}}))?", re.I
)
_CLOCK = re.compile(r"(\d{1,2}):(\d{2})")
_PI = re.compile(r"\\pi(?![A-Za-z])|π")
_ADDED_CONSTANT = re.compile(r"\+ ?[CcK](?:_\{?\d\}?)?$")
_PERIOD = re.compile(r"(?<![A-Za-z\\])[kmn](?= ?\\pi(?![A-Za-z]))")
_WHOLE_NUMBERS = re.compile(r",? ?(?:where |for )?[kmn] ?\\in ?\\?(?:mathbb)? ?\{?Z\}?$")
_LEADING_RELATION = re.compile(r"\\(?:le|ge|neq?|lt|gt|sim|not)(?![A-Za-z])|[<>]")
_MODULO = re.compile(r"\\[pb]?mod(?![A-Za-z])|(?<![A-Za-z])mod(?![A-Za-z])")
_RELATION = re.compile(r"\\(?:le|ge|in|ne|lt|gt)(?![A-Za-z])|[<>]")


class Side(NamedTuple):
    """An answer as a quantity. `text`: the whole answer. `value`, `unit`: of "x = 5 cm" they are "5" and "cm"."""

    text: str
    value: str
    unit: str


class Form(NamedTuple):
    """A rule for a form. `decide(first, second)`: the verdict, or None for answers of other forms."""

    name: str
    example: tuple[str, str, Verdict]
    decide: Callable[[str, str], Verdict | None]


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


def verdict_of(equal: bool) -> Verdict:
    return "equal" if equal else "different"


# Forms.


def _times(first: str, second: str) -> Verdict | None:
    """Times of which one has a.m. or p.m.; the other may count 24 hours."""
    if not any(_TIME.fullmatch(text) for text in (first, second)):
        return None
    times = [_minutes(text) for text in (first, second)]
    return verdict_of(times[0] == times[1] is not None)


def _minutes(text: str) -> int | str | None:
    """Minutes since midnight, or a time with seconds in one spelling; None for what is no time."""
    match = _TIME.fullmatch(text)
    if match is None:
        clock = _CLOCK.fullmatch(text)
        is_clear = clock is not None and not 0 < int(clock[1]) < 13  # 10:30 may be in the evening
        return 60 * int(clock[1]) + int(clock[2]) if clock and is_clear else None
    hours, *rest = (int(part) for part in match[1].split(":"))
    if len(rest) > 1:
        return f"{match[1]} {match[2].lower()}"
    return 60 * (hours % 12 + 12 * (match[2].lower() == "p")) + sum(rest)


def _durations(first: str, second: str) -> Verdict | None:
    """Durations of which one is in several units."""
    if not any(len(re.findall(r"\d [A-Za-z]", text)) > 1 for text in (first, second)):
        return None
    seconds = [seconds_of(text) for text in (first, second)]
    return verdict_of(seconds[0] == seconds[1]) if None not in seconds else None


def _points(first: str, second: str) -> Verdict | None:
    """Letters that name points are no product: only equal texts are equal."""
    return "different" if _NAMES.search(first) or _NAMES.search(second) else None


def _modulus(first: str, second: str) -> Verdict | None:
    return "different" if bool(_MODULO.search(first)) != bool(_MODULO.search(second)) else None


def _dates(first: str, second: str) -> Verdict | None:
    """Dates. Where the order of day and month cannot be known, only equal texts are equal."""
    dates = [_date(text) for text in (first, second)]
    if all(dates):
        return verdict_of(dates[0] == dates[1])
    return "different" if any(dates) or _DATE.fullmatch(first) or _DATE.fullmatch(second) else None


def _date(text: str) -> tuple[int, int, int] | None:
    """(year, month, day) of 2024-03-05 or "March 5, 2024"; the year is 0 where it is not said."""
    if match := _ISO_DATE.fullmatch(text):
        return int(match[1]), int(match[2]), int(match[3])
    if (match := _NAMED_DATE.fullmatch(text)) is None:
        return None
    month, day, year = match.groups()[:3] if match[1] else (match[5], match[4], match[6])
    return int(year or 0), _MONTHS.index(month.lower()) + 1, int(day)


def _ratio_and_number(first: str, second: str) -> Verdict | None:
    pairs = ((first, second), (second, first))
    return "different" if any(_RATIO.fullmatch(a) and b.isdigit() for a, b in pairs) else None


def _ratios(first: str, second: str) -> Verdict | None:
    ratios = [[int(part) for part in text.split(":")] if _RATIO.fullmatch(text) else [] for text in (first, second)]
    return verdict_of(_same_ratio(*ratios)) if all(len(ratio) > 2 for ratio in ratios) else None


def _substances(first: str, second: str) -> Verdict | None:
    substances = [_SUBSTANCE.fullmatch(text) and re.sub(r"[_^{}]", "", text) for text in (first, second)]
    return verdict_of(substances[0] == substances[1]) if any(substances) else None


def _shells(first: str, second: str) -> Verdict | None:
    """Configurations of electrons."""
    shells = [_SHELLS.fullmatch(text) and re.findall(r"(\d[spdf])\^?\{?(\d+)", text) for text in (first, second)]
    return verdict_of(shells[0] == shells[1]) if all(shells) else None


def _reactions(first: str, second: str) -> Verdict | None:
    """Equations of chemistry: the substances of a side may be in any order."""
    if not all(_REACTION.fullmatch(text) for text in (first, second)):
        return None
    sides = [
        [sorted(re.sub(r"[_{} ]", "", term) for term in re.split(r"(?<!\^)\+(?=[A-Z\d(])", side)) for side in text.split("->")]
        for text in (first, second)
    ]
    return verdict_of(sides[0] == sides[1])


def _sets(first: str, second: str) -> Verdict | None:
    """Sets by their names, joined by one sign: in any order."""
    if not all(_SETS.fullmatch(text) for text in (first, second)):
        return None
    same_sign = ("\\cap" in first) == ("\\cap" in second)
    names = [set(re.findall(r"[A-Z](?:'|\^c)?", text)) for text in (first, second)]
    return verdict_of(same_sign and names[0] == names[1])


def _matrices(first: str, second: str) -> Verdict | None:
    matrices = [_MATRIX.fullmatch(text) for text in (first, second)]
    return _same_matrices(*(match[1] for match in matrices if match)) if all(matrices) else None


def _numbers_in_bases(first: str, second: str) -> Verdict | None:
    bases = [_in_base(text) for text in (first, second)]
    return verdict_of(bases[0] == bases[1]) if any(bases) else None


def _lists(first: str, second: str) -> Verdict | None:
    lists = [_elements(text) for text in (first, second)]
    has_relation = any(_RELATION.search(text) for text in (first, second))
    return _same_lists(*lists) if any(lists) and not has_relation else None


def _relations(first: str, second: str) -> Verdict | None:
    return "different" if _LEADING_RELATION.match(first) or _LEADING_RELATION.match(second) else None


def _names(first: str, second: str) -> Verdict | None:
    """Values of two unknowns. Not a = b and b = a, which math-verify compares."""
    names = [match and match[1] for match in (_NAMED.match(text) for text in (first, second))]
    single = all(name is not None and re.fullmatch(r"[A-Za-z]", name) for name in names)
    if single and names[0] != names[1] and str(names[0]) not in second and str(names[1]) not in first:
        return "different"
    return None


FORMS = (
    Form("times of a day", ("5:30 p.m.", "5:30 PM", "equal"), _times),
    Form("durations", ("2 hours 30 minutes", "2.5 hours", "equal"), _durations),
    Form("points", (r"\angle ABC", r"\angle CBA", "different"), _points),
    Form("sets by their names", (r"A \cap B", r"B \cap A", "equal"), _sets),
    Form("a modulus on one side", (r"5 \pmod{7}", "5", "different"), _modulus),
    Form("dates", ("2024-03-05", "March 5, 2024", "equal"), _dates),
    Form("a ratio and a number", ("10:1", "10", "different"), _ratio_and_number),
    Form("ratios of three and more", ("1:2:3", "2:4:6", "equal"), _ratios),
    Form("substances", ("H_2O", "H2O", "equal"), _substances),
    Form("configurations of electrons", ("1s^2 2s^2 2p^6", "1s2 2s2 2p6", "equal"), _shells),
    Form("reactions", ("O2 + 2H2 -> 2H2O", r"2H_2 + O_2 \to 2H_2O", "equal"), _reactions),
    Form(
        "matrices",
        (r"\begin{pmatrix} 0.5 \\ 2 \end{pmatrix}", r"\begin{pmatrix} \frac{1}{2} \\ 2 \end{pmatrix}", "equal"),
        _matrices,
    ),
    Form("numbers of other bases", ("52_8", "52 base 8", "equal"), _numbers_in_bases),
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
        same_text_without_unit = unit == "percent" and share == number and abs(share) > 1
        return verdict_of(share / SHARES[unit] == number or same_text_without_unit)
    measures = [measure(side.unit) for side in (first, second) if side.unit]
    if len(measures) == 2 and measures[0] is not None and measures[1] is not None:
        (size, kinds), (expected_size, expected_kinds) = measures
        return verdict_of(kinds == expected_kinds and value * size == expected * expected_size)
    return verdict_of(value == expected and units_agree(first.unit, second.unit))


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
        return "different"
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
    is_readable = [is_formula(side.text) or exact_value(side.text) is not None for side in (first, second)]
    return None if all(is_readable) else "different"


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
    if not (first[0] in free and all(_is_countable(element) for element in second[1])):
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


def _is_countable(text: str) -> bool:
    """Whether an element of a list is a number, with a unit or without, or a formula."""
    value, unit = split_unit(text)
    return is_formula(text) or exact_value(text) is not None or (unit != "" and exact_value(value) is not None)


def _element(first: str, second: str) -> Verdict:
    return "equal" if same_text(first, second) else same_values(first, second)
