"""Figures of answers: each against a value worked out by hand or from its source, and None where there is none."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from ray_distil.evaluation import scores
from ray_distil.store.schemas import EVAL

TYPES = {name: EVAL.field(name).type for name in scores.COLUMNS}


def table(*rows: dict[str, Any]) -> pa.Table:
    schema = pa.schema(list(TYPES.items()))
    plain = {"instruction_id": "a", "complete": True, "answer": "5", "num_generated_tokens": 10}
    return pa.Table.from_pylist([plain | row for row in rows], schema=schema)


def graded(*samples: list[bool | None]) -> pa.Table:
    return table(*({"instruction_id": str(k), "correct": c} for k, some in enumerate(samples) for c in some))


def interval(*samples: list[bool | None]) -> list[float] | None:
    return scores.summary(graded(*samples))["accuracy_interval"]


def test_accuracy_interval_is_wilsons_where_problems_have_one_sample() -> None:
    # Wilson (1927) for 270 of 300, as in Brown, Cai, DasGupta (2001): 0.861 to 0.929
    assert interval(*[[True]] * 270, *[[False]] * 30) == pytest.approx([0.8609, 0.9290], abs=1e-4)


def test_samples_of_a_problem_that_agree_say_no_more_than_one() -> None:
    one = interval(*[[True]] * 10, *[[False]] * 10)
    assert interval(*[[True] * 8] * 10, *[[False] * 8] * 10) == one
    apart = interval(*([True] * k + [False] * (8 - k) for k in [4] * 10 + [3, 5] * 5))
    # Variance (10 / 64 + 12 / 4) / 31 for the 20 problems, so that they are as good as 49.1 answers.
    assert apart == pytest.approx([0.3653, 0.6347], abs=1e-4)


def test_accuracy_interval_without_a_reference_and_at_the_ends() -> None:
    assert interval([None], [None]) is None
    assert interval(*[[True]] * 6, [None]) == pytest.approx([0.6097, 1.0], abs=1e-4)
    assert interval(*[[False]] * 300) == pytest.approx([0.0, 0.0126], abs=1e-4)


RUNS = [(0.99, 30, 1), (0.8, 30, 8), (0.5, 30, 64), (0.05, 300, 8), (0.01, 30, 64), (0.02, 30, 64), (0.95, 30, 64)]


@pytest.mark.parametrize(("truth", "problems", "samples"), RUNS)
def test_the_interval_holds_the_truth(truth: float, problems: int, samples: int) -> None:
    from tests.benchmarks.intervals import coverage

    assert coverage(truth, problems, samples, draws=400)[0] > 0.9  # of 95 %; a bootstrap has 0.26 at 99 % of 30


@pytest.mark.parametrize(("first", "second"), [(0.5, 0.5), (0.95, 0.95), (0.99, 0.97)])
@pytest.mark.parametrize(("problems", "samples"), [(30, 1), (30, 8), (300, 1)])
def test_the_interval_of_a_difference_holds_the_truth(first: float, second: float, problems: int, samples: int) -> None:
    from tests.benchmarks.intervals import coverage_of_difference

    assert coverage_of_difference(first, second, problems, samples, draws=500)[0] > 0.9


def test_a_rejected_problem_counts_as_wrong() -> None:
    answers = table({"correct": True}, {"instruction_id": "b", "correct": False})
    rejected = [{"instruction_id": "c", "reference_answer": "5"}, {"instruction_id": "d", "reference_answer": None}]
    made = scores.summarise(answers, rejected, "fast", "sums")
    assert (made["num_problems"], made["num_rejected"], made["mean_tokens"]) == (4, 2, 10)
    assert made["accuracy"] == pytest.approx(1 / 3)
    assert made["completion_rate"] == 0.5
    assert made["no_answer_rate"] == 0.0  # of the answers that there are


def test_nothing_answered_is_no_figure_and_no_division_by_zero() -> None:
    made = scores.summary(table())
    assert {key for key, value in made.items() if value not in (None, {}, 0)} == set()
    assert (made["num_problems"], made["num_samples"]) == (0, 0)
    all_lost = scores.with_rejected(table(), [{"instruction_id": "a", "reference_answer": "5"}])
    made = scores.summary(all_lost)
    assert (made["accuracy"], made["mean_tokens"], made["tokens_per_correct"], made["no_answer_rate"]) == (
        0.0, None, None, None,
    )  # fmt: skip


def test_a_model_that_never_stops_and_one_that_says_nothing() -> None:
    endless = scores.summary(
        table(*({"instruction_id": k, "correct": False, "complete": False, "answer": "5"} for k in "abc"))
    )
    assert (endless["accuracy"], endless["completion_rate"], endless["tokens_of_cut"]) == (0.0, 0.0, 10.0)
    assert (endless["tokens_of_right"], endless["tokens_of_wrong"], endless["tokens_per_correct"]) == (None, None, None)
    silent = scores.summary(table({"correct": False, "answer": None, "num_generated_tokens": 1}))
    assert (silent["no_answer_rate"], silent["accuracy"], silent["mean_tokens"]) == (1.0, 0.0, 1.0)


def test_tokens_are_told_apart_by_how_the_answer_ended() -> None:
    rows = [(True, True, 10), (True, True, 20), (False, True, 40), (False, False, 600), (None, True, 7)]
    made = scores.summary(
        table(*(
            {"instruction_id": str(k), "correct": right, "complete": ended, "num_generated_tokens": n,
             "num_thinking_tokens": n - 5 if k < 2 else None}
            for k, (right, ended, n) in enumerate(rows)
        ))
    )  # fmt: skip
    assert made["tokens_of_right"] == 15
    assert made["tokens_of_wrong"] == 40
    assert made["tokens_of_cut"] == 600
    assert made["tokens_per_correct"] == 670 / 2  # of the graded ones
    assert made["mean_tokens"] == 677 / 5
    assert made["median_tokens"] == 20
    assert made["p90_tokens"] == pytest.approx(40 + 0.6 * 560)
    assert made["mean_thinking_tokens"] == 10


def test_accuracy_is_a_mean_over_problems_and_not_over_answers() -> None:
    assert scores.summary(graded([True], [False, False, False]))["accuracy"] == 0.5


@pytest.mark.parametrize(
    ("n", "c", "k", "expected"),
    # 1 - C(n - c, k) / C(n, k)
    [(4, 1, 1, 1 / 4), (4, 1, 2, 1 / 2), (4, 2, 2, 5 / 6), (4, 0, 4, 0.0), (5, 2, 3, 1 - 1 / 10), (4, 1, 4, 1.0)],
)
def test_pass_at_k_is_unbiased(n: int, c: int, k: int, expected: float) -> None:
    assert scores.pass_at_k(np.array([float(n)]), np.array([float(c)]), k) == pytest.approx(expected)


def test_pass_at_k_is_what_drawing_k_of_them_gives() -> None:
    num, right = np.array([8.0, 8.0, 8.0]), np.array([1.0, 4.0, 7.0])
    draw = np.random.default_rng(0)
    drawn = [
        np.mean([draw.permutation([True] * int(c) + [False] * int(8 - c))[:3].any() for c in right])
        for _ in range(4000)
    ]
    assert scores.pass_at_k(num, right, 3) == pytest.approx(np.mean(drawn), abs=0.015)


def test_more_samples_do_not_change_pass_at_1() -> None:
    """A public harness halves it with each doubling of the samples (lighteval #771)."""
    for n in (1, 2, 4, 8, 16):
        assert scores.summary(graded(*[[True] * n] * 3, [False] * n))["pass_at"]["1"] == 0.75


def test_pass_at_is_given_for_what_every_problem_has() -> None:
    assert list(scores.summary(graded([True] * 6, [False] * 7))["pass_at"]) == ["1", "2", "4", "6"]
    assert scores.pass_at_k(np.array([4.0, 2.0]), np.array([1.0, 1.0]), 3) is None
    assert scores.summary(graded([None] * 4))["pass_at"] == {}


def votes(*given: tuple[str | None, bool, bool]) -> float | None:
    return scores.majority(table(*({"answer": a, "correct": c, "complete": e} for a, c, e in given)))


def test_majority_counts_meanings_and_not_texts() -> None:
    """lighteval votes on whole texts, where no two are the same."""
    assert votes(("0.5", True, True), (r"\frac{1}{2}", True, True), ("3", False, True)) == 1.0
    assert votes(("3", False, True), ("1/2", True, True), ("3.0", False, True)) == 0.0


def test_majority_nothing_and_cut_answers_are_no_votes() -> None:
    assert votes((None, False, True), (None, False, True), ("5", True, True)) == 1.0
    assert votes(("7", False, False), ("7", False, False), ("5", True, True)) == 1.0
    assert votes((None, False, True), (None, False, True)) == 0.0


def test_majority_ties_are_shared() -> None:
    assert votes(("5", True, True), ("7", False, True)) == 0.5
    assert votes(("5", True, True), ("7", False, True), ("8", False, True)) == pytest.approx(1 / 3)


def test_one_sample_has_no_majority() -> None:
    assert scores.summary(graded([True], [False]))["majority"] is None
    assert scores.summary(graded([True, True], [False, True]))["majority"] is not None


def test_difference_is_paired_by_problem() -> None:
    mine, theirs = graded([True], [True], [False], [True]), graded([True], [False], [False], [False])
    made = scores.difference(mine, theirs)
    assert made is not None
    assert made["difference"] == 0.5
    # Agresti and Min (2005), b + 1/2 = 2.5, c + 1/2 = 0.5, n + 2 = 6: 1/3 -+ z sqrt((3 - 4/6) / 36)
    spread = scores.Z * np.sqrt((3 - 4 / 6) / 36)
    assert made["interval"] == pytest.approx([1 / 3 - spread, 1 / 3 + spread], abs=1e-5)
    opposite = scores.difference(theirs, mine)
    assert opposite is not None
    assert opposite["interval"] == pytest.approx([-made["interval"][1], -made["interval"][0]])


def test_models_that_never_differ_may_still_differ_elsewhere() -> None:
    made = scores.difference(graded(*[[True]] * 30), graded(*[[True]] * 30))
    assert made is not None
    low, high = made["interval"]
    assert low < 0 < high
    assert high < 0.12


def test_only_problems_that_both_have_are_compared() -> None:
    one = table({"instruction_id": "a", "correct": True}, {"instruction_id": "b", "correct": False})
    other = table({"instruction_id": "a", "correct": True}, {"instruction_id": "c", "correct": False})
    made = scores.difference(one, other)
    assert made is not None
    assert (made["problems"], made["difference"]) == (1, 0.0)
    assert scores.difference(one, table({"instruction_id": "z", "correct": True})) is None
    assert scores.gain(one, table({"instruction_id": "z", "correct": True})) is None


def test_gain_is_the_ratio_of_the_means_with_an_interval_around_it() -> None:
    fast = table(*({"instruction_id": str(k), "num_generated_tokens": 50 + k} for k in range(40)))
    slow = table(*({"instruction_id": str(k), "num_generated_tokens": 200 + 3 * k} for k in range(40)))
    made = scores.gain(fast, slow)
    assert made is not None
    assert made["gain"] == pytest.approx((200 + 3 * 19.5) / (50 + 19.5))
    assert made["interval"][0] < made["gain"] < made["interval"][1]
    assert scores.gain(fast, slow) == made  # the same draws each time
    same = scores.gain(fast, fast)
    assert same is not None
    assert same["interval"] == [1.0, 1.0]


def test_pareto_front_is_what_no_other_model_beats() -> None:
    models = [
        {"name": name, "mean_tokens": tokens, "accuracy": accuracy}
        for name, tokens, accuracy in [
            ("slow", 200.0, 0.95), ("fast", 50.0, 0.95), ("worse", 60.0, 0.9), ("base", 10.0, 0.0), ("none", 5.0, None),
        ]
    ]  # fmt: skip
    assert [m["name"] for m in scores.pareto_front(models)] == ["base", "fast"]
    assert scores.pareto_front([]) == []
