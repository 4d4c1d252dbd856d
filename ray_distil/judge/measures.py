r"""Units as products of powers, so that quantities in different units of one kind are compared exactly.

measure("kilometer/hour")     (Fraction(5, 18), {"m": 1, "s": -1})
measure("meter second^-2")    (Fraction(1), {"m": 1, "s": -2})
measure("apples")             None
seconds_of("2 hours 30 minutes")   Fraction(9000)
"""

import re
from collections import Counter
from fractions import Fraction

from ray_distil.judge.quantities import UNITS, exact_value, split_unit

INCH = Fraction(254, 10_000)
# Unit -> its size in the base unit of its kind.
_KINDS: dict[str, dict[str, Fraction]] = {
    "s": {"second": Fraction(1), "minute": Fraction(60), "hour": Fraction(3600), "day": Fraction(86_400),
          "week": Fraction(604_800), "millisecond": Fraction(1, 1000), "microsecond": Fraction(1, 10**6)},
    "month": {"month": Fraction(1), "year": Fraction(12)},
    "m": {"meter": Fraction(1), "centimeter": Fraction(1, 100), "millimeter": Fraction(1, 1000),
          "micrometer": Fraction(1, 10**6), "nanometer": Fraction(1, 10**9), "kilometer": Fraction(1000),
          "inch": INCH, "foot": 12 * INCH, "yard": 36 * INCH, "mile": 63_360 * INCH},
    "g": {"gram": Fraction(1), "kilogram": Fraction(1000), "milligram": Fraction(1, 1000), "ton": Fraction(10**6)},
    "mol": {"mole": Fraction(1), "millimole": Fraction(1, 1000)},
    "J": {"joule": Fraction(1), "kilojoule": Fraction(1000)},
    "W": {"watt": Fraction(1), "kilowatt": Fraction(1000), "megawatt": Fraction(10**6)},
    "N": {"newton": Fraction(1), "kilonewton": Fraction(1000)},
    "V": {"volt": Fraction(1), "millivolt": Fraction(1, 1000), "kilovolt": Fraction(1000)},
    "A": {"ampere": Fraction(1), "milliampere": Fraction(1, 1000)},
    "Pa": {"pascal": Fraction(1), "kilopascal": Fraction(1000)},
    "Hz": {"hertz": Fraction(1), "kilohertz": Fraction(1000), "megahertz": Fraction(10**6)},
    "ohm": {"ohm": Fraction(1), "kiloohm": Fraction(1000)},
    "K": {"kelvin": Fraction(1)},
    "dollar": {"dollar": Fraction(1), "cent": Fraction(1, 100)},
}  # fmt: skip
_SIZES = {unit: (kind, size) for kind, units in _KINDS.items() for unit, size in units.items()}
_SIZES["liter"], _SIZES["milliliter"] = ("l", Fraction(1, 1000)), ("l", Fraction(1, 10**6))
_FACTOR = re.compile(r"([^\W\d_]+|Ω)(?:\^\{?(-?\d)\}?)?")
_PART = re.compile(r"(\d+(?:\.\d+)?|\d+ \d+/\d+) ([a-z]+)")


def measure(unit: str) -> tuple[Fraction, dict[str, int]] | None:
    """`(size, kinds)` of a unit in the spelling of `quantities.split_unit`; None where a part of it is not known.

    A liter is a volume: its kind is that of a meter, to the power of 3.
    """
    size, kinds = Fraction(1), Counter[str]()
    sign = 1
    for part in re.split(r"(/)| |\*|\\cdot ?", unit):
        if part == "/":
            sign = -1
            continue
        if not part:
            continue
        factor = _FACTOR.fullmatch(part)
        known_unit = _SIZES.get(UNITS.get(factor[1], factor[1])) if factor else None
        if factor is None or known_unit is None:
            return None
        power = sign * int(factor[2] or 1)
        kind, base = known_unit
        size *= base**power
        kinds.update({"m": 3 * power} if kind == "l" else {kind: power})
    return size, {kind: power for kind, power in kinds.items() if power}


def seconds_of(text: str) -> Fraction | None:
    """The seconds of a duration in one or more units, e.g. "2 hours and 30 minutes"; None for any other text."""
    parts = re.split(r",? and |, ?|; ?| (?=\d)", text)
    total = Fraction(0)
    for part in parts:
        value, unit = split_unit(part)
        number, scale = exact_value(value), _SIZES.get(unit)
        if number is None or scale is None or scale[0] != "s":
            return None
        total += number * scale[1]
    return total
