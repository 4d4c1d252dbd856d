"""The verdict on each response: used again by later stages, as long as the same gates and judge have given it."""

from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest

from ray_distil.judge import gates
from ray_distil.judge.gates import ACCEPTED, GATES, first_reason, judged_by, verdict
from ray_distil.stages.responses import response_row, verdicts
from ray_distil.store import content
from ray_distil.store.schemas import RESPONSES
from ray_distil.store.shards import table_of


def generated(text: str, reference: str | None = "8", finish_reason: str = "stop") -> dict[str, Any]:
    row = {
        "id": "0123456789abcdef", "instruction_id": "0123456789abcdef", "instruction": "5 + 3?", "teacher": "direct",
        "reference_answer": reference, "sample_index": 0, "generated_text": text, "finish_reason": finish_reason,
        "num_prompt_tokens": 3, "num_generated_tokens": 9, "num_thinking_tokens": 0, "error": "", "seed": 1,
    }  # fmt: skip
    return response_row(row, "m", {})


RIGHT = "5 + 3 = 8. The final answer is \\boxed{8}."


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        (generated(RIGHT), ACCEPTED),
        (generated(RIGHT, None), ACCEPTED),
        (generated(RIGHT, "9"), "wrong_answer"),
        (generated("It is some number."), "no_answer"),
        (generated(RIGHT, finish_reason="length"), "incomplete"),
    ],
)
def test_a_response_has_the_verdict_of_all_gates(response: dict[str, Any], expected: str) -> None:
    assert (response["verdict"], response["judged_by"]) == (expected, judged_by())
    assert table_of([response], RESPONSES)["verdict"].to_pylist() == [expected]


@pytest.fixture
def comparisons(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The pairs that were compared."""
    pairs: list[Any] = []
    compare: Callable[..., str] = gates.compare_answers

    def counted(*pair: Any) -> str:
        pairs.append(pair)
        return compare(*pair)

    monkeypatch.setattr(gates, "compare_answers", counted)
    return pairs


@pytest.mark.parametrize("text", [RIGHT, RIGHT.replace("8", "7"), "It is some number."])
@pytest.mark.parametrize("enabled", [list(GATES), ["complete"], ["complete", "answered"], ["correct"], []])
def test_a_verdict_is_used_and_gives_the_same_reason(text: str, enabled: list[str], comparisons: list[Any]) -> None:
    response = generated(text)
    unjudged = response | {"verdict": None, "judged_by": None}
    expected = first_reason(unjudged, enabled)
    comparisons.clear()
    assert first_reason(response, enabled) == expected
    is_switched_off = response["verdict"] != ACCEPTED and gates.REASONS[response["verdict"]] not in enabled
    assert bool(comparisons) <= is_switched_off


def test_a_verdict_of_another_judge_or_version_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = generated(RIGHT) | {"verdict": "wrong_answer"}
    assert first_reason(wrong, GATES) == "wrong_answer"
    judge = "examples.my_judges:rounded"
    assert judged_by(judge) != judged_by()
    assert first_reason(wrong, GATES, judge) is None
    assert verdict(wrong, judge) == {"verdict": ACCEPTED, "judged_by": judged_by(judge)}
    monkeypatch.setattr(gates, "VERSION", 99)
    assert first_reason(wrong, GATES) is None
    assert verdict(wrong)["judged_by"] == "gates 99"


def test_gates_of_ones_own_come_after_a_verdict() -> None:
    assert first_reason(generated(f"Certainly! {RIGHT}"), [*GATES, "examples.my_gates:polite"]) is not None
    assert first_reason(generated(RIGHT), [*GATES, "examples.my_gates:polite"]) is None


def test_a_verdict_changes_no_digest_of_the_rows() -> None:
    """It follows from the other columns; artifacts of earlier versions, which lack it, stay as they are."""
    table = table_of([generated(RIGHT), generated(RIGHT, "9")], RESPONSES).select(RESPONSES.names)
    earlier = table.drop_columns(["verdict", "judged_by"])
    assert content.digest(table) == content.digest(earlier)
    rewrites = pa.table({"rewrite_id": ["a"], "verdict": ["accepted"]})
    assert content.digest(rewrites) != content.digest(rewrites.set_column(1, "verdict", pa.array(["no_steps"])))


def test_the_rates_of_teachers_count_problems_with_a_reference() -> None:
    rows = [generated(RIGHT)] * 3 + [generated(RIGHT, "9"), generated(RIGHT, None)]
    rows += [generated(RIGHT, "9") | {"teacher": "slow"}, generated(RIGHT) | {"teacher": "slow", "verdict": None}]
    tables = [table_of(rows[:2], RESPONSES), table_of(rows[2:], RESPONSES)]
    assert verdicts(tables) == {"direct": {"accepted": 3, "wrong_answer": 1}, "slow": {"wrong_answer": 1}}
    assert verdicts([]) == {}
