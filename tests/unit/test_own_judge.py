"""A judge of a user's own: it compares in place of the rules, for training and in evaluations, and buys no text."""

import re
from pathlib import Path

import pyarrow as pa
import pytest

from examples.my_judges import rounded
from ray_distil.checks import preflight
from ray_distil.config.models import resolve_models
from ray_distil.errors import ConfigError, UserError
from ray_distil.evaluation import scores
from ray_distil.judge import scorers
from ray_distil.judge.gates import GATES, first_reason
from ray_distil.stages import sft_examples
from ray_distil.store.shards import REASON
from tests.unit.test_doors import config, here, import_anew  # noqa: F401  a fixture
from tests.unit.test_reuse import Asked, asked, rows_of  # noqa: F401  a fixture

PATH = "pen_gates:same"
ROW = {
    "instruction": "5 pens?",
    "response": "It is so.",
    "finish_reason": "stop",
    "answer": "6",
    "reference_answer": "5",
}
ROUNDED = "examples.my_judges:rounded"


def write(folder: Path, body: str, parameters: str = "answer, reference, problem") -> None:
    (folder / "pen_gates.py").write_text(f"def same({parameters}):\n    return {body}\n")
    import_anew()


def test_the_example_does_what_it_says() -> None:
    pairs = {
        ("0.333", "1/3"): True,
        ("0.34", "1/3"): False,
        ("1/3", "2/6"): True,
        ("five", "5"): None,
        ("2", "3"): False,
    }
    assert {pair: rounded(*pair, "") for pair in pairs} == pairs


@pytest.mark.parametrize(
    ("body", "reason"),
    [("True", None), ("False", "wrong_answer"), ("None", "unclear_answer"), ("problem == '5 pens?'", None),
     ("(answer, reference) == ('6', '5')", None)],
)  # fmt: skip
def test_it_decides_the_gate(here: Path, body: str, reason: str | None) -> None:  # noqa: F811
    write(here, body)
    assert first_reason(ROW, GATES, PATH) == reason
    assert first_reason(ROW, GATES) == "wrong_answer"
    assert first_reason(ROW | {"reference_answer": None}, GATES, PATH) is None
    assert first_reason(ROW | {"answer": None}, ["correct"], PATH) == "wrong_answer"


@pytest.mark.parametrize("kind", ["math", "integer", "text"])
def test_it_decides_an_evaluation(here: Path, kind: str) -> None:  # noqa: F811
    row = {
        "instruction": "Which?",
        "response": "\\boxed{6}",
        "reference_answer": "5",
        "complete": True,
        "num_choices": 9,
    }
    for body, figures in (("True", (True, False)), ("None", (False, True)), ("problem == 'Which?'", (True, False))):
        write(here, body)
        scored = scorers.judged(row, kind, PATH)
        assert (scored["correct"], scored["unclear"]) == figures
        assert re.fullmatch(rf"{kind} {scorers.VERSION} {PATH}@[0-9a-f]{{16}}", scored["scored_by"])
        assert scorers.judged(row | {"complete": False}, kind, PATH)["correct"] is False


def test_letters_and_own_scorers_need_no_judge() -> None:
    kinds = ("math", "choice", "examples.my_scorers:within_a_percent")
    assert [scorers.judge_of(kind, ROUNDED) for kind in kinds] == [ROUNDED, None, None]


def test_answers_by_a_judge_are_stated_answers() -> None:
    """So figures of them are known, unlike those by a scorer of texts."""
    row = {"instruction": "?", "response": "\\boxed{0.33}", "reference_answer": "1/3", "complete": True}
    rows = [{"instruction_id": "a", **scorers.judged(row, "math", ROUNDED)} for _ in range(2)]
    columns = {name: [one.get(name) for one in rows] for name in scores.COLUMNS}
    figures = scores.summary(scores.with_rejected(pa.table(columns), []))
    assert (figures["accuracy"], figures["majority"], figures["no_answer_rate"]) == (1.0, 1.0, 0.0)


@pytest.mark.parametrize(("body", "shown"), [("'yes'", "'yes'"), ("1", "1"), ("answer", "'6'")])
def test_another_value_is_told_by_name(here: Path, body: str, shown: str) -> None:  # noqa: F811
    write(here, body)
    says = f"answers.judge: {PATH} returned {shown}; a judge returns True, False or None"
    with pytest.raises(UserError, match=re.escape(says)):
        first_reason(ROW, GATES, PATH)


def test_a_judge_that_fails_is_told_by_name(here: Path) -> None:  # noqa: F811
    write(here, "float(reference) == 5")
    scorers.check_judge(PATH, [{"reference_answer": text, "instruction": ""} for text in ("5", None)])
    with pytest.raises(UserError, match=f"answers.judge: {PATH} raised ValueError: could not convert string to float"):
        scorers.check_judge(PATH, [{"reference_answer": "1/2", "instruction": ""}])


