"""Reasoning and conclusion of a response; the gates, each with a row that it rejects."""

from typing import Any

import pytest

from ray_distil.chat.reasoning_marks import joined, split_reasoning, thinking_is_open, thinking_of
from ray_distil.judge.gates import GATES, REASONS, against_source, first_reason


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
    ("response", "parts"),
    [
        ("<think>\na <think>b</think> c\n</think>\n\n5", ("a <think>b</think> c", "5")),  # a block in a block
        ("<think>\na\n<think>\nb\n</think>\nc\n</think>\n\n5", ("a\n<think>\nb\n</think>\nc", "5")),
        ("<think>\nThe mark <think> is quoted.\n</think>\n\n5", ("The mark <think> is quoted.", "5")),
        ("<think>\nThe mark </think> is quoted.\n</think>\n\n5", ("The mark </think> is quoted.", "5")),
        ("<think>\na\n</think>\n\n5\n\n<think>\nb\n</think>\n\n6", ("a\n\nb", "5\n\n6")),
        ("<think>\na\n</think>\n\nThe mark <think> begins a thought.", ("a", "The mark <think> begins a thought.")),
        ("<think> a </think> <answer> 1 </answer>", ("a", "<answer> 1 </answer>")),
    ],
)
def test_marks_that_are_quoted_or_doubled(response: str, parts: tuple[str, str]) -> None:
    assert split_reasoning(response) == parts
    assert not thinking_is_open(response)


def test_a_second_block_that_is_cut_is_open() -> None:
    assert thinking_is_open("<think>\na\n</think>\n\n\\boxed{5}\n\n<think>\nonce more")
    assert thinking_of("<think>\na\n</think>\n\n5\n\n<think>\nb") == "<think>\na\n</think>\n\n5\n\n<think>\nb"


@pytest.mark.parametrize(
    ("reasoning", "content", "text"),
    [
        ("a", "5", "<think>\na\n</think>\n\n5"),
        ("<think>\na\n</think>", "5", "<think>\na\n</think>\n\n5"),  # with its marks
        ("a", "<think>\na\n</think>\n\n5", "<think>\na\n</think>\n\n5"),  # the same thought in both
        ("The mark </think> is quoted", "5", "<think>\nThe mark </think> is quoted\n</think>\n\n5"),
        ("a", "", "<think>\na"),  # cut while it thought
        ("", "a\n</think>\n\n5", "<think>\na\n</think>\n\n5"),
        ("", "<|begin_of_thought|>\n\na\n\n<|end_of_thought|>\n\n<|begin_of_solution|>\n\n5\n\n<|end_of_solution|>",
         "<think>\n\na\n\n</think>\n\n5"),
        ("", "[THINK]a[/THINK]5", "<think>a</think>\n\n5"),
        ("", "◁think▷a", "<think>a"),
        ("", "5", "5"),
    ],
)  # fmt: skip
def test_joined(reasoning: str, content: str, text: str) -> None:
    assert joined(reasoning, content) == text


GOOD: dict[str, Any] = {
    "finish_reason": "stop",
    "answer": "5",
    "reference_answer": "5",
    "source_answer": "5",
    "reasoning": "2 + 3 = 5",
    "original_tokens": 100,
    "original_characters": 300,
    "rewritten_tokens": 40,
}


@pytest.mark.parametrize(
    ("gate", "change", "reason"),
    [
        ("complete", {"finish_reason": "length"}, "incomplete"),
        ("answered", {"answer": None}, "no_answer"),
        ("correct", {"answer": "6"}, "wrong_answer"),
        ("correct", {"answer": "9^{9^{9^9}}"}, "answer_timeout"),
        ("reasoned", {"reasoning": "The answer is 5."}, "no_steps"),
        ("shorter", {"rewritten_tokens": 100}, "not_shorter"),
        ("shorter", {"original_characters": 9}, "not_shorter"),  # 2 + 3 = 5, counted by another tokenizer
        ("shorter", {"original_characters": 9, "original_tokens": None}, "not_shorter"),
    ],
)
def test_each_gate_rejects_and_can_be_switched_off(gate: str, change: dict[str, Any], reason: str) -> None:
    assert first_reason(GOOD, GATES) is None
    assert first_reason(GOOD | change, [gate]) == reason
    assert REASONS[reason] == gate  # the report finds the gate by it
    assert first_reason(GOOD | change, [name for name in GATES if name != gate]) in (None, "wrong_answer")


def test_gates_apply_in_their_order() -> None:
    bad = GOOD | {"finish_reason": "length", "answer": None, "rewritten_tokens": 300}
    assert first_reason(bad, GATES) == "incomplete"
    assert first_reason(bad, reversed(GATES)) == "incomplete"


def test_without_a_reference_the_source_is_the_measure() -> None:
    row = GOOD | {"reference_answer": None, "answer": "6"}
    assert first_reason(row, GATES) is None
    assert first_reason(against_source(row), GATES) == "wrong_answer"
