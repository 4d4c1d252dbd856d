r"""Texts of problems as words, a whole column at a time: the form in which likenesses and test problems are found.

    Find $\frac{1}{2}x + 1{,}000$.    ->    find 1 / 2 x + 1000

A word is a word of the text, a letter of a formula, a character of a script without blanks, a number, or an operator. A
problem has the same words with other white space, punctuation, capitals, dollar signs, or LaTeX for the same formula.

Each word is a hash of 31 bits, and a bit that says whether it is a number. Arrow (by RE2, which never backtracks) and numpy
do all of it; there is no Python for each row.
"""

import hashlib
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Hashes = npt.NDArray[np.uint64]
Places = npt.NDArray[np.int64]
WORDS = pa.list_(pa.uint32())
NUMBER = 2**31  # the bit of a number
ROWS_AT_ONCE = 2_000  # their arrays stay in the caches of a CPU

_POWERS = {"²": "^2", "³": "^3"}  # NFKC would make plain digits of them
_FOR_UNICODE = [  # (pattern, replacement), for texts that are not ASCII
    (r"[×·⋅∗]", " * "),
    (r"÷", " / "),
    (r"⩽", "≤"),
    (r"⩾", "≥"),
    (r"[−–—]", "-"),
    (r"’", "'"),
    (r"(\p{Han}|\p{Hiragana}|\p{Katakana})", r" \1 "),
]
_LATEX = [  # each begins with a backslash, by which RE2 finds it
    (r"\\(?:left|right|big|bigg|displaystyle|textstyle|limits|quad|qquad|,|;|!|:| )", " "),
    (r"\\(?:text|textbf|textit|mathrm|mathbf|mathbb|mbox|operatorname|boxed)\b", " "),
    (r"\\[dtc]?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}", r" \1 / \2 "),
    (r"\\[dtc]?frac\s*([0-9a-z])\s*([0-9a-z])", r" \1 / \2 "),
    (r"\\[dtc]?frac\b", " frac "),
    (r"\\(?:cdot|times|ast)\b", " * "),
    (r"\\div\b", " / "),
    (r"\\(?:leq?|leqslant)\b", " ≤ "),
    (r"\\(?:geq?|geqslant)\b", " ≥ "),
    (r"\\neq?\b", " ≠ "),
]
_FOR_ALL = [
    (r"\.\.+", " "),
    (r"([0-9)])!", r"\1 factorial "),
    # Numbers: .5 as 0.5, 1,000 and 1{,}000 as 1000, 43.0 as 43.
    (r"(^|[^0-9\pL.])\.([0-9])", r"\1 0.\2"),
    (r"([0-9])(?:\{,\}|,)([0-9]{3})\b", r"\1\2"),
    (r"([0-9])(?:\{,\}|,)([0-9]{3})\b", r"\1\2"),
    (r"([0-9]\.[0-9]*?[1-9])0+\b", r"\1"),
    (r"([0-9])\.0+\b", r"\1"),
    (r"(\pL)'s\b", r"\1"),
    (r"([0-9]+(?:\.[0-9]+)?)", r" \1 "),
    # Operators. A minus stands behind a value, or before a number; all other hyphens count as blanks.
    (r"<=", "≤"),
    (r">=", "≥"),
    (r"!=", "≠"),
    (r"([+*/^=<>≤≥≠%])", r" \1 "),
    (r"([0-9a-z)}\]] *)-( *[0-9\\(])", r"\1 ⊖ \2"),
    (r"([0-9)}\]] *)-( *[a-z]\b)", r"\1 ⊖ \2"),
    (r"(^|[\s=(,\[{$])-( *[0-9])", r"\1 ⊖ \2"),
    # The rest is punctuation.
    (r"[^\pL\pN.+⊖*/^=<>≤≥≠%\s]+", " "),
    (r"\.(?:\s|$)", " "),
    (r"(\s)\.", r"\1"),
]
_FROM_ZERO = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen twenty"
)
NUMBER_WORDS = {word: str(number) for number, word in enumerate(_FROM_ZERO.split())} | {
    "thirty": "30", "forty": "40", "fifty": "50", "sixty": "60", "seventy": "70", "eighty": "80", "ninety": "90",
    "hundred": "100",
}  # fmt: skip
_ODD = np.uint64(0x9E3779B97F4A7C15)


class Words(NamedTuple):
    """The words of all rows, row by row. hashes: uint32, [words]. starts: where each row begins, and the end, [rows + 1]."""

    hashes: npt.NDArray[np.uint32]
    starts: Places

    @classmethod
    def of(cls, column: pa.Array | pa.ChunkedArray) -> "Words":
        """From a column of the type WORDS; a null is a row without words."""
        lists = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
        counts = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
        starts = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
        return cls(pc.list_flatten(lists).to_numpy(zero_copy_only=False), starts)

    @property
    def is_number(self) -> npt.NDArray[np.bool_]:
        return self.hashes >= NUMBER


