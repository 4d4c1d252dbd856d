"""Which files of a folder are read: by its card, by configuration, by split; and parts that are missing."""

from pathlib import Path

import pytest

from ray_distil.errors import UserError
from ray_distil.records.folders import choose, missing_parts
from ray_distil.records.sources import Source, records
from ray_distil.store.storage import Folder

CARD = """---
license: mit
configs:
- config_name: easy
  data_files: easy/*.jsonl
- config_name: hard
  data_files:
  - {split: train, path: "hard/**/a-*.jsonl"}
  - {split: test, path: [hard/test.jsonl]}
---
# A set
"""


def folder(place: Path, *files: str, card: str = "") -> Folder:
    for file in files:
        (place / file).parent.mkdir(parents=True, exist_ok=True)
        (place / file).write_text('{"instruction": "2 + 3?", "answer": "5"}\n')
    if card:
        (place / "README.md").write_text(card)
    return Folder.at(place)


@pytest.mark.parametrize(
    ("files", "name", "split", "chosen"),
    [
        (["train.jsonl", "test.jsonl"], None, "train", ["train.jsonl"]),
        (["test-00000-of-00001.jsonl"], "main", "test", ["test-00000-of-00001.jsonl"]),  # a copy of one configuration
        (["easy.jsonl", "hard.jsonl"], "hard", "train", ["hard.jsonl"]),
        (["main/train.jsonl", "main/test.jsonl", "steps/train.jsonl"], "main", "train", ["main/train.jsonl"]),
        (["data/train-0.jsonl", "data/test-0.jsonl"], "main", "test", ["data/test-0.jsonl"]),
        (["train/a.jsonl", "test/a.jsonl"], None, "test", ["test/a.jsonl"]),
        (["easy.jsonl", "hard.jsonl"], "other", "train", []),
    ],
)
def test_names_tell_configuration_and_split(
    tmp_path: Path, files: list[str], name: str | None, split: str, chosen: list[str]
) -> None:
    found = choose(folder(tmp_path, *files), split, name)
    assert found.files == chosen
    assert found.is_known == bool(chosen)


@pytest.mark.parametrize(
    ("name", "split", "chosen"),
    [
        ("easy", "train", ["easy/1.jsonl", "easy/2.jsonl"]),
        (None, "train", ["easy/1.jsonl", "easy/2.jsonl"]),
        ("hard", "train", ["hard/a-1.jsonl", "hard/below/a-2.jsonl"]),
        ("hard", "test", ["hard/test.jsonl"]),
        ("hard", "validation", []),
        ("other", "train", []),
    ],
)
def test_a_card_tells_them(tmp_path: Path, name: str | None, split: str, chosen: list[str]) -> None:
    files = [
        "easy/1.jsonl",
        "easy/2.jsonl",
        "hard/a-1.jsonl",
        "hard/below/a-2.jsonl",
        "hard/b.jsonl",
        "hard/test.jsonl",
    ]
    assert choose(folder(tmp_path, *files, card=CARD), split, name).files == chosen


@pytest.mark.parametrize("card", [b"---\nconfigs: [\n---\n", b"caf\xe9", b"# No card\n", b"---\nlicense: mit\n---\n"])
def test_a_page_that_is_no_card_tells_nothing(tmp_path: Path, card: bytes) -> None:
    place = folder(tmp_path, "train.jsonl", "test.jsonl")
    (tmp_path / "README.md").write_bytes(card)
    assert choose(place, "train").files == ["train.jsonl"]


def test_a_configuration_that_is_not_there_is_refused_with_those_that_are(tmp_path: Path) -> None:
    folder(tmp_path, "easy.jsonl", "hard.jsonl")
    with pytest.raises(
        UserError, match=r"instructions\.dataset_name: nothing in .* is named 'x'; there are 'easy', 'hard'"
    ):
        list(records(Source(str(tmp_path), "instructions.path", name="x")))


def test_parts_that_are_missing_are_named(tmp_path: Path) -> None:
    folder(tmp_path, "train-00000-of-00003.jsonl", "train-00002-of-00003.jsonl")
    with pytest.raises(UserError, match=r"lacks train-00001-of-00003\.jsonl, as the names of its other files say"):
        list(records(Source(str(tmp_path), "instructions.path")))
    assert missing_parts(["a-00000-of-00100.jsonl"]) == []  # a sample that somebody took
    assert missing_parts(["a-00000-of-00002.jsonl", "a-00001-of-00002.jsonl", "b.jsonl"]) == []


def test_what_is_no_data_is_named(tmp_path: Path) -> None:
    for name, text, said in (
        ("a.jsonl", "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "a pointer of Git LFS"),
        ("b.jsonl", "<!DOCTYPE html><html><body>Sign in</body></html>", "a page in HTML"),
    ):
        (tmp_path / name).write_text(text)
        with pytest.raises(UserError, match=said):
            list(records(Source(str(tmp_path / name), "instructions.path")))


def test_a_file_uri_is_a_path(tmp_path: Path) -> None:
    folder(tmp_path, "a b.jsonl")
    assert len(list(records(Source(f"file://{tmp_path}/a%20b.jsonl", "instructions.path")))) == 1
    with pytest.raises(UserError, match="names no bucket"):
        list(records(Source("s3://", "instructions.path")))
