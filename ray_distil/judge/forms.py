r"""Rules for answers in forms of their own: times, dates, durations, ratios, substances, sets, numbers of other bases.

Each rule has an example with its verdict; a test compares all of them. `rules.py` has the forms whose parts are answers
themselves, as lists and matrices, and tries all rules in their order.
"""

import re
from collections.abc import Callable, Iterable
from typing import NamedTuple

from ray_distil.judge.math_process import Verdict
from ray_distil.judge.measures import seconds_of
from ray_distil.judge.quantities import exact_value

_BASE = re.compile(r"\(?([0-9][0-9A-F]*|[A-F][0-9A-F]*[0-9][0-9A-F]*)\)?_\{? ?\(?(\d{1,2}|[a-z]+)\)? ?\}?")
_IN_BASE = re.compile(r" \(?(?:in )?base[- ](\d{1,2}|[a-z]+)\)?$")
_BASES = {"two": "2", "three": "3", "four": "4", "five": "5", "six": "6", "seven": "7", "eight": "8", "nine": "9"}
_TIME = re.compile(r"(\d{1,2}(?::\d{2})*) ?([ap])\.? ?m\.?", re.I)
_NAMES = re.compile(
    r"\\(?:angle|triangle|overline\{[A-Z]|overrightarrow|widehat|vec|parallel|perp)"
)  # behind these, letters name points and are no product
_DATE = re.compile(
    r"\d+(?:\.\d+){2,}|\d{4}([-/.])\d{1,2}\1\d{1,2}|\d{1,2}([/.])\d{1,2}\2\d{2,4}|\d{1,2}:\d{2}(?::\d{2})?(?: ?[ap]\.?m\.?)?",
    re.I,
)
_RATIO = re.compile(r"\d+(?: ?: ?\d+)+")
_TWO_PARTS = re.compile(r"(\d+) ?: ?(\d+)")
_FRACTION = re.compile(r"/|\\frac")
_SUBSTANCE = re.compile(
    r"(?=.*[A-Za-z]_?\{?\d)(?:[A-Z][a-z]?(?:_?\{?\d+\}?)?){2,}|(?:[A-Z][a-z]?(?:_?\{?\d+\}?)?)+\^?\{?\d*[+-]\}?"
)  # H2O, SO4^{2-}: no product of letters
_SYMBOLS = re.compile(r"\d*(?:[A-Z][a-z]?_?\{?\d*\}?)+(?:\^?\{?\d*[+-]\}?)?")  # of elements: also CO, 2CO and No2
_SHELLS = re.compile(r"(?:\d[spdf]\^?\{?\d{1,2}\}? ?){2,}")  # 1s^2 2s^2 2p^6
_ARROW = re.compile(r"\\(?:long|Long)?(?:right|Right)arrow(?![A-Za-z]) ?|\\to(?![A-Za-z]) ?|-+>|→|⟶")
_REACTION = re.compile(r"[A-Za-z0-9_^{}()+ -]+->[A-Za-z0-9_^{}()+ -]+")
_SETS = re.compile(r"[A-Z](?:'|\^c)?(?:(?: ?\\cap ?[A-Z](?:'|\^c)?)+|(?: ?\\cup ?[A-Z](?:'|\^c)?)+)")
_ISO_DATE = re.compile(r"(\d{4})-(\d{1,2})-(\d{1,2})")
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_MONTH = r"(jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*\.?"
_NAMED_DATE = re.compile(
    rf"{_MONTH} (\d{{1,2}})(?:st|nd|rd|th)?(?:[,;]? ?(\d{{4}}))?|(\d{{1,2}})(?:st|nd|rd|th)?(?: of)? {_MONTH}(?:,? ?(\d{{4}}))?",
    re.I,
)
_CLOCK = re.compile(r"(\d{1,2}):(\d{2})")
_MODULO = re.compile(r"\\[pb]?mod(?![A-Za-z])|(?<![A-Za-z])mod(?![A-Za-z])")


class Form(NamedTuple):
    """A rule for a form. `decide(first, second)`: the verdict, or None for answers of other forms."""

    name: str
    example: tuple[str, str, Verdict]
    decide: Callable[[str, str], Verdict | None]


