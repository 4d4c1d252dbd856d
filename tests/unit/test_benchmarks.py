"""Declared benchmarks, each on five rows of its data set's form: columns, types and spellings of the hub's files."""

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ray_distil.config import load
from ray_distil.config.evaluation_config import BenchmarkConfig, built_in, declared
from ray_distil.errors import UserError
from ray_distil.problems import benchmark_rows
from ray_distil.records import sources
from ray_distil.store.schemas import BENCHMARK
from ray_distil.store.shards import REASON, table_of

Row = dict[str, Any]
PROMPT = "\n\nPlease reason step by step, and put your final answer within \\boxed{}."
SUMS = [(k, f"Let $a = {k}$. Find $\\frac{{a}}{{1}} + {k}$.", 2 * k) for k in range(1, 6)]
LINK = "https://artofproblemsolving.com/wiki/index.php/"


def aime24(folder: Path) -> Path:
    rows = [
        {"id": 59 + k, "problem": text, "solution": "...", "answer": f"{sum_:03d}", "url": LINK, "year": "2024"}
        for k, text, sum_ in SUMS
    ]
    pq.write_table(pa.Table.from_pylist(rows), folder / "train-00000-of-00001.parquet")
    return folder / "train-00000-of-00001.parquet"


def aime25(folder: Path) -> Path:
    return json_lines(folder, [{"problem": t, "answer": str(a), "id": str(k)} for k, t, a in SUMS])


def math500(folder: Path) -> Path:
    answers = ["52_8", "\\frac{9}{7}", "x \\in [-2,7]", "\\text{(C)}", "864 \\mbox{ inches}^2"]
    return json_lines(folder, [
        {"problem": t, "solution": f"... $\\boxed{{{a}}}.$", "answer": a, "subject": "Algebra", "level": 2,
         "unique_id": f"test/algebra/{k}.json"}
        for (k, t, _), a in zip(SUMS, answers, strict=True)
    ])  # fmt: skip


def gpqa_diamond(folder: Path) -> Path:
    file = folder / "gpqa_diamond.csv"
    names = ["Question", "Correct Answer", "Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3", "Explanation",
             "Subdomain", "Writer's Difficulty Estimate", "Record ID"]  # fmt: skip
    with open(file, "w", newline="") as opened:
        writer = csv.writer(opened)
        writer.writerow(names)
        for k, text, _ in SUMS:
            writer.writerow([f"{text}\n", f"{k} m/s\n", f"{k + 10} m/s", f" {k + 20} m/s", f"{k + 30} m/s", "So, \"it\" is.",
                             "Mechanics", "Hard", f"rec{k}"])  # fmt: skip
    return file


def mmlu_pro(folder: Path) -> Path:
    rows = [
        {"question_id": 70 + k, "question": text, "options": [str(k + n) for n in range(2 + k)] + ["N/A"] * (k % 2),
         "answer": "C" if k > 1 else "B", "answer_index": 2 if k > 1 else 1, "cot_content": "", "category": "business", "src": "x"}
        for k, text, _ in SUMS
    ]  # fmt: skip
    (folder / "data").mkdir()
    pq.write_table(pa.Table.from_pylist(rows), folder / "data" / "test-00000-of-00001.parquet")
    pq.write_table(pa.Table.from_pylist(rows[:1]), folder / "data" / "validation-00000-of-00001.parquet")
    return folder


def gsm8k(folder: Path) -> Path:
    rows = [{"question": t, "answer": f"{k}+{k}=<<{k}+{k}={a}>>{a}.\n#### {1000 + a:,}"} for k, t, a in SUMS]
    pq.write_table(pa.Table.from_pylist(rows), folder / "test-00000-of-00001.parquet")
    return folder


