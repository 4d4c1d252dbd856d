"""Near-duplicate problems: what is rejected, what stays, and what a comparison of all pairs says."""

import json
import random
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from ray_distil.config import load
from ray_distil.errors import UserError
from ray_distil.problems import collecting
from ray_distil.records import problems
from ray_distil.records.problem_facts import EVAL
from ray_distil.records.problems import Problems
from ray_distil.selection import near_duplicates
from ray_distil.selection.near_duplicates import Bands, band_keys, reference_marks
from ray_distil.selection.words import Words, words_of

APPLES = "Ann has 3 boxes of 14 apples. She gives 8 of them to Ben, and buys 20 more apples. How many apples does she have now?"
ROOTS = "Let $x$ be a real number such that $x^2 - 5x + \\frac{1}{2} = 0$. What is the sum of all of the values of $x$?"
COPIES = {
    "format": (
        ROOTS,
        "let x be a real number such that $x^{2} - 5x + 1/2=0$  What is the sum of all of the values of x",
    ),
    "names": (APPLES, APPLES.replace("Ben", "Leo")),
    "number words": (APPLES, APPLES.replace("3 boxes", "three boxes")),
    "a word": (APPLES, APPLES.replace("gives 8", "hands 8")),
}
OTHERS = {
    "a number": (APPLES, APPLES.replace("14", "15"), "57"),
    "all numbers": (APPLES, APPLES.replace("3", "4").replace("14", "15").replace("8", "9").replace("20", "21"), "72"),
    "swapped": (APPLES, APPLES.replace("3 boxes of 14", "14 boxes of 3"), "55"),
    "meaning": (APPLES, APPLES.replace("buys 20 more", "loses 20 more"), "14"),
}  # fmt: skip


def read(rows: list[dict[str, Any]], folder: Path, **keys: Any) -> Problems:
    filler = [{"instruction": f"What is {k} plus {k + 7}, a filler?", "answer": str(2 * k + 7)} for k in range(30)]
    (folder / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows + filler))
    overrides = [f"instructions.path={folder / 'p.jsonl'}", *(f"instructions.{k}={v}" for k, v in keys.items())]
    return collecting.collect(load(None, overrides).instructions, 0)


