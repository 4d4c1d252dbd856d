"""Splitting, extracting and comparing; the gates, each with a row that it rejects."""

from typing import Any

import pytest

from ray_distil.gates import GATES, against_source, first_reason
from ray_distil.reasoning import answers_agree, extract_answer, final_result, last_boxed, split_reasoning


@pytest.mark.parametrize(
    ("response", "parts"),
    [
        ("<think>\na\n\nb\n</think>\n\nSo \\boxed{3}.", ("a\n\nb", "So \\boxed{3}.")),
        ("a\n</think>\n\nc", ("a", "c")),  # the opening mark stood in the prompt
        ("<think>\nstill thinking", ("still thinking", "")),  # cut while reasoning: no conclusion
        ("Step 1: x\n\n\\boxed{3}", ("", "Step 1: x\n\n\\boxed{3}")),
        ("", ("", "")),
    ],
)
def test_split(response: str, parts: tuple[str, str]) -> None:
    assert split_reasoning(response) == parts


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("first \\boxed{1}, then \\boxed{\\frac{1}{2}}.", "\\frac{1}{2}"),
        ("\\boxed{a {b} c}", "a {b} c"),
        ("\\boxed{ 7 }", "7"),
        ("\\boxed{left open", None),
        ("\\boxed{}", None),
        ("The answer is 12.", "12"),
        ("**Answer:** 12", "12"),
        ("It is 12.", None),
        ("", None),
    ],
)
def test_extract(text: str, answer: str | None) -> None:
    assert extract_answer(text) == answer


def test_boxed_left_open_at_the_very_end() -> None:
    assert last_boxed("\\boxed{") is None


def test_final_result_of_a_reasoning_without_an_answer() -> None:
    assert final_result("Step 1: 2 + 3 = 5.\n\nStep 2: 5 * 1,000 = 5,000 pens.") == "5,000"
    assert final_result("no number") is None


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("12", "12.", True),
        ("1,200", "1200", True),
        ("\\frac{1}{2}", "0.5", True),
        ("1/2", "0.5", True),
        ("\\{1, 2\\}", "\\{2, 1\\}", True),
        ("12", "13", False),
        ("-3", "3", False),
        (None, "3", False),
        ("x", None, False),
        ("Paris", "paris", True),
        ("Paris", "London", False),
    ],
)
def test_agreement(one: str | None, other: str | None, same: bool) -> None:
    assert answers_agree(one, other) is same


GOOD: dict[str, Any] = {
    "finish_reason": "stop",
    "answer": "5",
    "reference_answer": "5",
    "source_answer": "5",
    "original_tokens": 100,
    "rewritten_tokens": 40,
}


@pytest.mark.parametrize(
    ("gate", "change", "reason"),
    [
        ("complete", {"finish_reason": "length"}, "incomplete"),
        ("answered", {"answer": None}, "no_answer"),
        ("correct", {"answer": "6"}, "wrong_answer"),
        ("shorter", {"rewritten_tokens": 100}, "not_shorter"),
    ],
)
def test_each_gate_rejects_and_can_be_switched_off(gate: str, change: dict[str, Any], reason: str) -> None:
    assert first_reason(GOOD, GATES) is None
    assert first_reason(GOOD | change, [gate]) == reason
    assert first_reason(GOOD | change, [name for name in GATES if name != gate]) in (None, "wrong_answer")


def test_gates_apply_in_their_order() -> None:
    bad = GOOD | {"finish_reason": "length", "answer": None, "rewritten_tokens": 300}
    assert first_reason(bad, GATES) == "incomplete"
    assert first_reason(bad, reversed(GATES)) == "incomplete"


def test_without_a_reference_the_source_is_the_measure() -> None:
    row = GOOD | {"reference_answer": None, "answer": "6"}
    assert first_reason(row, GATES) is None
    assert first_reason(against_source(row), GATES) == "wrong_answer"
