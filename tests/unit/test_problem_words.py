"""Texts of problems as words: what is one problem in two spellings, and what is not."""

import pyarrow as pa
import pytest

from ray_distil.selection import words
from ray_distil.selection.words import NUMBER, Words, ngrams, numbers_mark, whole_mark, words_of

SAME = [
    ("Find $\\frac{1}{2}x + 1{,}000$.", "find 1/2 x+1000"),
    ("\\dfrac12", "1/2"),
    ("\\tfrac{3}{4}", "$\\frac34$"),
    ("1,000,000 pens", "1000000 pens"),
    ("1{,}000{,}000 pens", "1000000 pens"),
    ("43.0", "43"),
    ("4.50", "4.5"),
    (".5 of it", "0.5 of it"),
    ("$.50", "$0.5"),
    ("nine eggs", "9 eggs"),
    ("TWENTY Eggs", "20 eggs"),
    ("Janet’s ducks", "Janet's ducks"),
    ("x² + y³", "x^2 + y^3"),
    ("x^{10}", "x^10"),
    ("$a \\le b$", "a <= b"),
    ("a ≤ b", "a \\leq b"),
    ("a \\neq b", "a != b"),
    ("a ≠ b", "a != b"),
    ("3 × 4", "3 \\times 4"),
    ("3 · 4", "3 \\cdot 4"),
    ("12 ÷ 4", "12 / 4"),
    ("7 − 3", "7-3"),
    ("\\left( a \\right)", "(a)"),
    ("\\text{Find } x", "Find x"),
    ("Hello , world .", "Hello, world."),
    ("a  b\n\tc", "a b c"),
    ("well-known", "well known"),
    ("ｘ＝３", "x=3"),
    ("5! = 120", "5!=120"),
    ("50\\% off", "50% off"),
    ("中文，题目", "中文题目"),
    ("Is it? Yes!", "is it yes"),
]
OTHER = [
    ("x - 3", "x + 3"),
    ("x-3", "x 3"),
    ("-3", "3"),
    ("1/2", "12"),
    ("\\frac{1}{2}", "\\frac{2}{1}"),
    ("52_8", "52"),
    ("2^10", "210"),
    ("3.14", "314"),
    ("1.05", "1.5"),
    ("5, 120", "5120"),
    ("a < b", "a > b"),
    ("a <= b", "a < b"),
    ("a != b", "a = b"),
    ("5!", "5"),
    ("0.5", "5"),
    ("中文", "文中"),
]


@pytest.mark.parametrize(("text", "spelled"), SAME)
def test_another_spelling_has_the_same_words(text: str, spelled: str) -> None:
    first, second = words_of(pa.array([text, spelled])).to_pylist()
    assert first == second, words.plain(pa.array([text, spelled])).to_pylist()


@pytest.mark.parametrize(("text", "unlike"), OTHER)
def test_another_problem_has_other_words(text: str, unlike: str) -> None:
    first, second = words_of(pa.array([text, unlike])).to_pylist()
    assert first != second, words.plain(pa.array([text, unlike])).to_pylist()


def test_words_are_those_of_each_row_in_parts_of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [*(text for pair in SAME + OTHER for text in pair), None, "", "...", "\\left\\right"] * 3
    whole = words_of(pa.array(texts)).to_pylist()
    monkeypatch.setattr(words, "ROWS_AT_ONCE", 7)
    assert words_of(pa.chunked_array([texts[:50], texts[50:]])).to_pylist() == whole
    assert [words_of(pa.array([text], pa.string())).to_pylist()[0] for text in texts] == whole
    assert whole[-4:] == [[], [], [], []]
    assert words_of(pa.array([], pa.string())).to_pylist() == []


def test_numbers_are_marked() -> None:
    read = Words.of(words_of(pa.array(["two pens, 3.5 kg and x2", "pens", "3.50 and 2 and 2"])))
    marked = [read.hashes[slice(*read.starts[k : k + 2])] >= NUMBER for k in range(3)]
    assert [flags.tolist() for flags in marked] == [[True, False, True, False, False, False, True], [False], [True, False, True, False, True]]  # fmt: skip
    assert numbers_mark(read)[0] == numbers_mark(read)[2], "2, 3.5 and 2 in another order"
    assert numbers_mark(read)[1] == 0
    assert whole_mark(read)[0] != whole_mark(read)[2]


@pytest.mark.parametrize("size", [1, 2, 3, 8])
def test_ngrams_are_the_runs_of_words(size: int) -> None:
    texts = ["a b c d", "", "b c", "a b c d e f g h i", "c d", "a"]
    grams, starts = ngrams(Words.of(words_of(pa.array(texts))), size)
    spelled: dict[int, set[tuple[str, ...]]] = {}
    for row, text in enumerate(texts):
        split = text.split()
        runs = [tuple(split[k : k + size]) for k in range(len(split) - size + 1)] or ([tuple(split)] if split else [])
        of_row = grams[starts[row] : starts[row + 1]].tolist()
        assert len(of_row) == len(runs)
        for gram, run in zip(of_row, runs, strict=True):
            spelled.setdefault(gram, set()).add(run)
    assert all(len(runs) == 1 for runs in spelled.values())
    assert len({next(iter(runs)) for runs in spelled.values()}) == len(spelled)


@pytest.mark.parametrize("text", ["w " * 500_000, "{" * 500_000, "\\frac{" * 20_000 + "1" + "}" * 20_000, "文" * 300_000, "1," * 200_000])  # fmt: skip
def test_a_text_without_end_is_read(text: str) -> None:
    assert len(words_of(pa.array([text]))) == 1