def verdict_of(equal: bool) -> Verdict:
    return "equal" if equal else "different"


def verdict_of_all(verdicts: Iterable[Verdict]) -> Verdict:
    """The verdict on two answers by those on their parts, which must all be equal. The first certain no decides."""
    doubt: Verdict = "equal"
    for verdict in verdicts:
        if verdict in ("different", "timeout"):  # the next parts may take as long
            return verdict
        doubt = verdict if doubt == "equal" else doubt
    return doubt


def verdict_beside(text: str) -> Verdict:
    """The verdict on an answer in a form of its own, beside a text that is not in it. A plain number is another answer."""
    return verdict_of(False) if exact_value(text) is not None else "unclear"


def _times(first: str, second: str) -> Verdict | None:
    """Times of which one has a.m. or p.m.; the other may count 24 hours."""
    if not any(_TIME.fullmatch(text) for text in (first, second)):
        return None
    times = [_minutes(text) for text in (first, second)]
    if None not in times:
        return verdict_of(times[0] == times[1])

    # One side is no time, or does not say which half of the day it is.
    text, time = (first, times[1]) if times[0] is None else (second, times[0])
    clock = _CLOCK.fullmatch(text)
    if clock is None or not isinstance(time, int):
        return verdict_beside(text)
    return "different" if (60 * int(clock[1]) + int(clock[2]) - time) % 720 else "unclear"


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
    """Letters that name points are no product: only equal texts are equal. The same points in another order may be."""
    if not (_NAMES.search(first) or _NAMES.search(second)):
        return None
    points = [sorted(re.findall(r"[A-Z]", text)) for text in (first, second)]
    return "unclear" if points[0] == points[1] else "different"


def _modulus(first: str, second: str) -> Verdict | None:
    return "different" if bool(_MODULO.search(first)) != bool(_MODULO.search(second)) else None


def _dates(first: str, second: str) -> Verdict | None:
    """Dates. Where the order of day and month cannot be known, only equal texts are equal."""
    dates = [_date(text) for text in (first, second)]
    if all(dates):
        return verdict_of(dates[0] == dates[1])
    are_like_dates = [
        date is not None or bool(_DATE.fullmatch(text)) for date, text in zip(dates, (first, second), strict=True)
    ]
    if not any(are_like_dates):
        return None
    if not all(are_like_dates):
        return verdict_beside(first if are_like_dates[1] else second)

    # The same numbers in another order may be the same day.
    numbers = [
        sorted(int(n) % 100 for n in date or re.findall(r"\d+", text))
        for date, text in zip(dates, (first, second), strict=True)
    ]
    return "unclear" if numbers[0] == numbers[1] else "different"


def _date(text: str) -> tuple[int, int, int] | None:
    """(year, month, day) of 2024-03-05 or "March 5, 2024"; the year is 0 where it is not said."""
    if match := _ISO_DATE.fullmatch(text):
        return int(match[1]), int(match[2]), int(match[3])
    if (match := _NAMED_DATE.fullmatch(text)) is None:
        return None
    month, day, year = match.groups()[:3] if match[1] else (match[5], match[4], match[6])
    return int(year or 0), _MONTHS.index(month.lower()) + 1, int(day)


def _ratio_and_fraction(first: str, second: str) -> Verdict | None:
    """A ratio of two numbers is their quotient: 9:10, which may also be a time of a day, and 9/10."""
    for ratio, fraction in ((first, second), (second, first)):
        match, value = _TWO_PARTS.fullmatch(ratio), exact_value(fraction) if _FRACTION.search(fraction) else None
        if match is not None and value is not None:
            return verdict_of(int(match[1]) == value * int(match[2]))
    return None


def _ratio_and_number(first: str, second: str) -> Verdict | None:
    pairs = ((first, second), (second, first))
    return "different" if any(_RATIO.fullmatch(a) and b.isdigit() for a, b in pairs) else None


def _ratios(first: str, second: str) -> Verdict | None:
    ratios = [[int(part) for part in text.split(":")] if _RATIO.fullmatch(text) else [] for text in (first, second)]
    return verdict_of(_same_ratio(*ratios)) if all(len(ratio) > 2 for ratio in ratios) else None


