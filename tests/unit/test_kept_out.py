"""What the report says of chosen problems and texts."""

from dataclasses import replace
from typing import Any

from ray_distil.report.kept_out import curation
from ray_distil.store.manifest import Manifest


def manifest(**summary: Any) -> Manifest:
    return Manifest("a", "a", "f", "rows", 1, 1, 0, {}, 1.0, {}, summary=summary)


def test_teachers_test_problems_and_doubted_references_are_sentences() -> None:
    instructions = manifest(test_sets={"held-out": 300, "own": 5}, contaminated={"own": 2}, pairs={
        "near_duplicate": [{"instruction": "a", "like": "b", "detail": "0.80 of the word pairs are the same"}],
    })  # fmt: skip
    responses = manifest(
        verdicts={"direct": {"accepted": 980, "wrong_answer": 15, "incomplete": 5}, "slow": {"no_answer": 1}}
    )
    examples = manifest(
        pass_rates={"0.00": 10, "0.25": 5, "0.33": 5, "1.00": 80},
        num_doubted=7,
        doubted=list("abcdefg"),
        texts_by_rate={"0.25": [5, 10, 3000], "0.33": [5, 6, 2400], "1.00": [80, 640, 64_000]},
        learnt_by_rate={"0.25": [5, 5, 1000], "1.00": [40, 40, 2000]},
    )
    examples = replace(examples, rejects={"same_text": 483}, rows_in=2481)
    found = curation(instructions, responses, examples)
    assert found["lines"] == [
        "direct is right on 98.0% of 1,000 responses; wrong_answer 15, incomplete 5",
        "slow is right on 0.0% of 1 response; no_answer 1",
        "Test problems that were looked for in the training problems: held-out 300, own 5; found: own 2",
        "483 of 2,481 texts repeat another text of the same problem, and are not learnt",
        "In 7 problems the reference contradicts the teachers: none is right, and more than half state the same other answer: "
        "a, b, c, d, e ...",
    ]
    assert found["difficulty"] == [
        ["none", "10", "10.0%", "–", "–", "–"],
        ["up to a quarter", "5", "5.0%", "5", "300", "200"],
        ["up to a half", "5", "5.0%", "0", "400", "–"],
        ["all", "80", "80.0%", "40", "100", "50"],
    ]
    assert found["alike"] == [["near-duplicate", "a", "b", "0.80 of the word pairs are the same"]]


def test_a_run_of_an_earlier_version_says_nothing() -> None:
    assert curation(None, None, None) == curation(manifest(), manifest(), manifest()) == {"lines": [], "sources": [], "difficulty": [], "alike": []}  # fmt: skip
