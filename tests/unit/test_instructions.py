"""Instructions: every record is a row or a reject, and mistakes in files are named before anything starts."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, DatasetDict

from ray_distil.config import InstructionsConfig, load
from ray_distil.config.section import validate
from ray_distil.errors import BadRecord, ConfigError, UserError
from ray_distil.problems.collecting import collect, reference_of, unchecked
from ray_distil.records.problems import Problems
from ray_distil.store.ids import count_ids


def rows_of(path: Path, **settings: Any) -> list[dict[str, Any]]:
    return rows_in(collect(InstructionsConfig(path=str(path), **settings), 0))


def rows_in(problems: Problems) -> list[dict[str, Any]]:
    return problems.to_pylist()


def write(path: Path, records: list[Any], lines: bool = True) -> Path:
    path.write_text("\n".join(json.dumps(r) for r in records) if lines else json.dumps(records))
    return path


GOOD = [{"instruction": f"What is {k} + 1?", "answer": k + 1} for k in range(40)]


def test_tiny_world_has_no_common_instruction() -> None:
    rows = rows_in(collect(InstructionsConfig(num_eval=300), 0))
    split = {name: {r["instruction"] for r in rows if r["split"] == name} for name in ("train", "eval")}
    assert len(split["train"]) == 2000
    assert len(split["eval"]) == 300
    assert not split["train"] & split["eval"]


def test_json_list_and_lines_give_the_same_rows(tmp_path: Path) -> None:
    lines = rows_of(write(tmp_path / "a.json", GOOD))
    assert lines == rows_of(write(tmp_path / "a.json", GOOD, lines=False))
    assert Counter(r["split"] for r in lines) == {"train": 36, "eval": 4}
    assert lines[0]["reference_answer"] == "1"


def test_held_out_rows_do_not_depend_on_the_order(tmp_path: Path) -> None:
    def held_out(records: list[Any]) -> set[str]:
        return {r["instruction"] for r in rows_of(write(tmp_path / "a.json", records)) if r["split"] == "eval"}

    assert held_out(GOOD) == held_out(GOOD[::-1])


def test_held_out_rows_have_answers_where_there_are_any(tmp_path: Path) -> None:
    records = [{"instruction": f"Say {k}."} for k in range(30)] + GOOD[:5]
    rows = rows_of(write(tmp_path / "a.json", records))
    assert all(r["reference_answer"] for r in rows if r["split"] == "eval")


def test_bad_records_are_rejected_with_a_reason(tmp_path: Path) -> None:
    bad = [3, {"answer": 1}, {"instruction": "  "}, {"instruction": None}, {"instruction": "\ud800"}]
    bad += [{"instruction": "x", "answer": {"a": 1}}, GOOD[3], {"instruction": " What  is 3 + 1?"}]
    rows = rows_of(write(tmp_path / "a.json", GOOD + bad))
    reasons = Counter(r["reject_reason"] for r in rows)
    assert len(rows) == len(GOOD) + len(bad)
    assert reasons == {
        None: 40,
        "not_an_object": 1,
        "no_instruction": 3,
        "not_unicode": 1,
        "bad_answer": 1,
        "duplicate": 2,
    }
    assert len({r["instruction_id"] for r in rows}) == len(rows)


def test_conversations_are_read_or_rejected_with_a_reason(tmp_path: Path) -> None:
    user, assistant = {"role": "user", "content": "9 + 9?"}, {"role": "assistant", "content": "18"}
    system = {"role": "system", "content": "Be brief."}
    records = [
        {"messages": [user, assistant], "answer": 18},
        {"conversations": [{"from": "human", "value": "8 + 9?"}]},
        {"messages": [user, assistant, user]},
        {"messages": [system, user]},
        {"messages": "9 + 9?"},
        {"messages": [{"role": "user", "content": " "}]},
    ]
    rows = rows_of(write(tmp_path / "a.json", GOOD + records))
    assert Counter(r["reject_reason"] for r in rows) == {
        None: 42,
        "several_turns": 1,
        "system_turn": 1,
        "bad_messages": 1,
        "no_instruction": 1,
    }
    assert {"9 + 9?": "18", "8 + 9?": None}.items() <= {r["instruction"]: r["reference_answer"] for r in rows}.items()


def test_columns_of_other_names_and_a_split_to_hold_out(tmp_path: Path) -> None:
    problems = [{"problem": r["instruction"], "solution": str(r["answer"])} for r in GOOD]
    splits = {"train": Dataset.from_list(problems[:30]), "test": Dataset.from_list(problems[28:])}
    DatasetDict(splits).save_to_disk(tmp_path / "sums")
    columns = {"instruction": "problem", "answer": "solution"}
    rows = rows_of(tmp_path / "sums", eval_path=str(tmp_path / "sums"), eval_split="test", columns=columns)
    assert Counter((r["split"], r["reject_reason"]) for r in rows) == {
        ("eval", None): 12,
        ("train", None): 28,
        ("train", "duplicate"): 2,
    }
    assert {r["reference_answer"] for r in rows if r["split"] == "eval"} == {str(k + 1) for k in range(28, 40)}
    with pytest.raises(UserError, match="instructions.eval_split: .* has no split 'dev'; it has 'train', 'test'"):
        rows_of(tmp_path / "sums", eval_path=str(tmp_path / "sums"), eval_split="dev", columns=columns)


def test_a_text_that_unicode_writes_in_two_ways_is_one_instruction(tmp_path: Path) -> None:
    rows = rows_of(write(tmp_path / "a.json", [*GOOD, {"instruction": "caf\u00e9?"}, {"instruction": "cafe\u0301?"}]))
    assert Counter(r["reject_reason"] for r in rows) == {None: 41, "duplicate": 1}


def test_rows_over_a_limit_are_rejected_not_lost(tmp_path: Path) -> None:
    rows = rows_of(write(tmp_path / "a.json", GOOD), num_train=10)
    assert Counter(r["reject_reason"] for r in rows) == {None: 14, "over_limit": 26}


def test_problem_in_both_files_is_held_out_only(tmp_path: Path) -> None:
    held_out = write(tmp_path / "eval.json", GOOD[:3])
    rows = rows_of(write(tmp_path / "a.json", GOOD), eval_path=str(held_out))
    assert Counter((r["split"], r["reject_reason"]) for r in rows) == {
        ("eval", None): 3,
        ("train", None): 37,
        ("train", "duplicate"): 3,
    }


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "is empty"),
        ("[]", "is empty"),
        ('{"instruction": "a"}\n{"instruction": \n', "line 2: Expecting value"),
        ('[{"instruction": "a"},\n {]', "line 2"),
        ('{"instruction": "only one"}', "leaves no instruction held out"),
        ('{"question": "a"}\n{"question": "b"}', "leaves no instruction to train on"),
    ],
)
def test_unusable_files_are_refused(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "a.jsonl").write_text(text)
    with pytest.raises(UserError) as error:
        rows_of(tmp_path / "a.jsonl")
    assert told in str(error.value)
    assert "a.jsonl" in str(error.value)


def test_absent_and_binary_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no file .*nothing.jsonl"):
        rows_of(tmp_path / "nothing.jsonl")
    (tmp_path / "a.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="not UTF-8 at byte 0"):
        rows_of(tmp_path / "a.jsonl")


def test_each_row_has_an_id_of_its_own_accepted_or_not(tmp_path: Path) -> None:
    """The artifact counts rows by their ids: one of another form, or one that two rows share, would stop the run."""
    file = tmp_path / "p.jsonl"
    records = [
        {"instruction": "1 + 1?"},
        {"instruction": "1  + 1?"},
        {"instruction": "1 + 1?"},
        {},
        7,
        {"instruction": "2?"},
    ]
    file.write_text("\n".join(json.dumps(record) for record in [*records, {"instruction": "\ud800"}]))
    rows = rows_of(file)
    number, doubled = count_ids([[row["instruction_id"] for row in rows]])
    assert number == len(rows) == 7
    assert not len(doubled)


def test_half_of_the_answered_problems_stay_for_training(tmp_path: Path) -> None:
    records = [{"instruction": f"Say {k}."} for k in range(1000)] + GOOD
    rows = rows_of(write(tmp_path / "a.json", records))
    answered = Counter(r["split"] for r in rows if r["reference_answer"])
    assert answered == {"train": 20, "eval": 20}


@pytest.mark.parametrize(
    ("answer", "reference"),
    [(5, "5"), (" 5 ", "5"), (0.5, "0.5"), (2.0, "2"), (1e22, "1" + "0" * 22), (1e-5, "0.00001"), (float("nan"), None),
     (float("inf"), None), (1e400, None), ([5], "5"), (["a"], "a"), (None, None), ("", None)],
)  # fmt: skip
def test_the_reference_that_an_answer_is(answer: Any, reference: str | None) -> None:
    assert reference_of(answer) == reference


@pytest.mark.parametrize(
    ("answer", "reason"), [(["a", "b"], "bad_answer"), ({"a": 1}, "bad_answer"), (True, "bad_answer"), ("\ud800", "not_unicode")]
)  # fmt: skip
def test_what_is_no_reference(answer: Any, reason: str) -> None:
    with pytest.raises(BadRecord) as told:
        reference_of(answer)
    assert told.value.reason == reason


def test_the_reason_of_most_rejects_is_told_where_nothing_is_left(tmp_path: Path) -> None:
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "2 + 3?"}]
    with pytest.raises(UserError, match=r"4 of 5 records are system_turn \(record 1: the system prompt 'Be brief.'"):
        rows_of(write(tmp_path / "a.json", [{"messages": turns}] * 4 + [{"instruction": ""}]))


def test_it_is_said_when_no_record_has_an_answer(tmp_path: Path) -> None:
    without = write(tmp_path / "a.jsonl", [{"instruction": f"{k} + 1?", "Answer": k + 1} for k in range(20)])
    config = InstructionsConfig(path=str(without))
    (told,) = map(str, unchecked(config, collect(config, 0).facts))
    assert told.startswith("none of 20 instructions has `answer`")
    assert "there are: instruction, Answer" in told
    columns = InstructionsConfig(path=str(without), columns={"answer": "Answer"})
    assert list(unchecked(columns, collect(columns, 0).facts)) == []
    assert list(unchecked(InstructionsConfig(), collect(InstructionsConfig(), 0).facts)) == []


@pytest.mark.parametrize("line", ["[" * 100_000, '{"instruction": "d?", "answer": ' + "9" * 5000 + "}"])
def test_json_that_python_does_not_read_is_named_by_its_line(line: str, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join([*(json.dumps(record) for record in GOOD[:4]), line]))
    with pytest.raises(UserError, match="line 5"):
        rows_of(path)


def test_a_dotted_name_is_a_column_in_a_column(tmp_path: Path) -> None:
    records = [{"p": [{"role": "user", "content": f"{k}?"}], "r": {"truth": k}} for k in range(20)]
    columns = {"messages": "p", "answer": "r.truth"}
    rows = rows_of(write(tmp_path / "a.json", records), columns=columns)
    assert {r["instruction"]: r["reference_answer"] for r in rows} == {f"{k}?": str(k) for k in range(20)}
    with pytest.raises(UserError, match="no record of .* has 'r.lie'"):
        rows_of(tmp_path / "a.json", columns={"messages": "p", "answer": "r.lie"})


def test_columns_of_other_names_are_listed_with_an_example(tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text("Question Text,Result\n1 + 1?,2\n2 + 1?,3\n")
    said = r"there are the columns Question Text, Result: name one, as in instructions\.columns=\{instruction: Question Text\}"
    with pytest.raises(UserError, match=said):
        collect(validate(InstructionsConfig, {"path": str(tmp_path / "mine.csv")}), 0)
    with pytest.raises(
        ConfigError, match=r"'Result' is no mapping; write 'instructions\.columns=\{instruction: Result\}'"
    ):
        load(None, ["instructions.columns=Result"])
