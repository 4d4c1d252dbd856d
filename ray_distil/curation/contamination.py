"""Training problems that hold a test problem: one of a benchmark, or a held-out one of the run.

    test problem       "Janet's ducks lay 16 eggs per day. She eats three for breakfast every morning and ..."
    training problem   "Solve step by step: Janet's ducks lay 16 eggs per day. ... Thank you!"   contaminated, 1.00
    training problem   "Janet's ducks lay 17 eggs per day. ..."                                  stays: another number

A training problem holds a test problem if more than a set share of the test problem's different 8-grams stand in it, and
all numbers of the test problem do, as often. A test problem of fewer than 8 words must be the whole training problem: its
only n-gram is all of it. A short question of a multiple choice ("Which of these is true?") must stand there with at least
half of the words of its options.

The n-grams are those of Tulu 3 (arXiv 2411.15124, section 3.2); that numbers count is of this package: the same words with
other numbers are another problem.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ray_distil.curation.words import Hashes, Places, Words, ngrams, words_of

SIZE = 8  # words of an n-gram
SHORT = 20  # words of a question that needs its options
_FILTER = 2**22  # bits


class BenchmarkProblem(NamedTuple):
    """name: as rejects show it. options: of a multiple choice, in one text; else ""."""

    benchmark: str
    name: str
    text: str
    options: str = ""


class Contaminated(NamedTuple):
    """Rows that hold a test problem, ascending; for each the number of the test problem, and the share of its 8-grams."""

    rows: Places
    tests: Places
    shares: npt.NDArray[np.float32]


class BenchmarkProblems:
    """The n-grams of all test problems, sorted: 1,919 of them, as those of five benchmarks, take 2 MB."""

    def __init__(self, problems: Sequence[BenchmarkProblem]) -> None:
        self.problems = problems
        words = Words.of(words_of(pa.array([problem.text for problem in problems], pa.string())))
        options = Words.of(words_of(pa.array([problem.options for problem in problems], pa.string())))
        grams, starts = ngrams(words, SIZE)
        numbers = np.repeat(np.arange(len(problems)), np.diff(starts))
        pairs = np.unique(np.stack([grams, numbers.astype(np.uint64)]), axis=1)
        self._grams, self._tests = pairs[0], pairs[1].astype(np.int64)
        self._counts = np.bincount(self._tests, minlength=len(problems))
        self._numbers = [words.numbers_of(k) for k in range(len(problems))]
        self._options = [
            np.unique(options.hashes[slice(*options.starts[k : k + 2])]) if length < SHORT else np.zeros(0, np.uint32)
            for k, length in enumerate(np.diff(words.starts))
        ]
        # Most n-grams of training problems are in no test problem: a bit for each value of some of a hash's bits tells it.
        self._may_be_there = np.zeros(_FILTER, np.bool_)
        self._may_be_there[(self._grams % np.uint64(_FILTER)).astype(np.int64)] = True

    def held_by(self, words: Words, coverage: float, ignore_numbers: bool = False) -> Contaminated:
        """Which rows hold a test problem; for each that of which it holds most."""
        grams, starts = ngrams(words, SIZE)
        hit = np.flatnonzero(self._may_be_there[(grams % np.uint64(_FILTER)).astype(np.int64)])
        rows = np.searchsorted(starts, hit, "right") - 1
        rows, tests, shares = self._shares(grams[hit], rows)
        best: dict[int, tuple[int, float]] = {}
        for k in np.flatnonzero(shares > coverage).tolist():
            row, test, share = int(rows[k]), int(tests[k]), float(shares[k])
            if (row not in best or share > best[row][1]) and self._holds(words, row, test, ignore_numbers):
                best[row] = (test, share)
        holders = sorted(best)
        return Contaminated(
            np.array(holders, np.int64),
            np.array([best[row][0] for row in holders], np.int64),
            np.array([best[row][1] for row in holders], np.float32),
        )

    def _shares(self, grams: Hashes, rows: Places) -> tuple[Places, Places, npt.NDArray[np.float64]]:
        """(rows, numbers of test problems, share of the test problem's n-grams that stand in the row)."""
        first = np.searchsorted(self._grams, grams)
        width = np.searchsorted(self._grams, grams, "right") - first
        place = np.repeat(first - np.cumsum(width) + width, width) + np.arange(width.sum())
        once = np.unique(np.repeat(rows, width) << 32 | place)  # an n-gram of a test problem counts once a row
        pairs, counts = np.unique((once >> 32) << 32 | self._tests[once & 0xFFFFFFFF], return_counts=True)
        tests = pairs & 0xFFFFFFFF
        return pairs >> 32, tests, counts / self._counts[tests]

    def _holds(self, words: Words, row: int, problem: int, ignore_numbers: bool) -> bool:
        """Whether the row has the test problem's numbers, each as often, and the words of its options."""
        options = self._options[problem]
        if len(options):
            in_row = words.hashes[words.starts[row] : words.starts[row + 1]]
            if np.isin(options, in_row).mean() < 0.5:
                return False
        if ignore_numbers:
            return True
        in_row, (needed, counts) = words.numbers_of(row), np.unique(self._numbers[problem], return_counts=True)
        return bool(np.all(np.searchsorted(in_row, needed, "right") - np.searchsorted(in_row, needed) >= counts))
