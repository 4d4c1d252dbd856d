"""A judge of one's own: a decimal number that is the reference rounded, as 0.333 for 1/3, is right too.

ray-distil distill answers.judge=examples.my_judges:rounded
"""

import re
from fractions import Fraction

from ray_distil.judge.agreement import compare_answers

DECIMAL = re.compile(r"-?\d+\.(\d+)")
NUMBER = re.compile(r"-?\d+(?:\.\d+|/[1-9]\d*)?")


def rounded(answer: str, reference: str, problem: str) -> bool | None:
    """Whether a stated answer equals the reference; None where that cannot be read. `problem`: the text of the problem."""
    verdict = compare_answers(answer, reference)  # as without this judge: "equal", "different", "unclear" or "timeout"
    if verdict == "different" and (decimal := DECIMAL.fullmatch(answer)) and NUMBER.fullmatch(reference):
        return abs(Fraction(answer) - Fraction(reference)) <= Fraction(1, 2 * 10 ** len(decimal[1]))
    return {"equal": True, "different": False}.get(verdict)
