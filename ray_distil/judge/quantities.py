r"""Numbers read exactly, the units behind them, and lists of them.

exact_value("3 1/2")                 Fraction(7, 2)
split_unit("15 cm^2")                ("15", "cm^2")
split_unit("\frac{3}{4} miles per hour")  ("\frac{3}{4}", "mile/hour")
"""

import re
from fractions import Fraction

MOST_DIGITS = 4000  # a longer number is not read: Python's own limit is 4,300
_PLAIN = r"(?:\d+(?:\.\d*)?|\.\d+)"
_DECIMAL = re.compile(rf"({_PLAIN})(?:[eE]([-+]?\d+)|(?:\\times|\\cdot|[x*])10\^\{{?([-+]?\d+)\}}?)?")
_POWER_OF_TEN = re.compile(r"10\^\{?([-+]?\d+)\}?")
_RATIO = re.compile(rf"({_PLAIN})/({_PLAIN})")
_LATEX_RATIO = re.compile(rf"\\frac\{{(-?{_PLAIN})\}}\{{(-?{_PLAIN})\}}")
_MIXED = re.compile(r"(\d+) ?(?: (\d+)/(\d+)|\\frac\{(\d+)\}\{(\d+)\})")
_GROUPED = re.compile(r"(?<![\d.,])[1-9]\d{0,2}(?:,\d{3})+(?![\d,])")
MULTIPLIERS = {
    "hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9, "trillion": 10**12, "dozen": 12, "lakh": 10**5,
    "lakhs": 10**5, "crore": 10**7, "crores": 10**7, "mn": 10**6, "bn": 10**9,
}  # fmt: skip
# Words behind a whole number that make a fraction of it: 2 thirds.
FRACTIONS = {
    f"{word}{plural}": Fraction(1, k)
    for k, word in {
        2: "half", 3: "third", 4: "fourth", 5: "fifth", 6: "sixth", 7: "seventh", 8: "eighth", 9: "ninth", 10: "tenth",
        100: "hundredth", 1000: "thousandth",
    }.items()
    for plural in ("", "s")
} | {"quarter": Fraction(1, 4), "quarters": Fraction(1, 4), "halves": Fraction(1, 2)}  # fmt: skip
SHARES = {"percent": 100, "permille": 1000}
POWERS = {"squared": 2, "cubed": 3}
# Words that say something of the number before them: with one of these, what stands behind a number is no unit.
NO_UNITS = {
    "above", "below", "plus", "minus", "over", "under", "times", "root", "factorial", "BC", "BCE", "more", "less", "fewer",
    "than", "or", "if", "when", "mod", "modulo", "divided", "base", "choose",
}  # fmt: skip
SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ", "0123456789+-n")
_REPEATING = re.compile(r"(\d*)\.(\d*)\\overline\{(\d{1,50})\}")
_POWER = re.compile(r"\^\{?(-?\d)\}?$")
_DOT = re.compile(r"(?<=[A-Za-z}]) ?\\cdot ?(?=[A-Za-zΩμ])")  # N \cdot m
_CURRENCY = re.compile(r"^(-?)(US\$|\$|€|£|¥|₹|(?:USD|EUR|GBP|Rs\.?)(?= ?\d)) ?")
_WORD = re.compile(r"[A-Za-z]{2,}(?:-[A-Za-z]+)*|o'clock")
_GLUED = re.compile(rf"^(-?{_PLAIN})(%|[A-Za-z]{{2,}}(?:\^\{{?\d\}}?)?|[kM]?Ω|μ[ms])$")

