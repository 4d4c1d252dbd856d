"""Sets of row ids at eight bytes an id, for artifacts with too many rows for Python's own sets.

An id has 16 hexadecimal digits (`schemas.stable_id`): a number of 64 bits.
"""

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

Keys = npt.NDArray[np.uint64]
DIGITS = 16
RUN = 2**22  # most ids that `SeenIds.add` joins and sorts again: 32 MiB, and a copy of them meanwhile


def keys_of(ids: list[str]) -> Keys:
    """The ids as numbers, [rows]. Raises ValueError for an id that is not 16 hexadecimal digits."""
    raw = bytes.fromhex("".join(ids))
    if len(raw) * 2 != DIGITS * len(ids):
        raise ValueError(f"an id has {DIGITS} hexadecimal digits; here are some that do not, such as {ids[0]!r}")
    return np.frombuffer(raw, dtype=">u8").astype(np.uint64)


def count_ids(parts: Iterable[list[str]]) -> tuple[int, Keys]:
    """How many different ids there are, and those that are there more than once."""
    keys = sorted_keys(parts)
    again = keys[~_is_first(keys)]
    return len(keys) - len(again), np.unique(again)


class IdSet:
    """A set of ids that never changes. Pickled, it takes eight bytes an id."""

    def __init__(self, parts: Iterable[list[str]] = ()) -> None:
        keys = sorted_keys(parts)
        is_first = _is_first(keys)
        self.keys = keys if is_first.all() else keys[is_first]

    def __len__(self) -> int:
        return len(self.keys)

    def __contains__(self, row_id: object) -> bool:
        if not len(self.keys):
            return False
        key = np.uint64(int(str(row_id), 16))
        place = np.searchsorted(self.keys, key)
        return bool(place < len(self.keys) and self.keys[place] == key)


class SeenIds:
    """A set of ids that grows by parts, at eight bytes an id."""

    def __init__(self) -> None:
        self._runs: list[Keys] = []  # sorted arrays; few, so that a search can look into each

    def contains(self, keys: Keys) -> npt.NDArray[np.bool_]:
        """Which of the keys were added before, [rows]."""
        order = np.argsort(keys)
        ascending = keys[order]  # a search in this order finds neighbours in the CPU's cache
        is_there = np.zeros(len(keys), np.bool_)
        for run in self._runs:
            place = np.minimum(np.searchsorted(run, ascending), len(run) - 1)
            is_there[order] |= run[place] == ascending
        return is_there

    def add(self, keys: Keys) -> None:
        run = np.sort(keys)
        while self._runs and len(self._runs[-1]) <= len(run) and len(run) + len(self._runs[-1]) <= RUN:
            run = np.concatenate([self._runs.pop(), run])
            run.sort()
        if len(run):
            self._runs.append(run)


def smallest(number: int, *keys: Keys) -> Keys:
    """The `number` smallest of all keys (or all, if fewer), ascending."""
    return np.sort(np.concatenate(keys))[:number]


def sorted_keys(parts: Iterable[list[str]]) -> Keys:
    """All ids as numbers, ascending, [rows]. They are sorted in place: np.unique would need a second array."""
    raw = bytearray()
    for part in parts:
        raw += keys_of(part).tobytes()
    keys = np.frombuffer(raw, dtype=np.uint64)
    keys.sort()
    return keys


def _is_first(keys: Keys) -> npt.NDArray[np.bool_]:
    """Which of the ascending keys differ from the key before them, [rows]."""
    is_first = np.ones(len(keys), np.bool_)
    is_first[1:] = keys[1:] != keys[:-1]
    return is_first
