"""What a response is worth, by the kind of its answer."""

from typing import Any

import pytest

from ray_distil.judge import scorers


@pytest.mark.parametrize(
    ("answer", "reference", "right"),
    [("025", "25", True), ("25", "025", True), ("25^\\circ", "25", True), ("m + n = 25", "25", True), ("25.0", "25", True),
     ("1,200", "1200", True), ("−7", "-7", True), ("\\frac{50}{2}", "25", True), ("25.5", "25", False), ("2", "25", False),
     ("1, 23", "123", False), ("12 3", "123", False), ("", "0", False), ("9" * 5000, "9", False)],
)  # fmt: skip
def test_whole_numbers(answer: str, reference: str, right: bool) -> None:
    assert scorers.is_right(answer, reference, "integer") is right


@pytest.mark.parametrize(
    ("kind", "answer", "reference", "right"),
    [("math", "52", "52_8", False), ("math", "\\frac12", "0.5", True), ("choice", "C", "C", True), ("choice", "C", "D", False),
     ("text", "The  Moon.", "the moon", True), ("text", "Mars", "Moon", False), ("text", "listen", "silent", False)],
)  # fmt: skip
def test_other_kinds(kind: str, answer: str, reference: str, right: bool) -> None:
    assert scorers.is_right(answer, reference, kind) is right


def row(**changes: Any) -> dict[str, Any]:
    return {"response": "", "reference_answer": "C", "complete": True, "num_choices": 4} | changes


def test_only_the_conclusion_counts_and_only_where_it_is_whole() -> None:
    thought = "<think>\nIs it \\boxed{A}?\n</think>\n\n"
    assert scorers.judged(row(response=f"{thought}\\boxed{{C}}"), "choice")["correct"]
    assert scorers.judged(row(response=thought), "choice")["answer"] is None
    cut = scorers.judged(row(response="Answer: C", complete=False), "choice")
    assert (cut["answer"], cut["correct"]) == ("C", False)


def test_nothing_said_is_wrong_and_no_reference_is_no_verdict() -> None:
    figures = {"answer": None, "correct": False, "unclear": False, "scored_by": f"choice {scorers.VERSION}"}
    assert scorers.judged(row(), "choice") == row(**figures)
    assert scorers.judged(row(reference_answer=None, response="Answer: C"), "choice")["correct"] is None