@pytest.mark.parametrize("kind", COPIES)
@pytest.mark.parametrize("size", [1, 2, 10_000])
def test_a_copy_is_rejected_and_names_the_row_that_stays(
    kind: str, size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(problems, "ROWS_PER_SHARD", size)
    first, second = COPIES[kind]
    collected = read([{"instruction": first, "answer": "54"}, {"instruction": second, "answer": "54.0"}], tmp_path)
    (rejected,) = [row for row in collected.to_pylist() if row["reject_reason"]]
    kept = next(row for row in collected.to_pylist() if row["instruction"] == first)
    assert (rejected["instruction"], rejected["reject_reason"]) == (second, "near_duplicate")
    assert kept["instruction_id"] in rejected["reject_detail"]
    (pair,) = collected.facts.pairs["near_duplicate"]
    assert (pair.instruction, pair.like) == (second, first)


@pytest.mark.parametrize("kind", OTHERS)
@pytest.mark.parametrize("answered", [True, False])
def test_another_problem_of_the_same_words_stays(kind: str, answered: bool, tmp_path: Path) -> None:
    first, second, answer = OTHERS[kind]
    answers = [{"answer": "54"}, {"answer": answer}] if answered else [{}, {}]
    rows = [{"instruction": text} | of for text, of in zip((first, second), answers, strict=True)]
    assert not read(rows, tmp_path).facts.rejects


@pytest.mark.parametrize(("first", "second"), [("5", "4"), ("[1, 2)", "(1, 2]"), ("A", "B"), ("-3", "3"), ("∅", "◇")])
def test_the_same_words_with_two_references_stay(first: str, second: str, tmp_path: Path) -> None:
    rows = [{"instruction": ROOTS, "answer": first}, {"instruction": ROOTS.replace("$", ""), "answer": second}]
    assert not read(rows, tmp_path).facts.rejects
    del rows[1]["answer"]
    assert read(rows, tmp_path).facts.rejects == {"near_duplicate": 1}


def test_without_the_key_only_equal_problems_are_rejected(tmp_path: Path) -> None:
    rows = [{"instruction": text, "answer": "54"} for text in COPIES["names"]]
    assert not read(rows, tmp_path, near_duplicates="null").facts.rejects
    assert not read(rows, tmp_path, near_duplicates=0.99).facts.rejects


def test_held_out_problems_stay_whatever_they_are_like(tmp_path: Path) -> None:
    """The training copy is rejected, though it stands in another file; two held-out ones are both evaluated."""
    first, second = COPIES["names"]
    (tmp_path / "eval.jsonl").write_text(
        "".join(json.dumps({"instruction": t, "answer": 54}) + "\n" for t in (first, second))
    )
    rows = [{"instruction": COPIES["number words"][1], "answer": 54}]
    collected = read(rows, tmp_path, eval_path=str(tmp_path / "eval.jsonl"))
    assert collected.facts.rejects == {"near_duplicate": 1}
    assert [row["instruction"] for row in collected.to_pylist() if row["split"] == EVAL] == [first, second]


@pytest.mark.parametrize("seed", range(3))
def test_no_copy_is_held_out_of_a_file(seed: int, tmp_path: Path) -> None:
    """A copy of a training problem is no test of anything: held-out problems are chosen of the rows that stay."""
    dice = random.Random(seed)
    rows = []
    for k in range(60):
        text = APPLES.replace("14", str(100 + k))
        rows += [
            {"instruction": text, "answer": k},
            {"instruction": text.replace("Ben", dice.choice("RST")), "answer": k},
        ]
    collected = read(rows, tmp_path, num_eval=20, near_duplicates=0.6)
    assert collected.facts.rejects == {"near_duplicate": 60}
    of_eval = [row for row in collected.to_pylist() if row["split"] == EVAL]
    assert not [row for row in of_eval if row["reject_reason"]]


def test_a_chain_of_likenesses_rejects_only_what_is_like_a_row_that_stays(tmp_path: Path) -> None:
    words = [
        "one",
        "of",
        "the",
        "many",
        "apples",
        "that",
        "she",
        "keeps",
        "in",
        "a",
        "big",
        "red",
        "box",
        "near",
        "the",
        "old",
        "door",
        "of",
        "the",
        "small",
        "house",
        "by",
        "the",
        "sea",
    ]
    texts = [
        " ".join(["How many are there: 5,", *words[:k], *["left"] * (len(words) - k)]) for k in (23, 20, 17, 14, 11)
    ]
    collected = read([{"instruction": text, "answer": "54"} for text in texts], tmp_path)
    by_id = {row["instruction_id"]: row for row in collected.to_pylist()}
    rejected = [row for row in by_id.values() if row["reject_reason"]]
    assert 0 < len(rejected) < len(texts) - 1
    for row in rejected:
        assert by_id[row["reject_detail"].split()[1].rstrip(":")]["reject_reason"] is None


def drawn(dice: random.Random, number: int) -> list[dict[str, Any]]:
    """Problems of a few numbers and references, so that many have both in common; some are copies of earlier ones."""
    nouns, rows = (
        ["apples", "pears", "plums", "figs", "nuts", "cakes", "pens", "books", "toys", "coins"],
        list[dict[str, Any]](),
    )
    for _ in range(number):
        answer = dice.choice([None, "4", "4.0", "5"])
        if rows and dice.random() < 0.6:
            copied = dice.choice(rows)
            words = copied["instruction"].split()
            for _ in range(dice.randint(0, 2)):
                words[dice.randrange(len(words))] = dice.choice(nouns)
            text, answer = " ".join(words), copied["answer"] if dice.random() < 0.8 else answer
        else:
            text = " ".join(dice.choice(nouns) for _ in range(dice.randint(3, 25))) + f" {dice.randint(1, 3)} ?"
        rows.append({"instruction": text, "answer": answer})
    return rows


@pytest.mark.parametrize("seed", range(8))
def test_what_is_found_is_right_and_nearly_all_is_found(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside all pairs: each reject is like a row that stays, and of the rows that stay few are like an earlier one."""
    dice = random.Random(seed)
    monkeypatch.setattr(problems, "ROWS_PER_SHARD", dice.choice([3, 50, 10_000]))
    rows = read(drawn(dice, 300), tmp_path).to_pylist()
    usable = [row for row in rows if row["reject_reason"] in (None, "near_duplicate")]
    words = Words.of(words_of(pa.array([row["instruction"] for row in usable])))
    grams, starts = near_duplicates.ngrams(words, 2)
    pairs = [set(grams[starts[k] : starts[k + 1]].tolist()) for k in range(len(usable))]
    numbers, whole = near_duplicates.numbers_mark(words), near_duplicates.whole_mark(words)
    marks = reference_marks(pa.chunked_array([[row["reference_answer"] for row in usable]], pa.string()))

    def is_like(k: int, j: int) -> bool:
        references = usable[k]["reference_answer"], usable[j]["reference_answer"]
        if None in references:
            return bool(whole[k] == whole[j])
        if marks[k] != marks[j]:
            return False
        likeness = len(pairs[k] & pairs[j]) / len(pairs[k] | pairs[j])
        return bool(whole[k] == whole[j] or (numbers[k] == numbers[j] and likeness >= 0.7))

    place = {row["instruction_id"]: k for k, row in enumerate(usable)}
    missed = 0
    for k, row in enumerate(usable):
        if row["reject_reason"]:
            named = place[row["reject_detail"].split()[1].rstrip(":")]
            assert named < k
            assert usable[named]["reject_reason"] is None
            assert is_like(k, named)
        else:
            missed += any(usable[j]["reject_reason"] is None and is_like(k, j) for j in range(k))
    num_rejected = sum(row["reject_reason"] is not None for row in usable)
    assert num_rejected > 15
    assert missed <= num_rejected // 10


def test_a_file_of_copies_gives_few_pairs() -> None:
    """Each row is compared with the first ones of its buckets alone."""
    texts = pa.array([f"{APPLES} {'please ' * (k % 3)}" for k in range(3_000)])
    bands = Bands()
    bands.add(band_keys(Words.of(words_of(texts)), pa.chunked_array([["54"] * 3_000])))
    early, late = bands.pairs()
    assert len(early) < 9 * 3_000
    assert (early < late).all()
    assert (np.diff(late) >= 0).all()


def test_a_full_disk_is_told_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    full = open("/dev/full", "r+b", buffering=0)  # noqa: SIM115
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **_: full)
    with full, pytest.raises(UserError, match="No space left on device.*set TMPDIR"):
        Bands().add(np.ones((near_duplicates.BANDS + 1, 1), np.uint64))