# Each group has the spellings of one unit; the first one is its name here. Two units of this list never agree.
_SPELLINGS = """
percent % percentage pct|permille ‰|degree degrees deg|radian radians rad|dollar dollars $ usd us$|cent cents|euro euros € eur|
pound pounds £ gbp lb lbs|yen ¥|rupee rupees ₹ rs|second seconds s sec secs|minute minutes min mins|
hour hours h hr hrs|day days d|week weeks|month months|year years yr yrs|
meter meters metre metres m|centimeter centimeters centimetre centimetres cm|millimeter millimeters mm|
kilometer kilometers kilometre kilometres km|inch inches in|foot feet ft|yard yards yd|mile miles mi|
gram grams g|kilogram kilograms kg|milligram milligrams mg|ounce ounces oz|ton tons tonne tonnes|
liter liters litre litres L l|milliliter milliliters millilitre millilitres mL ml|gallon gallons gal|
newton newtons N|joule joules J|watt watts W|kilowatt kilowatts kW|volt volts V|ampere amperes amp amps|
pascal pascals Pa|kilopascal kPa|hertz Hz|kilohertz kHz|megahertz MHz|millisecond milliseconds ms|microsecond microseconds μs|
micrometer micrometers μm um|nanometer nanometers nm|kilonewton kilonewtons kN|kilojoule kilojoules kJ|megawatt megawatts MW|
kilovolt kilovolts kV|millivolt millivolts mV|milliampere mA|ohm ohms Ω|kiloohm kΩ|millimole mmol|
kelvin K|celsius|fahrenheit|mole moles mol|unit units|mile/hour mph|kilometer/hour kmh kph
"""
UNITS = {name: group.split()[0] for group in _SPELLINGS.replace("\n", "").split("|") for name in group.split()}


def ungrouped(text: str) -> str:
    """The text with 1000 for 1,000; commas between other digits stay."""
    return _GROUPED.sub(lambda match: match[0].replace(",", ""), text)


def parts_of(text: str) -> list[str]:
    """The text split at commas and semicolons, but not within brackets or within a number such as 1,000."""
    text = ungrouped(text)
    parts, depth, start = [], 0, 0
    for position, sign in enumerate(text):
        depth += (sign in "([{") - (sign in ")]}")
        if sign in ",;" and depth <= 0 and text[max(0, position - 1)] != "\\":
            parts.append(text[start:position])
            start = position + 1
    return [part for part in (p.strip() for p in [*parts, text[start:]]) if part]


def exact_value(text: str) -> Fraction | None:
    r"""The rational number that a text writes: 12, -3.5, .5, 1,200, 3/4, \frac{3}{4}, 3 1/2, 1e3, 1.2x10^3; else None."""
    text = text.strip()
    negative = text.startswith("-")
    text = ungrouped(text.lstrip("+-").strip())
    if len(text) > MOST_DIGITS:
        return None
    value = _unsigned(text)
    return -value if value is not None and negative else value


def _unsigned(text: str) -> Fraction | None:
    if match := _MIXED.fullmatch(text):
        integer, *parts = (int(part) for part in match.groups() if part is not None)
        return integer + Fraction(*parts) if parts[1] else None
    squeezed = text.replace(" ", "") if re.search(r"[x*/\\^]", text) else text
    if match := _RATIO.fullmatch(squeezed) or _LATEX_RATIO.fullmatch(squeezed):
        above, below = (Fraction(part) for part in match.groups())
        return above / below if below else None
    if match := _POWER_OF_TEN.fullmatch(squeezed):
        exponent = int(match[1])
        return Fraction(10) ** exponent if abs(exponent) <= MOST_DIGITS else None
    if match := _DECIMAL.fullmatch(squeezed):
        exponent = int(match[2] or match[3] or 0)
        return Fraction(match[1]) * Fraction(10) ** exponent if abs(exponent) <= MOST_DIGITS else None
    if match := _REPEATING.fullmatch(squeezed):
        before_point, digits, repeated = match.groups()
        value = Fraction(int(repeated), 10 ** len(repeated) - 1) + int(digits or 0)
        return int(before_point or 0) + value / Fraction(10) ** len(digits)
    return None