def _same_ratio(first: list[int], second: list[int]) -> bool:
    """Whether two ratios are the same, as 1:2:3 and 2:4:6 are: by the products of parts, crosswise."""
    return len(first) == len(second) and all(a * second[0] == b * first[0] for a, b in zip(first, second, strict=True))


def _substances(first: str, second: str) -> Verdict | None:
    substances = [_SUBSTANCE.fullmatch(text) and re.sub(r"[_^{}]", "", text) for text in (first, second)]
    if all(substances):
        return verdict_of(substances[0] == substances[1])
    if not any(substances):
        return None
    text = second if substances[0] else first
    return "different" if _SYMBOLS.fullmatch(text) else verdict_beside(text)


def _shells(first: str, second: str) -> Verdict | None:
    """Configurations of electrons."""
    shells = [_SHELLS.fullmatch(text) and re.findall(r"(\d[spdf])\^?\{?(\d+)", text) for text in (first, second)]
    return verdict_of(shells[0] == shells[1]) if all(shells) else None


def _reactions(first: str, second: str) -> Verdict | None:
    """Equations of chemistry: the substances of a side may be in any order."""
    reactions = [_ARROW.sub("->", text) for text in (first, second)]
    if not all(_REACTION.fullmatch(text) for text in reactions):
        return None
    sides = [
        [
            sorted(re.sub(r"[_{} ]", "", term) for term in re.split(r"(?<!\^)\+(?=[A-Z\d(])", side))
            for side in text.split("->")
        ]
        for text in reactions
    ]
    return verdict_of(sides[0] == sides[1])


def _sets(first: str, second: str) -> Verdict | None:
    """Sets by their names, joined by one sign: in any order."""
    if not all(_SETS.fullmatch(text) for text in (first, second)):
        return None
    same_sign = ("\\cap" in first) == ("\\cap" in second)
    names = [set(re.findall(r"[A-Z](?:'|\^c)?", text)) for text in (first, second)]
    return verdict_of(same_sign and names[0] == names[1])


def _numbers_in_bases(first: str, second: str) -> Verdict | None:
    bases = [_in_base(text) for text in (first, second)]
    if all(bases):
        return verdict_of(bases[0] == bases[1])
    return verdict_beside(second if bases[0] else first) if any(bases) else None


def _in_base(text: str) -> tuple[str, str] | None:
    """`(digits, base)` of a number such as 52_8 or "52 base 8"; None for any other text."""
    text = _IN_BASE.sub(r"_{\1}", text)
    match = _BASE.fullmatch(text)
    return (match[1].lstrip("0"), _BASES.get(match[2], match[2])) if match else None


FORMS = (
    Form("times of a day", ("5:30 p.m.", "5:30 PM", "equal"), _times),
    Form("durations", ("2 hours 30 minutes", "2.5 hours", "equal"), _durations),
    Form("points", (r"\angle ABC", r"\angle CBA", "unclear"), _points),
    Form("sets by their names", (r"A \cap B", r"B \cap A", "equal"), _sets),
    Form("a modulus on one side", (r"5 \pmod{7}", "5", "different"), _modulus),
    Form("a ratio and a fraction", ("9:10", r"\frac{9}{10}", "equal"), _ratio_and_fraction),
    Form("dates", ("2024-03-05", "March 5, 2024", "equal"), _dates),
    Form("a ratio and a number", ("10:1", "10", "different"), _ratio_and_number),
    Form("ratios of three and more", ("1:2:3", "2:4:6", "equal"), _ratios),
    Form("substances", ("H_2O", "H2O", "equal"), _substances),
    Form("configurations of electrons", ("1s^2 2s^2 2p^6", "1s2 2s2 2p6", "equal"), _shells),
    Form("reactions", ("O2 + 2H2 -> 2H2O", r"2H_2 + O_2 \to 2H_2O", "equal"), _reactions),
    Form("numbers of other bases", ("52_8", "52 base 8", "equal"), _numbers_in_bases),
)  # fmt: skip
