"""Packed sequences are read as the shards have them, by their place in the order of ids, from files that leave no trace."""

import os
from pathlib import Path

import pyarrow as pa
import pytest
import torch
import torch.distributed as dist

from ray_distil import sequence_file
from ray_distil.schemas import PACKED
from ray_distil.sequence_file import COLUMNS, open_sequences, read_sequences, write_sequences
from ray_distil.storage import Folder

LENGTHS = [3, 8, 1, 8, 5, 2, 7]


def row(k: int) -> dict[str, object]:
    tokens = [1000 * k + i for i in range(LENGTHS[k])]
    return {
        "sequence_id": f"s{k}",
        "input_ids": tokens,
        "labels": [-100, *tokens[1:]],
        "position_ids": list(range(len(tokens))),
        "lengths": [len(tokens)],
        "example_ids": [f"e{k}"],
    }


@pytest.fixture
def packed(tmp_path: Path) -> Folder:
    """Three shards, ids in no order; the rows of one are the middle of a larger table."""
    folder = Folder.at(tmp_path / "packed")
    for number, places in enumerate(([4, 1], [0, 5, 2], [6, 3])):
        table = pa.Table.from_pylist([row(k) for k in (3, *places, 0)], schema=PACKED).slice(1, len(places))
        folder.write_table(f"part-{number}.parquet", table)
    folder.write_text("_manifest.json", "{}")
    return folder


@pytest.mark.parametrize("rows", [1, 2, 256])
def test_sequences_are_those_of_the_shards_in_the_order_of_ids(
    packed: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    monkeypatch.setattr(sequence_file, "ROWS", rows)
    write_sequences(packed, tmp_path)
    read = read_sequences(tmp_path)
    for name in COLUMNS:
        assert len(read[name]) == len(LENGTHS)
        for k in (6, *range(len(LENGTHS))):
            assert read[name][k].dtype == torch.int64
            assert read[name][k].tolist() == row(k)[name]


def test_what_is_cut_is_not_read(packed: Folder, tmp_path: Path) -> None:
    write_sequences(packed, tmp_path)
    file = tmp_path / "labels"
    file.write_bytes(file.read_bytes()[:-4])
    read = read_sequences(tmp_path)
    with pytest.raises(RuntimeError, match="labels: 28 bytes where sequence 3 has 32"):
        read["labels"][3]


def test_the_files_are_gone_while_they_are_read(
    packed: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        read = open_sequences(packed, 0, True)
    finally:
        dist.destroy_process_group()
    assert os.listdir(scratch) == []
    assert read["input_ids"][1].tolist() == row(1)["input_ids"]
