"""Texts counted by the pass rate of their problems, beside a slow count."""

import random
from collections import defaultdict

import numpy as np
import pytest

from ray_distil.selection.choice import Difficulty
from ray_distil.selection.tallies import Tally, rates_of


@pytest.mark.parametrize("seed", range(20))
def test_sums_are_those_of_a_count_one_by_one(seed: int) -> None:
    dice, tally = random.Random(seed), Tally()
    problems: dict[str, set[int]] = defaultdict(set)
    sums: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for part in range(3):
        ids = [part * 1000 + k for k in range(dice.randrange(0, 30))]
        tried = {i: dice.randrange(1, 9) for i in ids if dice.random() < 0.8}
        right = {i: dice.randrange(0, n + 1) for i, n in tried.items()}
        texts = [(i, dice.randrange(0, 5000)) for i in ids for _ in range(dice.randrange(0, 4))]
        dice.shuffle(texts)
        known = sorted(tried)
        difficulty = Difficulty(
            np.array(known, np.uint64),
            np.array([tried[i] for i in known], int),
            np.array([right[i] for i in known], int),
        )
        keys = np.array([i for i, _ in texts], np.uint64)
        tally.add(keys, rates_of(keys, difficulty), np.array([n for _, n in texts], np.int32))
        for i, number in texts:
            if i in tried:
                rate = f"{right[i] / tried[i]:.2f}"
                problems[rate].add(i)
                sums[rate][0] += 1
                sums[rate][1] += number
    assert tally.of_rates() == {rate: [len(problems[rate]), *sums[rate]] for rate in sorted(sums)}


def test_nothing_is_counted_where_there_is_nothing() -> None:
    tally, nothing = Tally(), np.zeros(0, np.int64)
    tally.add(nothing.astype(np.uint64), nothing, nothing)
    assert tally.of_rates() == {}
