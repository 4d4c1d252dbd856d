"""Near-duplicate problems: found by MinHash, then compared exactly.

    1 "Ann has 3 boxes of 14 apples. How many apples has she?"     42     stays
    2 "Eva has three boxes of 14 apples. How many apples has she?" 42.0   near_duplicate, like 1: 0.78
    3 "Ann has 3 boxes of 15 apples. How many apples has she?"     45     stays: another number

Two problems are near-duplicates
- if they have the same words in the same order (`words.py`), and no two references that differ; or
- if both have the same reference and the same numbers, and the Jaccard similarity of their sets of word pairs is large.

The later of two is rejected, and only where the earlier one is kept. So each reject names a row that stays; a chain of
likenesses removes nothing.

Reference and numbers are part of the key of a bucket: problems of one template with other numbers never meet, and buckets
stay small. A problem without a reference is a near-duplicate by the first rule alone: nothing else would tell "more" from
"fewer". MinHash in bands: Leskovec, Rajaraman, Ullman, Mining of Massive Datasets, chapter 3.
"""

import re
from collections.abc import Iterable
from hashlib import blake2b
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ray_distil.runtime.temporary_files import filling, temporary_file
from ray_distil.selection.words import Hashes, Places, Words, mixed, ngrams, numbers_mark, whole_mark, words_of
from ray_distil.store.ids import Keys, keys_of

PAIR = 2  # words of an n-gram
BANDS, HASHES = 16, 4  # two problems of similarity 0.7 share a bucket with 98.8 %, of 0.5 with 64 %
COMPARED = 3  # rows of a bucket that each later row is compared with
PARTS = 16  # of a band: that many times less is sorted at once
_RANDOM = np.random.default_rng(20261129)
_FACTORS = _RANDOM.integers(1, 2**31, (BANDS, HASHES), dtype=np.uint32) * np.uint32(2) + np.uint32(1)
_NO_BRACKETS = re.compile(r"[^\[\]()]+")


class Likenesses(NamedTuple):
    """Rows that are near-duplicates, ascending; for each the id of the row that it is like, and their similarity."""

    rows: Places
    keys: Keys
    similarities: npt.NDArray[np.float32]


class Bands:
    """The keys of all rows: a temporary file for each band. One band is in memory at a time, at eight bytes a row."""

    def __init__(self) -> None:
        self._files = [temporary_file() for _ in range(BANDS + 1)]

    def add(self, keys: Hashes) -> None:
        """keys: of the next rows, by `band_keys`. Raises UserError where the disk is full."""
        with filling("instructions"):
            for file, band in zip(self._files, keys, strict=True):
                file.write(band.tobytes())
                file.flush()

    def pairs(self) -> tuple[Places, Places]:
        """(earlier rows, later rows): pairs that share a bucket, each once, ordered by the later row."""
        meetings = np.zeros(0, np.uint64)
        for file in self._files:
            file.seek(0)
            keys = np.frombuffer(file.read(), np.uint64)
            of_band = [meetings]
            for part in range(PARTS):
                rows = np.flatnonzero((keys >> np.uint64(60) == part) & (keys != 0))
                of_band += _meetings(rows[np.argsort(keys[rows], kind="stable")], keys)
            meetings = np.unique(np.concatenate(of_band))
        return (meetings & np.uint64(2**32 - 1)).astype(np.int64), (meetings >> np.uint64(32)).astype(np.int64)


def band_keys(words: Words, references: pa.ChunkedArray) -> Hashes:
    """The key of each band of each row, and last a key of all its words, [BANDS + 1, rows]. 0: in no bucket."""
    grams, starts = ngrams(words, PAIR)
    keys = np.zeros((BANDS + 1, len(references)), np.uint64)
    has_words = np.diff(starts) > 0
    keys[BANDS] = np.where(has_words, whole_mark(words), 0)
    has_bands = has_words & references.is_valid().to_numpy()
    if not has_bands.any():
        return keys

    # Of rows with a reference: the smallest hashes of their word pairs, beside their numbers and the reference.
    mark = (numbers_mark(words) ^ mixed(reference_marks(references)))[has_bands]
    counts = np.diff(starts)[has_bands]
    short = (grams[np.repeat(has_bands, np.diff(starts))] >> np.uint64(32)).astype(np.uint32)
    begins = np.cumsum(counts) - counts
    for band, factors in enumerate(_FACTORS):
        key = mark + np.uint64(band)
        for factor in factors:
            smallest = np.minimum.reduceat(short * factor, begins)
            key = mixed(key * np.uint64(0x9E3779B97F4A7C15) + smallest)
        keys[band, has_bands] = key
    return keys


