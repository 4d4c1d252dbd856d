"""Texts of problems counted by the problems' pass rate: how many there are, of how many problems, and how long they are."""

import numpy as np

from ray_distil.selection.choice import Difficulty
from ray_distil.selection.words import Places
from ray_distil.store.ids import Keys

UNKNOWN = 101  # of a problem without a pass rate, in percent


class Tally:
    """Sums for each pass rate in percent, [102]; the last one is of problems without a pass rate."""

    def __init__(self) -> None:
        self.problems, self.texts, self.characters = (np.zeros(UNKNOWN + 1, np.int64) for _ in range(3))

    def add(self, problems: Keys, rates: Places, characters: Places) -> None:
        """Texts, each with its problem, the problem's rate, and its length. All texts of a problem come at once, [texts]."""
        self.texts += np.bincount(rates, minlength=UNKNOWN + 1)
        self.characters += np.bincount(rates, characters, minlength=UNKNOWN + 1).astype(np.int64)
        self.problems += np.bincount(rates[np.unique(problems, return_index=True)[1]], minlength=UNKNOWN + 1)

    def of_rates(self) -> dict[str, list[int]]:
        """E.g. {"0.25": [problems, texts, characters]}, without rates of which there is no text."""
        columns = zip(self.problems.tolist(), self.texts.tolist(), self.characters.tolist(), strict=True)
        return {f"{rate / 100:.2f}": list(sums) for rate, sums in enumerate(columns) if sums[1] and rate < UNKNOWN}


def rates_of(problems: Keys, difficulty: Difficulty) -> Places:
    """The pass rate of each problem in percent, or UNKNOWN, [problems]."""
    rates = np.full(len(problems), UNKNOWN, np.int64)
    if len(difficulty.problems):
        places = np.minimum(np.searchsorted(difficulty.problems, problems), len(difficulty.problems) - 1)
        percent = np.rint(100 * difficulty.right / difficulty.tried).astype(np.int64)
        is_known = difficulty.problems[places] == problems
        rates[is_known] = percent[places[is_known]]
    return rates