@pytest.mark.parametrize(
    ("path", "parameters", "says"),
    [
        ("absent_judges:same", "a, b, c", "'absent_judges' cannot be imported"),
        ("pen_gates:equal", "a, b, c", "'pen_gates' has no function 'equal'"),
        (PATH, "a, b", "pen_gates:same is called with an answer, its reference and the problem: too many"),
        (PATH, "a, b, c, d", "pen_gates:same is called with .*: missing a required argument: 'd'"),
    ],
)
def test_what_cannot_be_called_is_refused_before_anything_is_paid_for(
    here: Path,  # noqa: F811
    path: str,
    parameters: str,
    says: str,
) -> None:
    write(here, "True", parameters)
    chosen = config(f"answers.judge={path}")
    with pytest.raises(ConfigError, match=rf"answers\.judge: {says}"):
        preflight.check(chosen, resolve_models(chosen))


def test_what_is_no_import_path_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"answers\.judge: 'same' is no import path; give package.module:function"):
        config("answers.judge=same")


def test_another_source_is_another_judge(here: Path) -> None:  # noqa: F811
    assert config().answers.marks == {}
    write(here, "True")
    before = config(f"answers.judge={PATH}").answers.marks
    (here / "pen_gates.py").write_text("")
    with pytest.raises(UserError, match="pen_gates.py has changed since it was imported; start this program again"):
        _ = config(f"answers.judge={PATH}").answers.marks
    write(here, "False")
    assert config(f"answers.judge={PATH}").answers.marks != before


def test_a_rewrite_that_the_judge_accepts_gets_its_final_sentence(here: Path) -> None:  # noqa: F811
    write(here, "True")
    row = {
        "reasoning": "2 + 3 = 6",
        "answer": "6",
        "reference_answer": "5",
        "source_answer": "5",
        "instruction": "2 + 3?",
    }
    row |= {
        "rewrite_id": "r",
        "instruction_id": "i",
        "rewritten_tokens": 4,
        "original_tokens": 9,
        "finish_reason": "stop",
    }
    row |= {"original_characters": 99}
    (learnt, *_) = sft_examples.example_batch(
        pa.Table.from_pylist([row]), "rewrite", gates=[*GATES], suffix="", judge=PATH
    ).to_pylist()
    assert (learnt[REASON], learnt["completion"]) == (None, "2 + 3 = 6\n\nThe final answer is \\boxed{6}.")
    assert sft_examples.rewrite_example(row, [*GATES], "")[REASON] == "wrong_answer"


def test_another_judge_asks_for_no_text_again(asked: Asked, here: Path) -> None:  # noqa: F811
    """Responses, rewrites and answers of a run, judged anew. Only sources that are right by now are rewritten beside."""
    asked.run()
    asked.references = {text: "78"[k // 2 % 2] for k, text in enumerate(asked.texts)}  # half of the answers are wrong
    before = [rows_of(artifact) for artifact in asked.run()]
    write(here, "None")
    responses, rewrites, answers = asked.run(f"answers.judge={PATH}")
    assert asked.ids == []
    assert rows_of(responses) == before[0]
    assert rewrites.manifest().rejects["source_unclear_answer"] > 3  # type: ignore[union-attr]
    whole = [row for row in rows_of(answers).values() if row["complete"] and row["answer"] is not None]
    assert {(row["correct"], row["unclear"]) for row in whole} == {(False, True)}
    assert answers.manifest().summary["num_unclear"] == len(whole) > 3  # type: ignore[union-attr]

    write(here, "True")
    responses, rewrites, answers = asked.run(f"answers.judge={PATH}")
    assert not set(asked.ids) & set().union(*before)
    assert rows_of(rewrites).keys() > before[1].keys()
    assert "wrong_answer" in {row["verdict"] for row in before[1].values()}
    assert {row["verdict"] for row in rows_of(rewrites).values()}.isdisjoint(("wrong_answer", "unclear_answer"))
    assert {row["correct"] for row in rows_of(answers).values() if row["complete"] and row["answer"]} == {True}
    assert "source_wrong_answer" not in rewrites.manifest().rejects  # type: ignore[union-attr]

    asked.run()  # and back
    assert not set(asked.ids) & set().union(*before)
    assert [rows_of(artifact) for artifact in asked.run()] == before


def test_a_new_rewrite_is_judged_too(asked: Asked, here: Path) -> None:  # noqa: F811
    write(here, "False")
    rewrites = asked.run("gates.correct=false", f"answers.judge={PATH}")[1]
    whole = [row for row in rows_of(rewrites).values() if row["finish_reason"] == "stop"]
    assert len(whole) > 3
    assert {row["verdict"] for row in whole} == {"wrong_answer"}