def find(parts: Iterable[pa.Table], pairs: tuple[Places, Places], threshold: float) -> Likenesses:
    """The near-duplicates among all rows, of the pairs that share a bucket.

    parts: the rows in their order, with `instruction_id`, `reference_answer`, `words`, and `stays`: rows that are never
    rejected. In memory are only rows with which a later row is still to be compared.
    """
    early, late = pairs
    anchors, places = np.unique(early[::-1], return_index=True)
    last = late[::-1][places]  # of each anchor: the last row that is compared with it
    waiting: dict[int, _Row] = {}
    likenesses = _Growing()
    start = at = 0
    for part in parts:
        end, stop = start + part.num_rows, int(np.searchsorted(late, start + part.num_rows))
        anchors_in_part = anchors[np.searchsorted(anchors, start) : np.searchsorted(anchors, end)]
        compared = np.union1d(anchors_in_part, late[at:stop])
        rejected = set[int]()
        if len(compared):
            waiting |= zip(compared.tolist(), _rows(part.take(pa.array(compared - start))), strict=True)
        for earlier, row in zip(early[at:stop].tolist(), late[at:stop].tolist(), strict=True):
            # A row that was rejected is no longer held, unless it is of this part.
            if row in rejected or waiting[row].stays or earlier in rejected or earlier not in waiting:
                continue
            similarity = waiting[row].likeness(waiting[earlier])
            if similarity >= threshold:
                rejected.add(row)
                likenesses.add(row, waiting[earlier].key, similarity)
        needed = set(anchors[last >= end].tolist()) - rejected if waiting else set()
        waiting = {row: problem for row, problem in waiting.items() if row in needed}
        start, at = end, stop
    return likenesses.finished()


def reference_marks(references: pa.ChunkedArray) -> Hashes:
    r"""A hash of each reference, [rows]: the same for 43 and 43.0, \dfrac12 and 1/2; another for [1, 2) and (1, 2]."""
    coded = references.combine_chunks().dictionary_encode()
    texts = coded.dictionary.to_pylist()
    words = Words.of(words_of(coded.dictionary))
    marks = whole_mark(words)
    for number, text in enumerate(texts):
        has_words = words.starts[number] < words.starts[number + 1]
        if unread := _NO_BRACKETS.sub("", text) if has_words else text:
            marks[number] += np.uint64(int.from_bytes(blake2b(unread.encode(), digest_size=7).digest(), "little"))
    of_rows = coded.indices.fill_null(len(texts)).to_numpy(zero_copy_only=False)
    marks_of_rows: Hashes = np.append(marks, np.uint64(0))[of_rows]
    return marks_of_rows


def _meetings(rows: Places, keys: Hashes) -> list[Hashes]:
    """Pairs of rows with equal keys, as later row * 2**32 + earlier row. rows: ordered by their keys, then ascending."""
    place = np.arange(len(rows))
    is_first = np.concatenate([place[:1] == 0, keys[rows[1:]] != keys[rows[:-1]]])
    first = np.maximum.accumulate(np.where(is_first, place, 0))
    meetings = []
    for k in range(COMPARED):
        later = np.flatnonzero(place - first > k)
        meetings.append(rows[later].astype(np.uint64) << np.uint64(32) | rows[first[later] + k].astype(np.uint64))
    return meetings


class _Row(NamedTuple):
    key: int
    reference: int | None
    pairs: Hashes
    words: int
    stays: bool

    def likeness(self, earlier: "_Row") -> float:
        """The similarity of two problems of one bucket; 0 where they are no duplicates whatever it is."""
        if None in (self.reference, earlier.reference):
            return float(self.words == earlier.words)
        if self.reference != earlier.reference:
            return 0.0
        both = len(np.intersect1d(self.pairs, earlier.pairs, assume_unique=True))
        return both / max(1, len(self.pairs) + len(earlier.pairs) - both)


def _rows(table: pa.Table) -> list[_Row]:
    words = Words.of(table["words"])
    grams, starts = ngrams(words, PAIR)
    references, has_reference = (
        reference_marks(table["reference_answer"]).tolist(),
        table["reference_answer"].is_valid(),
    )
    all_words, stays = whole_mark(words).tolist(), table["stays"].to_pylist()
    return [
        _Row(key, references[k] if valid else None, np.unique(grams[starts[k] : starts[k + 1]]), all_words[k], stays[k])
        for k, (key, valid) in enumerate(
            zip(keys_of(table["instruction_id"].to_pylist()).tolist(), has_reference.to_pylist(), strict=True)
        )
    ]


class _Growing:
    """Likenesses while they are found, in arrays: a file of copies has millions."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    def add(self, row: int, key: int, similarity: float) -> None:
        self._bytes += np.array([(row, key, similarity)], _LIKENESS).tobytes()

    def finished(self) -> Likenesses:
        rows = np.frombuffer(self._bytes, _LIKENESS)
        return Likenesses(rows["row"].copy(), rows["key"].copy(), rows["similarity"].copy())


_LIKENESS = np.dtype([("row", np.int64), ("key", np.uint64), ("similarity", np.float32)])
