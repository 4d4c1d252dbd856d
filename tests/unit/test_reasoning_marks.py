"""Reasoning and conclusion of a response; the gates, each with a row that it rejects."""

from typing import Any

import pytest

from ray_distil.chat.reasoning_marks import joined, split_reasoning, thinking_is_open, thinking_of, with_our_marks
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


@pytest.mark.parametrize(
    "text",
    [
        "<|channel|>analysis<|message|>2 + 3.<|end|><|start|>assistant<|channel|>final<|message|>It is 5.<|return|>",
        "<|start|>assistant<|channel|>analysis<|message|>2 + 3.<|end|><|start|>assistant<|channel|>final<|message|>It is 5.",
        "<|channel>thought\n2 + 3.<channel|>It is 5.",
        "<|inner_prefix|>2 + 3.<|inner_suffix|>It is 5.",
        "<mm:think>\n2 + 3.\n</mm:think>\n\nIt is 5.",
        "<|open|>think<|sep|>2 + 3.<|close|>think<|sep|><|open|>response<|sep|>It is 5.<|close|>response<|sep|>",
        "Here are my reasoning steps:\n2 + 3.\n[BEGIN FINAL RESPONSE]\nIt is 5.\n[END FINAL RESPONSE]",
        "Here is my thought process: 2 + 3. Here is my response: It is 5.",
        "<Thinking>2 + 3.</thinking>It is 5.",
        "2 + 3.\n</thinking>\nIt is 5.",
        "<|begin_of_thought|>2 + 3.<|end_of_thought|><|begin_of_solution|>It is 5.<|end_of_solution|>",
    ],
)
def test_marks_of_families_become_ours(text: str) -> None:
    assert split_reasoning(with_our_marks(text)) == ("2 + 3.", "It is 5.")
    assert with_our_marks(with_our_marks(text)) == with_our_marks(text)


@pytest.mark.parametrize("text", ["<|channel|>analysis<|message|>2 +", "<|channel>thought\n2 +", "<mm:think>2 +"])
def test_a_thought_that_was_cut_is_open_in_each_family(text: str) -> None:
    assert thinking_is_open(with_our_marks(text))
    assert split_reasoning(with_our_marks(text)) == ("2 +", "")


@pytest.mark.parametrize(
    "text",
    [
        "It is 5.",
        "The tag </thinking> closes a thought.",
        "Say [/THINK] when you are done, and [THINK] before.",
        "<|channel|>final<|message|>It is 5.",
    ],
)
def test_a_text_without_a_thought_has_none(text: str) -> None:
    assert split_reasoning(with_our_marks(text))[0] == ""
    assert split_reasoning(with_our_marks(text))[1] in (text, "It is 5.")


def test_words_before_a_block_belong_to_the_reasoning() -> None:
    for begin, end in (("<think>", "</think>"), ("<thinking>", "</thinking>")):
        text = f"Okay.\n{begin}\n2 + 3.\n{end}\nIt is 5."
        assert split_reasoning(with_our_marks(text)) == ("Okay.\n\n2 + 3.", "It is 5.")


def test_a_thought_that_the_content_repeats_without_marks_stands_once() -> None:
    assert split_reasoning(joined("2 + 3.", "2 + 3.\n\nIt is 5.")) == ("2 + 3.", "It is 5.")
    assert split_reasoning(joined("5", "5 apples")) == ("5", "5 apples")
    assert split_reasoning(joined("<|channel|>analysis<|message|>2.", "<|channel|>final<|message|>5")) == ("2.", "5")


def test_a_label_that_the_model_leaves_out_changes_no_space() -> None:
    assert with_our_marks("<|channel>thought\nTwo.<channel|>5") == "<think>\nTwo.</think>\n\n5"
    assert with_our_marks("<|channel>\nTwo.<channel|>5") == "<think>\nTwo.</think>\n\n5"
