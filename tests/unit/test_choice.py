"""The choice among a problem's texts: each rule alone, and all of them beside a slow function."""

import random
import tempfile
from collections import Counter, defaultdict
from statistics import median_high
from typing import Any

import numpy as np
import pytest

from ray_distil.errors import UserError
from ray_distil.selection import choice
from ray_distil.selection.candidates import candidate_parts
from ray_distil.selection.choice import CANDIDATE, CODES, KINDS, REASONS, SAMPLE, Rules, fraction, within_budget

ALL = tuple(CODES.values())
SHORT = (CODES["direct"], CODES["rewrite"])


def candidates_of(*rows: tuple[Any, ...]) -> np.ndarray:
    """(problem, example, kind, characters, answer)."""
    return np.array(
        [(p, e, CODES[kind], length, 1, *(answer or [1])) for p, e, kind, length, *answer in rows], CANDIDATE
    )


def samples_of(*rows: tuple[int, int, bool]) -> np.ndarray:
    """(problem, answer, right), with a reference."""
    return np.array([(*row, True) for row in rows], SAMPLE)


def reasons(candidates: np.ndarray, samples: np.ndarray, **rules: Any) -> list[str]:
    return [REASONS[code] for code in choice.choose(candidates, samples, Rules(**{"kinds": SHORT} | rules))[0]]


def test_all_texts_of_the_kinds_are_learnt() -> None:
    rows = candidates_of((1, 10, "direct", 50), (1, 11, "rewrite", 40), (1, 12, "slow", 400), (2, 13, "direct", 9))
    assert reasons(rows, samples_of()) == ["", "", "not_chosen", ""]
    assert reasons(rows, samples_of(), kinds=(CODES["slow"],)) == ["not_chosen", "not_chosen", "", "not_chosen"]


def test_the_shortest_texts_are_learnt() -> None:
    rows = candidates_of((1, 12, "direct", 50), (1, 10, "rewrite", 40), (1, 11, "direct", 40), (2, 13, "direct", 900))
    assert reasons(rows, samples_of(), choose="shortest") == ["not_chosen", "", "not_chosen", ""]
    assert reasons(rows, samples_of(), choose="shortest", keep=2) == ["not_chosen", "", "", ""]
    assert reasons(rows, samples_of(), choose="random") == ["not_chosen", "", "not_chosen", ""]


def test_a_text_without_reasoning_is_too_short() -> None:
    """The conclusion behind a thought is often the answer alone: 18 tokens beside texts of 54."""
    rows = candidates_of(
        (1, 1, "conclusion", 18), (1, 2, "direct", 54), (1, 3, "rewrite", 60), (1, 4, "conclusion", 40)
    )
    kinds = {"kinds": (*SHORT, CODES["conclusion"]), "min_length": 0.5}
    assert reasons(rows, samples_of(), **kinds) == ["too_short", "", "", ""]
    assert reasons(rows, samples_of(), choose="shortest", **kinds) == ["too_short", "not_chosen", "not_chosen", ""]
    alone = candidates_of((1, 1, "conclusion", 18))
    assert reasons(alone, samples_of(), **kinds) == [""]


def test_difficulty_is_the_share_of_right_samples() -> None:
    rows = candidates_of((1, 1, "direct", 9), (2, 2, "direct", 9), (3, 3, "direct", 9), (4, 4, "direct", 9))
    samples = samples_of((1, 7, True), (1, 7, True), (2, 7, True), (2, 8, False), (3, 8, False), (3, 8, False))
    assert reasons(rows, samples, pass_rate=(0.5, 1.0)) == ["", "", "too_hard", ""]
    assert reasons(rows, samples, pass_rate=(0.0, 0.9)) == ["too_easy", "", "", ""]
    assert reasons(rows, samples, easy_fraction=0.0) == ["too_easy", "", "", ""]
    found = choice.choose(rows, samples, Rules(SHORT))[1]
    assert [column.tolist() for column in found] == [[1, 2, 3], [2, 2, 2], [2, 1, 0]]


def test_a_hard_problem_is_learnt_at_full_length() -> None:
    rows = candidates_of((1, 1, "direct", 9), (1, 2, "slow", 500), (1, 3, "slow", 400), (2, 4, "direct", 9), (2, 5, "slow", 300), (3, 6, "direct", 9))  # fmt: skip
    samples = samples_of((1, 7, True), (1, 8, False), (2, 7, True), (3, 7, True), (3, 8, False))
    assert reasons(rows, samples, slow_fraction=1.0) == ["not_chosen", "not_chosen", "", "", "not_chosen", ""]


def test_the_majority_stands_in_for_a_reference() -> None:
    rows = candidates_of((1, 1, "direct", 9, 7), (1, 2, "direct", 9, 8), (2, 3, "direct", 9, 7), (3, 4, "direct", 9, 7), (4, 5, "direct", 9, 8))  # fmt: skip
    open_ = [(1, 7), (1, 7), (1, 8), (2, 7), (2, 8), (3, 7)]
    samples = np.array([(*row, False, False) for row in open_] + [(4, 8, True, True)], SAMPLE)
    assert reasons(rows, samples) == [""] * 5
    assert reasons(rows, samples, vote=True) == ["", "minority_answer", "no_majority", "no_majority", ""]
    assert reasons(rows, samples, vote=True, pass_rate=(0.9, 1.0)) == ["too_hard", "minority_answer", "no_majority", "no_majority", ""]  # fmt: skip


