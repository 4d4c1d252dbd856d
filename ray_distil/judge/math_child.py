"""The process in which math-verify compares two formulas: one line of JSON in, one word out.

`math_process.py` runs this file as a script. It imports nothing of this package. When a pair takes more than its
processor time, the kernel ends the process. Python itself could not: a power such as 10^{10^{10}} never returns to it.
"""

import itertools
import json
import re
import resource
import signal
import sys
from typing import Any

MEMORY = 4 << 30  # bytes of address space: a number with billions of digits raises MemoryError
POINTS = [-7, -3, -2, -1, -0.5, 0.25, 0.5, 1.5, 2, 3, 5, 11]  # where formulas with variables are compared
DIGITS = 40


def same_numbers(first: Any, second: Any) -> bool | None:
    """Whether two numbers are equal; None where one of them has no value."""
    import sympy

    # sympy's `doit` never ends on a sum whose limit is no whole number.
    exact = [side if side.has(sympy.Sum, sympy.Product) else side.doit() for side in (first, second)]
    if all(value.is_Rational for value in exact):
        return bool(exact[0] == exact[1])
    values = [sympy.N(expression, DIGITS, maxn=4 * DIGITS) for expression in (first, second)]
    if not all(value.is_number and value.is_finite for value in values):
        return None
    size = max(abs(value) for value in values)
    # A relative difference: 2**-98 is not 2**-99, though both are nearly 0.
    return bool(size == 0 or abs(values[0] - values[1]) <= size * sympy.Float(10, DIGITS) ** (10 - DIGITS))


def same_formulas(first: Any, second: Any) -> bool | None:
    """Whether two expressions have the same values at those of the POINTS where both are real. None where that does not
    decide: at a point only one is real, or fewer than 3 points are left.
    """
    import sympy

    symbols = first.free_symbols | second.free_symbols
    if {symbol.name for symbol in symbols} == {"i"}:  # the imaginary unit, where there is no other letter
        first, second = (side.subs(dict.fromkeys(symbols, sympy.I)) for side in (first, second))
        symbols = set()
    if not symbols:
        return same_numbers(first, second)
    compared = 0
    for shift in range(len(POINTS)):
        at = {
            symbol: sympy.nsimplify(POINTS[(shift + 5 * k) % len(POINTS)])
            for k, symbol in enumerate(sorted(symbols, key=str))
        }
        values = [expression.subs(at) for expression in (first, second)]
        real = [sympy.N(value, DIGITS).is_real for value in values]
        if real != [True, True]:
            if real[0] != real[1]:
                return None
            continue
        if same_numbers(*values) is not True:
            return False
        compared += 1
    return True if compared >= 3 else None


def is_whole(parsed: list[Any], text: str) -> bool:
    """Whether math-verify read all letters and digits of a text. E.g. it cannot read "2ab", and takes only the 2.

    The last element of `parsed` is the part of the text that math-verify took: it must have all letters and digits.
    The first is the expression that it understood: it must have all letters of the text, e and i apart.
    """
    import sympy

    if not parsed or letters(str(parsed[-1])) != letters(text) or "'" in text:
        return False
    if not isinstance(parsed[0], sympy.Expr | sympy.Eq) or re.search(r"\\(?:sum|int|prod|lim)", text):
        return True
    written = re.sub(r"\\[A-Za-z]+", "", text)
    return {sign for sign in written.lower() if sign.isalpha()} - {"e", "i"} <= set(str(parsed[0]).lower())


def is_multiple(first: Any, second: Any) -> bool:
    """Whether one expression is the other times a number that is not 0. So x - y = 1 and 2x - 2y = 2 agree."""
    import sympy

    symbols = first.free_symbols | second.free_symbols
    at = {symbol: sympy.Rational(7 + 4 * k, 3 + k) for k, symbol in enumerate(sorted(symbols, key=str))}
    values = [side.subs(at) for side in (first, second)]
    if any(same_numbers(value, sympy.Integer(0)) is not False for value in values):
        return same_formulas(first, second) is True
    return same_formulas(first * values[1], second * values[0]) is True


def with_blanks(text: str) -> str:
    """The text with a blank between neighbouring letters, since they are factors: 2ab becomes 2a b."""
    return re.sub(r"\\[A-Za-z]+|[A-Za-z]{2,}", lambda run: run[0] if run[0][0] == "\\" else " ".join(run[0]), text)


def multiplied(text: str) -> str:
    """The text with \\cdot between number and letters, and between letters: of "2ab" math-verify reads only the 2."""
    return (
        re.sub(r"(?<=[0-9A-Za-z]) ?(?=[A-Za-z](?![A-Za-z]))", r" \\cdot ", with_blanks(text))
        if "\\" not in text
        else text
    )


def letters(text: str) -> list[str]:
    return sorted(re.sub(r"\\[A-Za-z]+|[^A-Za-z0-9]", "", text))


def compare(answer: str, reference: str) -> str:
    import sympy
    from math_verify import parse

    # No timeout here: `main` limits the time. math-verify's own limit needs SIGALRM, and cannot stop long arithmetic.
    parsed = []
    for text in (reference, answer):
        read = next(
            (
                parsed_form
                for form in (text, with_blanks(text), multiplied(text))
                if is_whole(parsed_form := parse(f"${form}$", parsing_timeout=None), text)
            ),
            None,
        )
        if read is None:
            return "unclear"
        parsed.append(read)
    expected, stated = parsed
    pair = (stated[0], expected[0])
    equations = [side for side in pair if isinstance(side, sympy.Eq)]
    if len(equations) == 1:
        (equation,) = equations
        if not isinstance(equation.lhs, sympy.Symbol | sympy.core.function.AppliedUndef):
            return "different"  # 2x + 3y = 6, and 6
        pair = tuple(side.rhs if side is equation else side for side in pair)
    elif len(equations) == 2:
        sides = [side.lhs - side.rhs for side in equations]
        return "equal" if is_multiple(*sides) else "different"
    same = None
    if all(isinstance(side, sympy.Expr) for side in pair):
        same = same_formulas(*pair)
    elif all(isinstance(side, sympy.MatrixBase) for side in pair):
        same = pair[0].shape == pair[1].shape and all(map(same_formulas, *pair))
    return verified(expected, stated) if same is None else "equal" if same else "different"


def verified(expected: list[Any], stated: list[Any]) -> str:
    """math-verify's own verdict on two parsed texts. "unclear": it took one of them for no formula, or failed on them."""
    from math_verify import verify

    has_failed = any(isinstance(side[0], str) for side in (expected, stated))
    for pair in itertools.product(expected, stated):
        try:
            if verify(*pair, allow_set_relation_comp=True, timeout_seconds=None, raise_on_error=True):
                return "equal"
        except MemoryError:
            raise
        except Exception:  # noqa: BLE001  sympy may raise any error; another pair may still be equal
            has_failed = True
    return "unclear" if has_failed else "different"


def main(seconds: float) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    import math_verify  # noqa: F401  seconds, once

    print("ready", flush=True)
    for line in sys.stdin:
        signal.setitimer(signal.ITIMER_PROF, seconds)  # no handler: the kernel ends the process
        try:
            verdict = compare(*json.loads(line))
        except MemoryError:
            verdict = "timeout"
        except Exception:  # noqa: BLE001  on an arbitrary text, a parser of formulas may raise any error
            verdict = "unclear"
        signal.setitimer(signal.ITIMER_PROF, 0)
        print(verdict, flush=True)


if __name__ == "__main__":
    main(float(sys.argv[1]))