def words_of(texts: pa.Array | pa.ChunkedArray) -> pa.Array:
    """The words of each text, as a column of the type WORDS. A null, or a text of punctuation alone, has none."""
    column = texts.combine_chunks() if isinstance(texts, pa.ChunkedArray) else texts
    parts = [_words(column.slice(start, ROWS_AT_ONCE)) for start in range(0, max(len(column), 1), ROWS_AT_ONCE)]
    return pa.concat_arrays(parts)


def ngrams(words: Words, size: int) -> tuple[Hashes, Places]:
    """`(hashes, starts)` of the runs of `size` words of each row. A shorter row has one run, of all its words."""
    lengths = np.diff(words.starts)
    counts = np.where(lengths >= size, lengths - size + 1, np.minimum(lengths, 1))
    starts = np.concatenate([[0], np.cumsum(counts)])
    row = np.repeat(np.arange(len(lengths)), counts)
    first = np.arange(starts[-1]) - starts[row] + words.starts[row]
    inside = np.minimum(lengths, size)[row]

    # A polynomial of the words, mixed; words behind the end of a short row do not count.
    values = np.full(len(first), size, np.uint64)
    spread = mixed(words.hashes.astype(np.uint64))
    is_short = bool((lengths < size).any())
    for k in range(size if len(first) else 0):
        word = spread[np.minimum(first + k, len(spread) - 1)]
        values = values * _ODD + (np.where(inside > k, word, np.uint64(k)) if is_short else word)
    return mixed(values), starts


def numbers_mark(words: Words) -> Hashes:
    """A hash of each row's numbers, each as often as it stands there, [rows]."""
    return _sums(np.where(words.is_number, mixed(words.hashes.astype(np.uint64)), np.uint64(0)), words.starts)


def whole_mark(words: Words) -> Hashes:
    """A hash of each row's words in their order, [rows]."""
    place = np.arange(len(words.hashes)) - np.repeat(words.starts[:-1], np.diff(words.starts))
    return _sums(mixed(words.hashes.astype(np.uint64) + mixed(place.astype(np.uint64))), words.starts)


def mixed(values: Hashes) -> Hashes:
    """A hash of each value: the last steps of splitmix64 (Steele, Lea, Flood: Fast splittable pseudorandom generators)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def plain(texts: pa.Array) -> pa.Array:
    """The texts as their words with blanks between them: what `words_of` hashes, for readers and tests."""
    texts = pc.fill_null(texts, "")
    if (is_ascii := pc.string_is_ascii(texts)).true_count != len(texts):
        odd = texts.filter(pc.invert(is_ascii))
        for power, spelled in _POWERS.items():
            odd = pc.replace_substring(odd, power, spelled)
        odd = _replaced(pc.utf8_normalize(odd, form="NFKC"), _FOR_UNICODE)
        texts = pc.replace_with_mask(texts, pc.invert(is_ascii), odd)
    texts = pc.utf8_lower(texts)
    return pc.utf8_trim_whitespace(_replaced(_replaced(texts, _LATEX), _FOR_ALL))


def _replaced(texts: pa.Array, rules: list[tuple[str, str]]) -> pa.Array:
    for pattern, replacement in rules:
        texts = pc.replace_substring_regex(texts, pattern=pattern, replacement=replacement)
    return texts


def _words(texts: pa.Array) -> pa.Array:
    lists = pc.utf8_split_whitespace(plain(texts))
    coded = pc.list_flatten(lists).dictionary_encode()
    vocabulary = np.array([_hash(word) for word in coded.dictionary.to_pylist()], np.uint32)
    codes = coded.indices.to_numpy(zero_copy_only=False)
    lengths = pc.list_value_length(lists).to_numpy(zero_copy_only=False)
    hashes = vocabulary[codes] if len(codes) else np.zeros(0, np.uint32)

    # A text without a word gives one empty word, whose hash is 0.
    row = np.repeat(np.arange(len(lengths)), lengths)[hashes != 0]
    counts = np.bincount(row, minlength=len(lengths))
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    return pa.ListArray.from_arrays(offsets, pa.array(hashes[hashes != 0], pa.uint32()))


@lru_cache(maxsize=2**17)
def _hash(word: str) -> int:
    """1 to 2**31 - 1 for a word, more for a number; 0 for the empty word."""
    if not word:
        return 0
    word = NUMBER_WORDS.get(word, word)
    digest = int.from_bytes(hashlib.blake2b(word.encode(), digest_size=4).digest(), "little") % NUMBER
    return max(digest, 1) | (NUMBER if word[0].isdigit() else 0)


def _sums(values: Hashes, starts: Places) -> Hashes:
    """The sum of each row's values, modulo 2**64, [rows]."""
    total = np.concatenate([np.zeros(1, np.uint64), np.cumsum(values, dtype=np.uint64)])
    sums: Hashes = total[starts[1:]] - total[starts[:-1]]
    return sums