def test_a_budget_holds_whole_problems() -> None:
    problems = np.repeat(np.arange(1, 101, dtype=np.uint64), 3)
    tokens = np.full(300, 10)
    within = within_budget(problems, tokens, 1_015)
    assert within.sum() * 10 == 990
    assert set(Counter(problems[within].tolist()).values()) == {3}
    assert not within_budget(problems, tokens, 29).any()
    assert within_budget(problems, tokens, 3_000).all()
    assert len(within_budget(problems[:0], tokens[:0], 5)) == 0
    more = within_budget(problems, tokens, 2_000)
    assert more[within].all(), "a larger budget holds what a smaller one does"


def test_references_that_contradict_all_teachers_are_found() -> None:
    rows = [
        (1, 7),
        (1, 7),
        (1, 8),
        (2, 7),
        (2, 8),
        (2, 9),
        (3, 7),
        (3, 7),
        (4, 7),
        (4, 7),
        (4, 7),
        (5, 7),
        (5, 7),
        (5, 0),
    ]
    samples = np.array([(*row, row[0] == 4, True) for row in rows] + [(6, 7, False, False)] * 4, SAMPLE)
    problems, answers = choice.doubted(samples)
    assert (problems.tolist(), answers.tolist()) == ([1], [7])


def slowly(candidates: np.ndarray, samples: np.ndarray, rules: Rules) -> list[str]:
    """The rules of docs/curation.md, problem by problem."""
    reasons = [""] * len(candidates)
    of_problem = defaultdict(list)
    for k, row in enumerate(candidates):
        of_problem[int(row["problem"])].append(k)
    for problem, rows in of_problem.items():
        tried = [s for s in samples if s["problem"] == problem]
        referenced = [s for s in tried if s["has_reference"]]
        winner = None
        if rules.vote and not referenced:
            votes = Counter(int(s["answer"]) for s in tried if s["answer"])
            winner = next((a for a, n in votes.items() if n >= 2 and 2 * n > len(tried)), None)
        judged = (
            [bool(s["is_right"]) for s in referenced]
            if referenced
            else [s["answer"] == winner for s in tried if winner]
        )
        rate = sum(judged) / len(judged) if judged else None
        share = {name: fraction(name, np.array([problem], np.uint64))[0] for name in ("easy", "slow")}
        for k in rows:
            if rules.vote and not referenced:
                reasons[k] = (
                    "no_majority" if winner is None else "minority_answer" if candidates[k]["answer"] != winner else ""
                )
            if not reasons[k] and rate is not None:
                if rate < rules.pass_rate[0]:
                    reasons[k] = "too_hard"
                elif rate > rules.pass_rate[1] or (rate == 1 and share["easy"] >= rules.easy_fraction):
                    reasons[k] = "too_easy"
        left = [k for k in rows if not reasons[k]]
        slow = sorted((k for k in left if KINDS[candidates[k]["kind"]] == "slow"), key=lambda k: (candidates[k]["characters"], candidates[k]["example"]))  # fmt: skip
        if slow and rate is not None and rate < 1 and share["slow"] < rules.slow_fraction:
            for k in left:
                reasons[k] = "" if k == slow[0] else "not_chosen"
            continue
        for k in left:
            if candidates[k]["kind"] not in rules.kinds:
                reasons[k] = "not_chosen"
        left = [k for k in left if not reasons[k]]
        lengths = [int(candidates[k]["characters"]) for k in left if KINDS[candidates[k]["kind"]] != "conclusion"]
        floor = rules.min_length * median_high(lengths) if lengths else 0
        for k in left:
            if candidates[k]["characters"] < floor:
                reasons[k] = "too_short"
        left = [k for k in left if not reasons[k]]
        if rules.choose != "all":
            keys = ("characters", "example") if rules.choose == "shortest" else ("example",)
            for k in sorted(left, key=lambda k: tuple(candidates[k][name] for name in keys))[rules.keep :]:
                reasons[k] = "not_chosen"
    return reasons


@pytest.mark.parametrize("seed", range(60))
def test_all_rules_together_do_what_a_slow_function_does_in_any_order(seed: int) -> None:
    dice = random.Random(seed)
    problems = [dice.getrandbits(63) for _ in range(dice.choice([1, 5, 30]))]
    rows = [(dice.choice(problems), dice.getrandbits(62), dice.choice(KINDS), dice.randint(5, 60), dice.randint(0, 3)) for _ in range(dice.randint(0, 120))]  # fmt: skip
    referenced = {problem: dice.random() < 0.6 for problem in problems}
    samples = np.array(
        [
            (p, dice.randint(0, 3), dice.random() < 0.6, referenced[p])
            for p in problems
            for _ in range(dice.randint(0, 5))
        ],
        SAMPLE,
    )
    rules = Rules(
        tuple(dice.sample(ALL, dice.randint(1, 4))), dice.choice(["all", "shortest", "random"]), dice.randint(1, 3),
        dice.choice([0.0, 0.5, 1.0]), dice.choice([(0.0, 1.0), (0.3, 0.9)]), dice.choice([1.0, 0.5, 0.0]),
        dice.choice([0.0, 0.5, 1.0]), dice.random() < 0.5,
    )  # fmt: skip
    candidates = candidates_of(*rows)
    expected = slowly(candidates, samples, rules)
    found, difficulty = choice.choose(candidates, samples, rules)
    assert [REASONS[code] for code in found] == expected
    order, of_samples = np.array(dice.sample(range(len(rows)), len(rows)), int), list(range(len(samples)))
    dice.shuffle(of_samples)
    again, same = choice.choose(candidates[order], samples[of_samples], rules)
    assert again.tolist() == found[order].tolist()
    assert all((a == b).all() for a, b in zip(difficulty, same, strict=True))


def test_a_full_disk_is_told_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    full = open("/dev/full", "r+b", buffering=0)  # noqa: SIM115
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **_: full)
    with full, pytest.raises(UserError, match="No space left on device.*set TMPDIR"):
        candidate_parts().add(candidates_of((1, 10, "direct", 50)))
