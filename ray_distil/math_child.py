"""The process in which math-verify compares two formulas: one line of JSON in, one word out.

Run as a script by `math_process.py`. It imports nothing of this package. The kernel ends it when a pair takes more than
its processor time, whatever the process is doing: a power such as 10^{10^{10}} never comes back to Python.
"""

import json
import re
import resource
import signal
import sys
from typing import Any

MEMORY = 4 << 30  # bytes of address space: a number with billions of digits ends with an error
POINTS = [-7, -3, -2, -1, -0.5, 0.25, 0.5, 1.5, 2, 3, 5, 11]  # where formulas with variables are compared
DIGITS = 40


def same_numbers(one: Any, other: Any) -> bool | None:
    """Whether two numbers are equal; None where one of them has no value."""
    import sympy

    values = [sympy.N(expression, DIGITS, maxn=4 * DIGITS) for expression in (one, other)]
    if not all(value.is_number and value.is_finite for value in values):
        return None
    size = max(abs(value) for value in values)
    # Relative: 2**-98 is not 2**-99, though both are nearly nothing.
    return bool(size == 0 or abs(values[0] - values[1]) <= size * sympy.Float(10, DIGITS) ** (10 - DIGITS))


def same_formulas(one: Any, other: Any) -> bool | None:
    """Whether two expressions have the same values wherever both are real; None where that cannot be told."""
    import sympy

    symbols = one.free_symbols | other.free_symbols
    if {symbol.name for symbol in symbols} == {"i"}:  # the imaginary unit, where there is no other letter
        one, other = (side.subs(dict.fromkeys(symbols, sympy.I)) for side in (one, other))
        symbols = set()
    if not symbols:
        return same_numbers(one, other)
    if one.free_symbols != other.free_symbols:
        return None
    compared = 0
    for shift in range(len(POINTS)):
        at = {
            symbol: sympy.nsimplify(POINTS[(shift + 5 * k) % len(POINTS)])
            for k, symbol in enumerate(sorted(symbols, key=str))
        }
        values = [expression.subs(at) for expression in (one, other)]
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
    """Whether all letters and digits of a text were read: of "2ab", which it does not know, math-verify takes the 2."""
    return bool(parsed) and letters(str(parsed[-1])) == letters(text)


def apart(text: str) -> str:
    """The text with a blank between letters that stand together, which are factors: 2ab is 2 a b."""
    return re.sub(r"\\[A-Za-z]+|[A-Za-z]{2,}", lambda run: run[0] if run[0][0] == "\\" else " ".join(run[0]), text)


def letters(text: str) -> list[str]:
    return sorted(re.sub(r"\\[A-Za-z]+|[^A-Za-z0-9]", "", text))


def compare(answer: str, reference: str) -> str:
    import sympy
    from math_verify import parse, verify

    # The time is this process's own: math-verify's limit needs SIGALRM and does not reach into long arithmetic.
    parsed = []
    for text in (reference, answer):
        read = next(
            (made for form in (text, apart(text)) if is_whole(made := parse(f"${form}$", parsing_timeout=None), text)),
            None,
        )
        if read is None:
            return "unreadable"
        parsed.append(read)
    expected, given = parsed
    pair = (given[0], expected[0])
    if any(isinstance(side, sympy.Eq) for side in pair) and not all(isinstance(side, sympy.Eq) for side in pair):
        pair = tuple(side.rhs if isinstance(side, sympy.Eq) else side for side in pair)
    same = None
    if all(isinstance(side, sympy.Expr) for side in pair):
        same = same_formulas(*pair)
    elif all(isinstance(side, sympy.MatrixBase) for side in pair):
        same = pair[0].shape == pair[1].shape and all(map(same_formulas, *pair))
    if same is None:
        same = verify(expected, given, allow_set_relation_comp=True, timeout_seconds=None)
    return "equal" if same else "different"


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
        except Exception:  # noqa: BLE001  what a parser of formulas raises on any text has no list
            verdict = "unreadable"
        signal.setitimer(signal.ITIMER_PROF, 0)
        print(verdict, flush=True)


if __name__ == "__main__":
    main(float(sys.argv[1]))
