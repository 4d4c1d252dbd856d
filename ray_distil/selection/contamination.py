"""Training problems that hold a test problem: one of a benchmark, or a held-out one of the run.

    test problem       "Janet's ducks lay 16 eggs per day. She eats three for breakfast every morning and ..."
    training problem   "Solve step by step: Janet's ducks lay 16 eggs per day. ... Thank you!"   contaminated, 1.00
    training problem   "Janet's ducks lay 17 eggs per day. ..."                                  stays: another number

A training problem holds a test problem if more than a set share of the test problem's different 8-grams stand in it, and
all numbers of the test problem do, as often (unless numbers are ignored). A test problem of fewer than 8 words must be the
whole training problem: its only n-gram is all of it. A short question of a multiple choice ("Which of these is true?") must
stand there with at least half of the words of its options.

The n-grams are those of Tulu 3 (arXiv 2411.15124, section 3.2); that numbers count is of this package: the same words with
other numbers are another problem.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ray_distil.selection.words import Hashes, Places, Words, mixed, ngrams, whole_mark, words_of

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
    """The n-grams of all test problems, sorted: 1,919 of them, as those of five benchmarks, take 2 MB.

    Test problems of one template share most n-grams, and each training problem of the template has them too. So an n-gram
    is looked up together with the rarest number of its test problem: problems of the template with other numbers never
    meet it. With `ignore_numbers` each number counts as the same word, and the problems of a template are one.
    """

    def __init__(self, problems: Sequence[BenchmarkProblem], ignore_numbers: bool = False) -> None:
        self.problems, self._ignores_numbers = problems, ignore_numbers
        words = self._read(pa.array([problem.text for problem in problems], pa.string()))
        options = Words.of(words_of(pa.array([problem.options for problem in problems], pa.string())))
        self._numbers = _Numbers.of(words)
        self._options = [
            np.unique(options.hashes[slice(*options.starts[k : k + 2])]) if length < SHORT else np.zeros(0, np.uint32)
            for k, length in enumerate(np.diff(words.starts))
        ]

        # Of equal problems the first one counts.
        grams, starts = ngrams(words, SIZE)
        _, first = np.unique(whole_mark(words) ^ mixed(whole_mark(options)), return_index=True)
        tests = np.repeat(np.arange(len(problems)), np.diff(starts))
        counts = np.isin(tests, first)
        rarest = self._rarest_numbers()
        keys = _keys(grams, rarest[tests])
        pairs = np.unique(np.stack([keys[counts], tests[counts].astype(np.uint64)]), axis=1)
        self._keys, self._tests = pairs[0], pairs[1].astype(np.int64)
        self._counts = np.bincount(self._tests, minlength=len(problems))
        self._rarest = np.unique(rarest)

        # Most n-grams of training problems are in no test problem: a bit for each value of some of a hash's bits tells it.
        self._is_there = np.zeros(_FILTER, np.bool_)
        self._is_there[_places(grams)] = True

    def held_by(self, column: pa.Array | pa.ChunkedArray, coverage: float) -> Contaminated:
        """Which rows hold a test problem; for each that of which it holds most. column: words of problems, of type WORDS."""
        words = Words.of(column)
        if self._ignores_numbers:
            words = _without_numbers(words)
        grams, starts = ngrams(words, SIZE)
        hits = np.flatnonzero(self._is_there[_places(grams)])
        rows = np.searchsorted(starts, hits, "right") - 1
        rows, tests, shares = self._shares(*self._looked_up(words, grams[hits], rows))
        is_held = shares > coverage
        rows, tests, shares = rows[is_held], tests[is_held], shares[is_held]
        is_held = self._numbers.are_in(_Numbers.of(words), rows, tests)
        is_held[is_held] = [self._has_options(words, *pair) for pair in zip(rows[is_held], tests[is_held], strict=True)]

        # Of several test problems of a row the one with the largest share, then the first.
        rows, tests, shares = rows[is_held], tests[is_held], shares[is_held]
        order = np.lexsort((tests, -shares, rows))
        rows, tests, shares = rows[order], tests[order], shares[order]
        is_best = np.append(True, rows[1:] != rows[:-1])[: len(rows)]
        return Contaminated(rows[is_best], tests[is_best], shares[is_best].astype(np.float32))

    def _read(self, texts: pa.Array) -> Words:
        words = Words.of(words_of(texts))
        return _without_numbers(words) if self._ignores_numbers else words

    def _rarest_numbers(self) -> npt.NDArray[np.uint32]:
        """Of each test problem the number that the fewest test problems have, 0 for one without a number, [problems]."""
        problems, hashes = self._numbers.rows, self._numbers.hashes
        different, codes, counts = np.unique(hashes, return_inverse=True, return_counts=True)
        rarest = np.zeros(len(self.problems), np.uint32)
        order = np.lexsort((-counts[codes], problems))  # the last one of a problem stays
        rarest[problems[order]] = different[codes[order]]
        return rarest

    def _looked_up(self, words: Words, grams: Hashes, rows: Places) -> tuple[Hashes, Places]:
        """(keys, their rows): each n-gram with no number, and with each number of its row that may be a rarest one."""
        at = np.flatnonzero(words.is_number & np.isin(words.hashes, self._rarest))
        pairs = np.unique((np.searchsorted(words.starts, at, "right") - 1) << 32 | words.hashes[at].astype(np.int64))
        starts = np.searchsorted(pairs >> 32, np.arange(len(words.starts)))
        counts = np.diff(starts)[rows]
        of_gram = np.repeat(np.arange(len(grams)), counts)
        number = pairs[np.repeat(starts[rows] - np.cumsum(counts) + counts, counts) + np.arange(counts.sum())]
        keys = _keys(grams[of_gram], (number & 0xFFFFFFFF).astype(np.uint32))
        return (
            np.concatenate([_keys(grams, np.zeros(len(grams), np.uint32)), keys]),
            np.concatenate([rows, rows[of_gram]]),
        )

    def _shares(self, keys: Hashes, rows: Places) -> tuple[Places, Places, npt.NDArray[np.float64]]:
        """(rows, numbers of test problems, share of the test problem's n-grams that stand in the row)."""
        first = np.searchsorted(self._keys, keys)
        width = np.searchsorted(self._keys, keys, "right") - first
        place = np.repeat(first - np.cumsum(width) + width, width) + np.arange(width.sum())
        once = np.unique(np.repeat(rows, width) << 32 | place)  # an n-gram of a test problem counts once a row
        pairs, counts = np.unique((once >> 32) << 32 | self._tests[once & 0xFFFFFFFF], return_counts=True)
        tests = pairs & 0xFFFFFFFF
        return pairs >> 32, tests, counts / self._counts[tests]

    def _has_options(self, words: Words, row: int, problem: int) -> bool:
        """Whether the row has half of the words of the test problem's options, where it needs them."""
        options = self._options[problem]
        in_row = words.hashes[words.starts[row] : words.starts[row + 1]]
        return not len(options) or bool(np.isin(options, in_row).mean() >= 0.5)


class _Numbers(NamedTuple):
    """The numbers of all rows: rows ascending, [numbers]; which time a number stands in its row: 0, 1, ..."""

    rows: Places
    hashes: npt.NDArray[np.uint32]
    times: Places

    @classmethod
    def of(cls, words: Words) -> "_Numbers":
        at = np.flatnonzero(words.is_number)
        rows, hashes = np.searchsorted(words.starts, at, "right") - 1, words.hashes[at]
        order = np.lexsort((hashes, rows))
        rows, hashes = rows[order], hashes[order]
        place = np.arange(len(rows))
        is_first = np.append(True, (rows[1:] != rows[:-1]) | (hashes[1:] != hashes[:-1]))[: len(rows)]
        return cls(rows, hashes, place - np.maximum.accumulate(np.where(is_first, place, 0)))

    def are_in(self, theirs: "_Numbers", rows: Places, mine: Places) -> npt.NDArray[np.bool_]:
        """For each pair of a row of `theirs` and one of these rows: whether all numbers of the latter stand in the former."""
        begins, ends = np.searchsorted(self.rows, mine), np.searchsorted(self.rows, mine, "right")
        counts = ends - begins
        pair = np.repeat(np.arange(len(mine)), counts)
        number = np.repeat(begins - np.cumsum(counts) + counts, counts) + np.arange(counts.sum())
        is_in = np.isin(
            _in_a_row(rows[pair], self.hashes[number], self.times[number]),
            _in_a_row(theirs.rows, theirs.hashes, theirs.times),
        )
        are_in: npt.NDArray[np.bool_] = np.bincount(pair[~is_in], minlength=len(mine)) == 0
        return are_in


def _in_a_row(rows: Places, hashes: npt.NDArray[np.uint32], times: Places) -> Hashes:
    return mixed(mixed(rows.astype(np.uint64) << np.uint64(32) | hashes) + times.astype(np.uint64))


def _keys(grams: Hashes, numbers: npt.NDArray[np.uint32]) -> Hashes:
    return mixed(grams ^ mixed(numbers.astype(np.uint64)))


def _places(grams: Hashes) -> Places:
    return (grams % np.uint64(_FILTER)).astype(np.int64)


def _without_numbers(words: Words) -> Words:
    """Each number as the same word, which is no number."""
    return words._replace(hashes=np.where(words.is_number, np.uint32(1), words.hashes))