def split_unit(text: str) -> tuple[str, str]:
    """`(value, unit)`; the unit is "" where there is none. A currency before the number counts as a unit.

    Behind a plain number, any words are a unit: "12 red apples". Behind a formula, only a known unit is.
    """
    # Units that are not words of their own.
    text = _DOT.sub("*", text)
    if match := _CURRENCY.match(text):
        value, noun = split_unit(text[match.end() :])
        currency = UNITS[match[2].lower().rstrip(".")]
        return match[1] + value, currency if noun in ("", currency) else f"{currency} {noun}"
    if text.endswith(("%", "‰")) and len(text) > 1:
        return text[:-1].strip(), "percent" if text.endswith("%") else "permille"
    if (match := _GLUED.match(text)) and _POWER.sub("", match[2]) in UNITS:
        return match[1], _unit(match[2])

    # Three million, 2 thirds, 5 squared: the word belongs to the number.
    words = text.split(" ")
    number = exact_value(words[0]) if len(words) > 1 else None
    if number is not None and words[1] in MULTIPLIERS:
        return split_unit(" ".join([str(number * MULTIPLIERS[words[1]]), *words[2:]]))
    if number is not None and number.denominator == 1 and words[1] in FRACTIONS:
        return split_unit(" ".join([str(number * FRACTIONS[words[1]]), *words[2:]]))
    if number is not None and words[1] in POWERS:
        return split_unit(" ".join([str(number ** POWERS[words[1]]), *words[2:]]))
    if not NO_UNITS.isdisjoint(words[1:]):
        return text, ""

    # Where the value ends and the unit begins.
    for start in range(1, len(words)):
        value, unit_words = " ".join(words[:start]), words[start:]
        are_units = _are_known(unit_words)
        if are_units or (
            exact_value(value) is not None and all(_WORD.fullmatch(word.strip(".,")) for word in unit_words)
        ):
            return value, _unit(" ".join(unit_words))
    return text, ""


def _are_known(words: list[str]) -> bool:
    parts = [part for word in words for part in re.split(r"[/*]", word) if part]
    names = [_POWER.sub("", part.rstrip(".")) for part in parts]
    joining = ("per", "square", "cubic", "squared", "cubed", "sq", "a", "an")
    return (
        bool(names)
        and not words[0].startswith(("/", "*"))
        and any(name in UNITS for name in names)
        and all(n in UNITS or n in joining for n in names)
    )


def _unit(text: str) -> str:
    """The unit in one spelling: "square miles" and "mi^2" are "mile^2", "m per s" is "meter/second"."""
    text = re.sub(r"\bsq(?:uare)?\.? (\w+)", r"\1^2", text)
    text = re.sub(r"\bcubic (\w+)", r"\1^3", text)
    text = re.sub(r" squared\b", "^2", re.sub(r" cubed\b", "^3", text))
    text = re.sub(r" (?:per|an?) ", "/", text.replace("{", "").replace("}", ""))

    def name(match: "re.Match[str]") -> str:
        # In a short symbol the case matters: mW is not MW. It does not in Km and KM.
        symbol = match[0]
        is_plain = len(symbol) > 3 or symbol.isupper() or symbol[0] == "K"
        return UNITS.get(symbol) or (UNITS.get(symbol.lower()) or symbol.lower() if is_plain else symbol)

    return re.sub(r"[A-Za-zΩμ$%€£¥₹]+", name, text).strip(" .,")


def units_agree(first: str, second: str) -> bool:
    """Whether two units may be the same. A missing unit agrees with any other.

    Plain nouns agree if their last words are the same and one has all words of the other.
    """
    if not first or not second or first == second:
        return True
    if not {first, second}.isdisjoint(SHARES):
        return False
    (currency, _, noun), (other_currency, _, other_noun) = first.partition(" "), second.partition(" ")
    if currency == other_currency and currency in UNITS.values():  # $12 and $12 profit
        return not (noun and other_noun) or _singular(noun.split()[-1]) == _singular(other_noun.split()[-1])
    if {_POWER.sub("", part) for unit in (first, second) for part in unit.split("/")} & set(UNITS.values()):
        return False
    words = [{_singular(word) for word in unit.split()} for unit in (first, second)]
    same_last = _singular(first.split()[-1]) == _singular(second.split()[-1])
    return same_last and (words[0] <= words[1] or words[1] <= words[0])  # red apples are apples, and no green ones


def _singular(word: str) -> str:
    return word.removesuffix("es") if word.endswith(("ches", "xes", "ses")) else word.removesuffix("s")
