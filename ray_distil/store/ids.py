"""Sets of row ids at eight bytes an id, for artifacts of more rows than Python's own sets should hold.

An id is 16 hexadecimal digits (`schemas.stable_id`), which are the 64 bits of a number.
"""

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

Keys = npt.NDArray[np.uint64]
DIGITS = 16
RUN = 2**22  # ids that are sorted again when more are added: 32 MiB, beside as many that wait


def keys_of(ids: list[str]) -> Keys:
    """The ids as numbers, [rows]. Raises ValueError for what is not 16 hexadecimal digits."""
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
    """A set of ids that is made once; pickled, it takes eight bytes an id."""

    def __init__(self, parts: Iterable[list[str]] = ()) -> None:
        keys = sorted_keys(parts)
        is_first = _is_first(keys)
        self.keys = keys if is_first.all() else keys[is_first]

    def __len__(self) -> int:
        return len(self.keys)

    def __contains__(self, row_id: str) -> bool:
        if not len(self.keys):
            return False
        key = np.uint64(int(row_id, 16))
        place = np.searchsorted(self.keys, key)
        return bool(place < len(self.keys) and self.keys[place] == key)


class SeenIds:
    """A set of ids that grows by parts, at eight bytes an id."""

    def __init__(self) -> None:
        self._runs: list[Keys] = []  # each ascending, in all as many as a search can take in turn

    def contains(self, keys: Keys) -> npt.NDArray[np.bool_]:
        """Which of the keys were added before, [rows]."""
        order = np.argsort(keys)
        ascending = keys[order]  # searched in this order, neighbours are in the cache
        is_there = np.zeros(len(keys), np.bool_)
        for run in self._runs:
            place = np.minimum(np.searchsorted(run, ascending), len(run) - 1)
            is_there[order] |= run[place] == ascending
        return is_there

    def add(self, keys: Keys) -> None:
        made = np.sort(keys)
        while self._runs and len(self._runs[-1]) <= len(made) and len(made) + len(self._runs[-1]) <= RUN:
            made = np.concatenate([self._runs.pop(), made])
            made.sort()
        if len(made):
            self._runs.append(made)


def smallest(number: int, *keys: Keys) -> Keys:
    """The smallest of the keys, at most so many, ascending."""
    return np.sort(np.concatenate(keys))[:number]


def sorted_keys(parts: Iterable[list[str]]) -> Keys:
    """All ids as numbers, ascending, [rows]. Sorted in place: np.unique would need the memory of a second array."""
    raw = bytearray()
    for part in parts:
        raw += keys_of(part).tobytes()
    keys = np.frombuffer(raw, dtype=np.uint64)
    keys.sort()
    return keys


def _is_first(keys: Keys) -> npt.NDArray[np.bool_]:
    """Which of ascending keys differ from the one before, [rows]."""
    is_first = np.ones(len(keys), np.bool_)
    is_first[1:] = keys[1:] != keys[:-1]
    return is_first
