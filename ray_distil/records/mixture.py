"""Several sources of training problems in one run, mixed by their shares.

    shares 3 and 1, of 5,000 and 1,000 problems             3,000 and 1,000: the scarcer source sets the sum
    the same with num_train: 2000                           1,500 and 500
    no shares, of 5,000 and 1,000, with num_train: 3000     2,500 and 500: by the sizes

Of a source, the problems with the smallest ids are taken. Ids are hashes: the choice is as good as random, the same for
any order of the file, and a larger number takes the same problems and more.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from ray_distil.records.limits import rejected, usable
from ray_distil.records.problem_facts import TRAIN
from ray_distil.store.ids import Keys, keys_of
from ray_distil.store.shards import REASON

OVER_SHARE, OVER_LIMIT = "over_share", "over_limit"


class Part(NamedTuple):
    """A source of training problems. key: of the configuration. share: of all training problems, beside other shares."""

    label: str
    key: str
    share: float | None
    max_problems: int | None


class Taken(NamedTuple):
    """What is taken of a source: so many problems, those with the ids up to `highest`."""

    number: int
    highest: int
    reason: str  # of the problems that are not taken
    detail: str


@dataclass(frozen=True)
class Mixture:
    parts: Sequence[Part]
    num_train: int | None

    def numbers(self, available: Sequence[int]) -> list[int]:
        """How many problems are taken of each source. available: how many usable ones each has."""
        limits = [min(number, part.max_problems or number) for number, part in zip(available, self.parts, strict=True)]
        shares = [Fraction(str(part.share)) for part in self.parts if part.share is not None]
        if not shares and (self.num_train is None or sum(limits) <= self.num_train):
            return limits

        # The number of all.
        shares = shares or [Fraction(number) for number in limits]
        shares = [share / sum(shares) for share in shares]
        total = min(number / share for number, share in zip(limits, shares, strict=True) if share)
        total = Fraction(int(min(total, self.num_train or total)))

        # Rounded down; the largest remainders get what is left.
        exact = [total * share for share in shares]
        numbers = [int(number) for number in exact]
        by_remainder = sorted(range(len(exact)), key=lambda k: numbers[k] - exact[k])
        for k in by_remainder[: int(total) - sum(numbers)]:
            numbers[k] += 1
        return numbers

    def taken(self, rows: Iterable[pa.Table]) -> dict[str, Taken]:
        """Label -> what is taken. rows: all, with the columns `instruction_id`, `source` and `split`."""
        by_label: defaultdict[str, list[Keys]] = defaultdict(list)
        for table in rows:
            training = usable(table, TRAIN)
            keys = keys_of(training["instruction_id"].to_pylist())
            labels = training["source"].to_numpy()
            for part in self.parts:
                by_label[part.label].append(keys[labels == part.label])
        keys_by_part = [np.concatenate([keys_of([]), *by_label[part.label]]) for part in self.parts]
        numbers = self.numbers([len(keys) for keys in keys_by_part])

        taken = {}
        for part, keys, number in zip(self.parts, keys_by_part, numbers, strict=True):
            highest = int(np.partition(keys, number - 1)[number - 1]) if number else -1
            taken[part.label] = Taken(number, highest, *self._why(part, number, len(keys)))
        return taken

    def _why(self, part: Part, number: int, available: int) -> tuple[str, str]:
        """Reason and detail of the problems of a source that are not taken."""
        if number == part.max_problems:
            return OVER_LIMIT, f"{part.key}.max_problems is {number}"
        if part.share is None:
            return (
                OVER_LIMIT,
                f"instructions.num_train is {self.num_train}: {number:,} of {available:,} of {part.label}",
            )
        return OVER_SHARE, f"{part.key}.share is {part.share:g}: {number:,} of {available:,} of {part.label}"


def without_rest(table: pa.Table, taken: dict[str, Taken]) -> pa.Table:
    """The table; training problems that are not taken are rejected."""
    if not taken:
        return table
    keys = keys_of(table["instruction_id"].to_pylist())
    is_training = (table["split"].to_numpy() == TRAIN) & table[REASON].is_null().to_numpy()
    labels = table["source"].to_numpy()
    for label, part in taken.items():
        is_over = keys > part.highest if part.number else True
        rows = np.flatnonzero(is_training & (labels == label) & is_over)
        table = rejected(table, rows, part.reason, [part.detail] * len(rows))
    return table
