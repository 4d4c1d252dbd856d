"""What a record asks and answers: columns, messages, ShareGPT's conversations, and what is no single turn."""

from typing import Any

import pytest

from ray_distil.errors import BadRecord
from ray_distil.records.conversations import finish_reason_of, instruction_of, responses_in

USER, ASSISTANT = {"role": "user", "content": "2 + 3?"}, {"role": "assistant", "content": "5"}


@pytest.mark.parametrize(
    "record",
    [
        {"instruction": "2 + 3?"},
        {"instruction": "2 + 3?", "messages": [{"role": "user", "content": "another"}]},
        {"instruction": None, "messages": [USER]},
        {"messages": [{"role": "system", "content": " "}, USER, ASSISTANT]},
        {"messages": [{"role": "system", "content": None}, USER]},
        {"conversations": [{"from": "human", "value": "2 + 3?"}, {"from": "gpt", "value": "5"}]},
        {"messages": [USER | {"tool_calls": None}]},
    ],
)
def test_what_was_asked(record: dict[str, Any]) -> None:
    assert instruction_of(record) == "2 + 3?"


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([USER, ASSISTANT, USER], "several_turns"),
        ([USER, USER], "several_turns"),
        ([{"role": "system", "content": "Be brief."}, USER], "system_turn"),
        ("2 + 3?", "bad_messages"),
        ([], "bad_messages"),
        (["2 + 3?"], "bad_messages"),
        ([ASSISTANT], "bad_messages"),
        ([ASSISTANT, USER], "bad_messages"),
        ([USER, ASSISTANT, ASSISTANT], "bad_messages"),
        ([USER, {"role": "tool", "content": "5"}], "bad_messages"),
        ([{"content": "2 + 3?"}], "bad_messages"),
        ([{"role": "user", "content": [{"type": "audio", "text": "2 + 3?"}]}], "bad_messages"),
    ],
)
def test_what_is_no_single_turn_is_refused(messages: Any, reason: str) -> None:
    for key in ("messages", "conversations"):
        with pytest.raises(BadRecord) as error:
            instruction_of({key: messages})
        assert error.value.reason == reason


THOUGHT = "<think>\n2 and 3 make 5\n</think>\n\n5"


@pytest.mark.parametrize(
    ("record", "text"),
    [
        ({"output": "5"}, "5"),
        ({"response": "5", "messages": [USER, ASSISTANT | {"content": "6"}]}, "5"),
        ({"messages": [USER, ASSISTANT]}, "5"),
        ({"output": THOUGHT}, THOUGHT),
        ({"output": "5", "reasoning_content": " 2 and 3 make 5\n"}, THOUGHT),
        ({"messages": [USER, ASSISTANT | {"reasoning_content": "2 and 3 make 5"}]}, THOUGHT),
        ({"output": None, "reasoning_content": "2 and"}, "<think>\n2 and"),
    ],
)
def test_what_was_answered(record: dict[str, Any], text: str) -> None:
    assert responses_in(record)[0] == text


@pytest.mark.parametrize("record", [{}, {"output": " "}, {"output": 5}, {"messages": [USER]}])
def test_no_answer_is_no_record(record: dict[str, Any]) -> None:
    with pytest.raises(BadRecord, match="no text in 'output'"):
        responses_in(record)[0]


def test_texts_in_parts_and_roles_of_others_are_read() -> None:
    parts = [{"type": "text", "text": "Add 0 "}, {"type": "text", "text": "and 1."}]
    record = {"messages": [{"role": "Human", "content": parts}, {"role": "Assistant", "content": [{"text": "1"}]}]}
    assert (instruction_of(record), responses_in(record)) == ("Add 0 and 1.", ["1"])
    image = {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}
    with pytest.raises(BadRecord, match="not text"):
        instruction_of(image)


def test_a_list_is_several_responses() -> None:
    assert responses_in({"output": ["a", "b"]}) == ["a", "b"]
    for output in ([], ["a", ""], [{"text": "a"}]):
        with pytest.raises(BadRecord):
            responses_in({"output": output})


@pytest.mark.parametrize(
    ("given", "ours"), [("STOP", "stop"), ("eos", "stop"), ("end_turn", "stop"), ("MAX_TOKENS", "length"), ("tool_calls", "tool_calls")]
)  # fmt: skip
def test_finish_reasons_of_others(given: str, ours: str) -> None:
    assert finish_reason_of(given) == ours


@pytest.mark.parametrize(
    ("record", "asked"),
    [
        ({"instruction": "Add one.", "input": "3"}, "Add one.\n3"),
        ({"instruction": "Add one.", "input": " "}, "Add one."),
        ({"instruction": "Add one.", "input": None}, "Add one."),
        ({"instruction": "3?", "input": "3?"}, "3?"),  # columns: {instruction: input}
        ({"instruction": "Add one.", "input": "3", "history": []}, "Add one.\n3"),
    ],
)
def test_the_input_of_alpaca_belongs_to_its_instruction(record: dict[str, Any], asked: str) -> None:
    assert instruction_of(record) == asked


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"instruction": "Add one.", "input": [3]}, "bad_input"),
        ({"instruction": "And now?", "history": [["1", "2"]]}, "several_turns"),
        ({"instruction": "Add one.", "system": "Be brief."}, "system_turn"),
    ],
)
def test_what_is_more_than_one_turn_is_rejected(record: dict[str, Any], reason: str) -> None:
    with pytest.raises(BadRecord) as raised:
        instruction_of(record)
    assert raised.value.reason == reason


def test_of_several_responses_the_correct_ones_are_taken() -> None:
    assert responses_in({"output": ["a", "b", "c"], "correctness": [True, False, True]}) == ["a", "c"]
    assert responses_in({"output": ["a", "b"], "correctness": None}) == ["a", "b"]
    with pytest.raises(BadRecord, match="none of 2 responses is correct"):
        responses_in({"output": ["a", "b"], "correctness": [False, None]})
