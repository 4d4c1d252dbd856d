"""Answers that the judge cannot read: never equal, never wrong without doubt, and counted apart."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ray_distil.generate.question import Question
from ray_distil.judge import scorers
from ray_distil.judge.agreement import answers_agree, compare_answers
from ray_distil.judge.gates import GATES, REASONS, first_reason
from ray_distil.report import excerpts, report
from ray_distil.stages import rewrites, sft_examples
from ray_distil.store.artifact import Artifact
from ray_distil.store.schemas import RESPONSES, REWRITES, SFT_EXAMPLES
from ray_distil.store.shards import table_of
from ray_distil.store.storage import Folder
from tests.unit.test_eval import World, said, world  # noqa: F401  a fixture

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


@pytest.mark.parametrize(
    ("kind", "answer", "reference", "is_unclear"),
    [
        ("math", "2 furlongs", "402 m", True), ("math", "5", "6", False), ("math", "6", "6", False), ("integer", "6", "five", True),
        ("integer", "6", "5", False), ("text", "a", "b", False), ("choice", "A", "B", False), ("math", "", "five", False),
    ],
)  # fmt: skip
def test_a_row_of_an_evaluation_says_so(kind: str, answer: str, reference: str, is_unclear: bool) -> None:
    row = {"response": f"It is \\boxed{{{answer}}}.", "reference_answer": reference, "complete": True, "num_choices": 2}
    scored = scorers.judged(row, kind)
    assert (scored["unclear"], scored["correct"]) == (is_unclear, answer == reference)
    assert scorers.judged(row | {"complete": False}, kind)["unclear"] is False
    assert scorers.judged(row | {"reference_answer": None}, kind)["unclear"] is None
    assert scorers.judged(row | {"reference_answer": "5"}, "examples.my_scorers:within_a_percent")["unclear"] is None


STATED = {"402 m": "2 furlongs", "5": "6", "7": "7"}  # by the reference


def with_answers(world: World) -> list[dict[str, Any]]:  # noqa: F811
    world.write("mixed", [{"instruction": f"Which is {text}?", "answer": text} for text in [*STATED, None]])
    world.answer = lambda row: said(f"\\boxed{{{STATED.get(row['reference_answer'])}}}")
    return world.run("mixed")


def test_a_report_counts_and_shows_them(world: World) -> None:  # noqa: F811
    (model, *_) = with_answers(world)
    assert (model["num_wrong"], model["num_unclear"], model["accuracy"]) == (2, 1, pytest.approx(1 / 3))
    assert [row["unclear"] for row in world.rows("base/mixed").values()].count(True) == 1
    for kind, cells in (
        ("md", "| base on mixed: 1 of 2 wrong | 2 furlongs | 402 m |"),
        ("html", "<span>1 of 2</span>"),
    ):
        page = (world.folder / "runs" / "r" / "report" / f"report.{kind}").read_text()
        assert "Answers that could not be read" in page
        assert cells in page


def test_what_an_earlier_version_has_not_counted_is_not_known(world: World) -> None:  # noqa: F811
    with_answers(world)
    folder = world.folder / "runs" / "r" / "eval" / "base" / "mixed"
    for file in folder.glob("part-*.parquet"):
        pq.write_table(pq.read_table(file).drop_columns(["unclear"]), file)
    manifest = json.loads((folder / "_manifest.json").read_text())
    del manifest["summary"]["num_unclear"], manifest["summary"]["num_wrong"]
    (folder / "_manifest.json").write_text(json.dumps(manifest))
    (model, *_) = report.build(Folder.at(world.folder / "runs" / "r")).models
    assert (model["num_wrong"], model["num_unclear"]) == (2, None)
    world.run("mixed", mixed={"limit": 2})
    assert world.asked == []


def test_a_report_shows_what_is_not_learnt(tmp_path: Path) -> None:
    """Of slow responses that are not rewritten, and of candidates that another artifact has the answers of."""
    run = Folder.at(tmp_path)
    blank = {f.name: "x" if f.type == pa.string() else 1 for f in RESPONSES}
    blank |= {"finish_reason": "stop", "response": "At length. " * 9, "reasoning": "", "reference_answer": "402 m"}
    answers = {"a" * 16: "2 furlongs", "b" * 16: "5 m", "c" * 16: "402 m", "d" * 16: "3 chains"}
    rows = [blank | {"response_id": k, "teacher": "direct", "answer": text} for k, text in answers.items()]
    rows[-1]["teacher"] = "slow"
    source = rewrites.request(rows[2], [*GATES], Question({}))
    rewrite = rewrites.rewrite_row(
        source | {"generated_text": "It follows that it is \\boxed{4 chains}, as 4 * 100 = 400.", "finish_reason": "stop"}
        | {"error": "", "num_generated_tokens": 0, "num_prompt_tokens": 0, "num_thinking_tokens": 0}, "m", {},
    )  # fmt: skip
    assert rewrite["verdict"] == "unclear_answer"
    unfit = rewrites.unfit_batch(pa.Table.from_pylist([rewrites.request(rows[3], [*GATES], Question({}))]))
    examples = [sft_examples.response_example(row, [*GATES], "") for row in rows[:3]]
    examples.append(sft_examples.rewrite_example(rewrite, [*GATES], ""))
    for name, schema, table in (
        ("responses", RESPONSES, table_of(rows, RESPONSES)),
        ("rewrites", REWRITES, pa.concat_tables([table_of([rewrite], REWRITES), unfit])),
        ("sft_examples", SFT_EXAMPLES, table_of(examples, SFT_EXAMPLES)),
    ):
        artifact = Artifact(run, name, schema, "f")
        artifact.start()
        artifact.write_table(table, name)
        artifact.finish(name, "rows", table.num_rows, 1.0)
    assert sorted(excerpts.unclear(run, [])) == [
        ["rewrites: not learnt", "3 chains", "402 m"],
        ["sft_examples: not learnt", "2 furlongs", "402 m"],
        ["sft_examples: not learnt", "4 chains", "402 m"],
    ]


OPTIONS = "Which is 9 squared? (A) 80 (B) 81 (C) 82"


@pytest.mark.parametrize(("answer", "problem", "verdict"), [
    ("81", OPTIONS, "unclear"), ("80", OPTIONS, "unclear"), ("B", OPTIONS, "equal"), ("(A)", OPTIONS, "different"),
    ("81", "What is 9 squared?", "different"), ("81", "Which is 9 squared?\nA. 80\nB. 81", "unclear"),
])  # fmt: skip
def test_an_option_beside_its_letter_is_unclear(answer: str, problem: str, verdict: str) -> None:
    """The judge does not know which text stands behind a letter."""
    assert compare_answers(answer, "B", problem) == verdict