def json_lines(folder: Path, rows: list[Row]) -> Path:
    (folder / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "test.jsonl"


FORMS: list[Callable[[Path], Path]] = [aime24, aime25, math500, gpqa_diamond, mmlu_pro, gsm8k]


def config(name: str, **changes: Any) -> BenchmarkConfig:
    return BenchmarkConfig.model_validate(declared({"name": name, **changes}))


def rows_of(name: str, **changes: Any) -> list[Row]:
    rows = benchmark_rows.problems(config(name, **changes))
    assert table_of(rows, BENCHMARK).num_rows == len(rows)
    return rows


def of_form(form: Callable[[Path], Path], folder: Path, **changes: Any) -> list[Row]:
    return rows_of(form.__name__, path=str(form(folder)), **changes)


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
def test_a_local_copy_is_read_as_declared(form: Callable[[Path], Path], tmp_path: Path) -> None:
    rows = of_form(form, tmp_path)
    assert [row.get(REASON) for row in rows] == [None] * 5
    assert len({row["instruction_id"] for row in rows}) == 5
    for row, (_, text, _) in zip(rows, SUMS, strict=True):
        assert row["instruction"].startswith(text)
        assert row["instruction"].endswith("within \\boxed{}.")
        assert (row["split"], row["source"]) == ("eval", form.__name__)


@pytest.mark.parametrize(
    ("form", "references", "category"),
    [(aime24, ["2", "4", "6", "8", "10"], None), (aime25, ["2", "4", "6", "8", "10"], None),
     (math500, ["52_8", "\\frac{9}{7}", "x \\in [-2,7]", "\\text{(C)}", "864 \\mbox{ inches}^2"], "Algebra"),
     (gsm8k, ["1002", "1004", "1006", "1008", "1010"], None)],
)  # fmt: skip
def test_references(form: Callable[[Path], Path], references: list[str], category: str | None, tmp_path: Path) -> None:
    rows = of_form(form, tmp_path)
    assert [row["reference_answer"] for row in rows] == references
    assert {row["category"] for row in rows} == {category}
    assert rows[0]["instruction"] == SUMS[0][1] + PROMPT


@pytest.mark.parametrize("form", [gpqa_diamond, mmlu_pro])
def test_the_letter_of_a_choice_names_the_right_option(form: Callable[[Path], Path], tmp_path: Path) -> None:
    rows = of_form(form, tmp_path)
    for k, row in enumerate(rows, 1):
        shown = dict(line.split(". ", 1) for line in row["instruction"].split("\n\n")[1].splitlines())
        right = f"{k} m/s" if form is gpqa_diamond else str(k + (2 if k > 1 else 1))
        assert shown[row["reference_answer"]] == right
        assert row["num_choices"] == len(shown) == (4 if form is gpqa_diamond else 2 + k), "N/A is no option"
        assert row["category"] == ("Mechanics" if form is gpqa_diamond else "business")
    assert len({row["reference_answer"] for row in rows}) > 1
    (tmp_path / "again").mkdir()
    assert rows == of_form(form, tmp_path / "again")


def test_the_built_in_ones_are_pinned_and_parse() -> None:
    made = load(None, [f"evaluation.benchmarks=[{', '.join(built_in())}]"]).evaluation.benchmarks
    assert [one.name for one in made] == list(built_in())
    for one in made:
        source = benchmark_rows.source_of(one)
        if one.name == "tiny":
            assert source is None
            continue
        assert source is not None
        assert source.is_on_hub
        assert len(source.path.partition("@")[2]) == 40
        assert benchmark_rows.content(one)  # asks no hub
        assert one.num_problems
        assert one.num_samples
        assert one.sampling_params is not None
    published = {figure.source for one in made for figure in one.published}
    assert published == {"EasyDistill", "DeepSeek-R1 card"}


def test_every_built_in_prompt_says_where_the_answer_stands() -> None:
    """lm-eval asks for no box and stops at "Question:"; lighteval says "one of ABCD" where there are ten options."""
    for name in built_in():
        one = config(name)
        assert one.template.endswith("within \\boxed{}.")
        assert ("only the letter" in one.template) == (one.answer == "choice")
        assert "ABCD" not in one.template


def test_what_stands_beside_a_name_goes_before_what_is_declared() -> None:
    one = config("math500", num_samples=2, sampling_params={"max_tokens": 7})
    assert one.num_samples == 2
    assert one.sampling_params is not None
    assert (one.sampling_params.temperature, one.sampling_params.max_tokens) == (0.6, 7)


def test_the_tiny_world_is_one() -> None:
    rows = rows_of("tiny", limit=20)
    assert len(rows) == 20
    assert all(row["reference_answer"].isdigit() for row in rows)


def test_a_limit_keeps_the_same_rows_whatever_the_order_of_the_file(tmp_path: Path) -> None:
    records = [{"instruction": f"{k} + 3?", "answer": str(k + 3)} for k in range(60)]
    ids: dict[tuple[int | None, int], list[str]] = {}
    for number in (0, 1):
        (tmp_path / str(number)).mkdir()
        path = json_lines(tmp_path / str(number), records[:: -1 if number else 1])
        for limit in (10, 20, None):
            ids[limit, number] = [row["instruction_id"] for row in rows_of("mine", path=str(path), limit=limit)]
    assert ids[10, 0] == ids[10, 1]
    assert len(ids[10, 0]) == 10
    assert set(ids[10, 0]) < set(ids[20, 0]) < set(ids[None, 0])
    assert ids[10, 0] != ids[None, 0][:10]


def test_a_problem_that_says_something_else_is_another_one(tmp_path: Path) -> None:
    first = of_form(math500, tmp_path)
    text = (tmp_path / "test.jsonl").read_text().replace("Let $a = 1$", "Let $b = 1$")
    (tmp_path / "test.jsonl").write_text(text)
    second = rows_of("math500", path=str(tmp_path / "test.jsonl"))
    same = [one["instruction_id"] == other["instruction_id"] for one, other in zip(first, second, strict=True)]
    assert same == [False, True, True, True, True]


@pytest.mark.parametrize(
    ("record", "reason"),
    [({"options": ["1", "2"], "answer": "C"}, "bad_answer"), ({"options": ["1", "1"], "answer": "A"}, "bad_choices"),
     ({"options": "1, 2", "answer": "A"}, "bad_choices"), ({"options": ["1", "2"], "answer": "7"}, "bad_answer"),
     ({"options": [str(k) for k in range(27)], "answer": "A"}, "bad_choices"), ({"options": None, "answer": "A"}, "bad_choices"),
     ({"options": ["", "2", "3"], "answer": "A"}, "bad_answer"), ({"question": " ", "options": ["1", "2"]}, "no_instruction"),
     ([], "not_an_object")],
)  # fmt: skip
def test_what_is_no_problem_is_rejected_with_its_place(record: Any, reason: str, tmp_path: Path) -> None:
    good = {"question": "Which?", "options": ["1", "2"], "answer": "A", "question_id": 1, "category": "x"}
    given = record if isinstance(record, list) else {"question": "What?", "question_id": 2} | record
    rows = rows_of("mmlu_pro", path=str(json_lines(tmp_path, [good, given])))
    assert [row.get(REASON) for row in rows] == [None, reason]
    assert "record 2" in rows[1]["reject_detail"]


@pytest.mark.parametrize(("answer", "right"), [(1, "7"), ("B", "7"), ("7", "7"), (7, "7"), (None, None)])
def test_the_spellings_of_a_right_option(answer: Any, right: str | None, tmp_path: Path) -> None:
    path = json_lines(tmp_path, [{"instruction": "Which?", "choices": ["5", "7", "9"], "answer": answer}])
    (row,) = rows_of("mine", path=str(path), answer="choice")
    shown = dict(line.split(". ") for line in row["instruction"].split("\n\n")[1].splitlines())
    assert shown.get(row["reference_answer"]) == right


def test_whole_numbers_are_asked_for_and_equal_problems_count_once(tmp_path: Path) -> None:
    records = [{"instruction": "2 + 3?", "answer": a} for a in ("5", "five", 5)]
    rows = rows_of("mine", path=str(json_lines(tmp_path, records)), answer="integer")
    assert [row.get(REASON) for row in rows] == [None, "bad_answer", "duplicate"]
    assert len({row["instruction_id"] for row in rows}) == 3


def test_braces_of_a_question_stay(tmp_path: Path) -> None:
    records = [{"instruction": "What is {choices} or {instruction}?", "choices": ["{instruction}", "b"], "answer": "b"}]
    (row,) = rows_of("mine", path=str(json_lines(tmp_path, records)), answer="choice", prompt="{choices}|{instruction}")
    assert row["instruction"].endswith("|What is {choices} or {instruction}?")
    assert "{instruction}\n" in row["instruction"] or ". {instruction}" in row["instruction"]


def test_rows_of_another_set_in_the_same_file_are_left_out(tmp_path: Path) -> None:
    records = [{"problem": f"{k}?", "answer": k, "url": f"{LINK}{2022 + k % 3}_AIME_I"} for k in range(9)]
    columns = {"instruction": "problem"}
    rows = rows_of("mine", path=str(json_lines(tmp_path, records)), columns=columns, keep={"url": "2024"})
    assert [row["instruction"][:2] for row in rows] == ["2?", "5?", "8?"]


def test_an_empty_benchmark_is_empty(tmp_path: Path) -> None:
    (tmp_path / "test.jsonl").write_text("")
    assert rows_of("math500", path=str(tmp_path / "test.jsonl")) == []
    with pytest.raises(UserError, match="is empty"):
        list(sources.records(sources.Source(str(tmp_path / "test.jsonl"), "instructions.path")))


def test_a_column_that_is_not_there_is_told(tmp_path: Path) -> None:
    path = json_lines(tmp_path, [{"question": "2 + 3?", "answer": "5"}])
    with pytest.raises(UserError, match=r"benchmarks.aime25.columns.instruction: no record of .* has 'problem'"):
        rows_of("aime25", path=str(path))


@pytest.mark.parametrize(
    ("given", "told"),
    [("[aime2]", "'aime2' is not built in; did you mean 'aime25'"), ("[{name: x}]", "x: is not built in and has no `path`"),
     ("[{name: aime24, promt: x}]", "did you mean 'prompt'"), ("[aime24, aime24]", "two have the same name"),
     ("[{name: held-out, limit: 3}]", "these are the run's own problems"),
     ("[{name: aime24, prompt: Hello}]", "must hold {instruction}"), ("[{name: x, path: p, prompt: '{choices}'}]", "must hold"),
     ("[{name: x, path: p, columns: {choices: c}}]", "needed where `answer` is choice"),
     ("[{name: x, path: p, columns: {id: [a, b]}}]", "is no name of a column"), ("[]", "at least 1 item")],
)  # fmt: skip
def test_a_wrong_declaration_is_told(given: str, told: str) -> None:
    with pytest.raises(UserError, match=told.replace("{", r"\{").replace("?", r"\?")):
        load(None, [f"evaluation.benchmarks={given}"])


@pytest.mark.parametrize(
    "text", ["docs/benchmarks.md", "ray_distil/commands/evaluate.py", "ray_distil/config/evaluation_config.py"]
)
def test_users_read_of_each_that_is_built_in(text: str) -> None:
    said = (Path(__file__).resolve().parents[2] / text).read_text()
    told = next(line for line in said.splitlines() if "aime24" in line and "gsm8k" in line)
    assert built_in().keys() <= set(re.findall(r"\w+", told))
