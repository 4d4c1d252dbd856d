"""Answers that the judge cannot read: never equal, never wrong without doubt, and counted apart."""

import pytest

from ray_distil.judge.agreement import answers_agree, compare_answers
from ray_distil.judge.gates import GATES, REASONS, first_reason

UNCLEAR = {
    "words beside a value": [
        ("five", "5"), ("12 (a dozen)", "a dozen"), ("x = 5", "five"), ("1, 2, 3", "the first three"), ("True", "1"),
        ("no solution", "the equation has no roots"), ("Option B", "B"), ("10 or more", "10"),
    ],
    "sentences": [("It grows on all of its domain.", "The function is increasing"), ("one, two and all three", "all of them")],
    "units of unknown size": [
        ("2 furlongs", "402 m"), ("12 apples", "12 fruits"), ("1 gallon", "3.785 L"), ("90 °C", "194 °F"), ("5 MW", "5 mW"),
        (r"\sqrt{2} m", r"100\sqrt{2} cm"), (r"\sqrt{2} rods", r"\sqrt{2} m"),
    ],
    "formulas that math-verify does not take": [
        (r"\foo{x} + 1", "x + 2"), ("f'(x)", "f(x)"), (r"(1, \foo)", "(1, 2)"), (r"\{1, \foo\}", r"\{2, 1\}"),
        (r"\begin{pmatrix} 1 & \foo \end{pmatrix}", r"\begin{pmatrix} 1 & 2 \end{pmatrix}"),
    ],
    "forms of which one side is not known": [
        ("5:30 pm", "5:30"), ("5:30 pm", "half past five"), ("2024-03-05", "05/03/2024"), ("03/05/2024", "05/03/2024"),
        ("2024-03-05", "the fifth of March"), ("H2O", "water"), (r"\angle ABC", r"\angle CBA"), (r"\le 5", r"x \le 5"),
        ("52_8", "the number 52"),
    ],
    "long texts": [("x + " * 400, "y + " * 400), ("x + " * 400, "5")],
    "long lists": [(", ".join(map(str, range(51))), ", ".join(map(str, range(1, 52))))],
}  # fmt: skip
DIFFERENT = {
    "values": [("5", "6"), ("2x + 1", "2x + 2"), ("1/3", "0.33"), (r"\sqrt{2}", "1.414"), ("-5", "5"), ("x", "y")],
    "quantities": [
        ("5 apples", "6 apples"), ("5 apples", "6 pears"), ("5 furlongs", "6"), ("5 m", "5 kg"), ("$10", "€10"), ("5%", "0.06"),
        ("1 gallon", "1 L"), ("45 rad", r"45^\circ"), (r"\sqrt{2} m", r"\sqrt{2} cm"), ("2 furlongs", "3 furlongs"),
    ],
    "names": [("Paris", "London"), ("yes", "no"), ("Friday", r"\text{Saturday}"), ("red, green", "blue")],
    "lists": [("1, 2", "1, 2, 3"), (r"(2, \foo)", "(1, 2)"), ("(1, 2)", "[1, 2]"), (r"\{1, \foo, 4\}", r"\{2, 1, 3\}"), ("1, 2", "3")],
    "forms": [
        ("5:30 pm", "7:30"), ("5 pm", "17"), ("2024-03-05", "06/03/2024"), ("2024-03-05", "5"), ("H2O", "CO"), ("H2O", "5"),
        (r"\angle ABC", r"\angle ABD"), (r"\le 5", "5"), (r"\le 5", r"\le 6"), ("52_8", "52"), ("no solution", "5"),
        ("no solution", "infinitely many"), ("A", "C"), ("B) 7", "C) 7"),
    ],
}  # fmt: skip


@pytest.mark.parametrize(("answer", "reference"), [pair for pairs in UNCLEAR.values() for pair in pairs])
def test_what_no_rule_reads_is_unclear(answer: str, reference: str) -> None:
    assert compare_answers(answer, reference) == compare_answers(reference, answer) == "unclear"
    assert not answers_agree(answer, reference)


@pytest.mark.parametrize(("answer", "reference"), [pair for pairs in DIFFERENT.values() for pair in pairs])
def test_where_both_are_read_a_no_is_certain(answer: str, reference: str) -> None:
    assert compare_answers(answer, reference) == compare_answers(reference, answer) == "different"


@pytest.mark.parametrize(
    ("answer", "reason"),
    [("6", "wrong_answer"), ("five", "unclear_answer"), (r"9^{9^{9^9}}", "answer_timeout"), ("5.0", None)],
)
def test_the_gate_counts_them_apart(answer: str, reason: str | None) -> None:
    row = {"response": "It is so.", "finish_reason": "stop", "answer": answer, "reference_answer": "5"}
    assert first_reason(row, GATES) == reason
    assert reason is None or REASONS[reason] == "correct"
