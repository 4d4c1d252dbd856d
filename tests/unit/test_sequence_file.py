"""Packed sequences are read as the shards have them, by their place in the order of ids, from files that leave no trace."""

import os
from pathlib import Path

import pyarrow as pa
import pytest
import torch
import torch.distributed as dist

from ray_distil.errors import StageError
from ray_distil.store.manifest import Manifest, write_manifest
from ray_distil.store.schemas import PACKED
from ray_distil.store.storage import Folder
from ray_distil.train import sequence_file
from ray_distil.train.sequence_file import (
    COLUMNS,
    HELD_OUT_INDEX,
    TRAINED_INDEX,
    is_held_out,
    open_sequences,
    read_sequences,
    write_sequences,
)

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
    shards = [f"part-{number}.parquet" for number in range(3)]
    write_manifest(folder, Manifest("packed", "packed", "f", "examples", 7, 7, 0, {}, 1.0, shards))
    return folder


@pytest.mark.parametrize("rows", [1, 2, 256])
def test_sequences_are_those_of_the_shards_in_the_order_of_ids(
    packed: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    monkeypatch.setattr(sequence_file, "ROWS", rows)
    write_sequences(packed, tmp_path, 0)
    read = read_sequences(tmp_path, TRAINED_INDEX)
    for name in COLUMNS:
        assert len(read[name]) == len(LENGTHS)
        for k in (6, *range(len(LENGTHS))):
            assert read[name][k].dtype == torch.int64
            assert read[name][k].tolist() == row(k)[name]


def test_a_shard_that_came_late_is_not_learnt(packed: Folder, tmp_path: Path) -> None:
    """As a task of a stopped run may write it: the manifest does not list it."""
    packed.write_table("part-9.parquet", pa.Table.from_pylist([row(k) for k in (1, 2)], schema=PACKED))
    write_sequences(packed, tmp_path, 0)
    assert len(read_sequences(tmp_path, TRAINED_INDEX)["labels"]) == len(LENGTHS)


def test_sequences_that_are_not_whole_are_not_learnt(packed: Folder, tmp_path: Path) -> None:
    packed.remove("_manifest.json")
    with pytest.raises(StageError, match="packed has no manifest: its sequences are not whole"):
        write_sequences(packed, tmp_path, 0)


def test_what_is_cut_is_not_read(packed: Folder, tmp_path: Path) -> None:
    write_sequences(packed, tmp_path, 0)
    file = tmp_path / "labels"
    file.write_bytes(file.read_bytes()[:-4])
    read = read_sequences(tmp_path, TRAINED_INDEX)
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
        read, held_out = open_sequences(packed, 0.5, 0, True)
    finally:
        dist.destroy_process_group()
    assert os.listdir(scratch) == []
    assert len(read["labels"]) + len(held_out["labels"]) == len(LENGTHS)
    assert read["input_ids"][0].tolist() == row(int(not_held_out(0.5)[0][1:]))["input_ids"]


def not_held_out(fraction: float) -> list[str]:
    return [name for name in (f"s{k}" for k in range(len(LENGTHS))) if not is_held_out(name, fraction)]


@pytest.mark.parametrize("fraction", [0.0, 0.3, 0.5, 0.9])
def test_what_is_held_out_is_a_function_of_the_id(packed: Folder, tmp_path: Path, fraction: float) -> None:
    write_sequences(packed, tmp_path, fraction)
    trained = not_held_out(fraction)
    for part, is_trained in ((TRAINED_INDEX, True), (HELD_OUT_INDEX, False)):
        read = read_sequences(tmp_path, part)
        wanted = [row(k)["labels"] for k in range(len(LENGTHS)) if (f"s{k}" in trained) == is_trained]
        assert [read["labels"][k].tolist() for k in range(len(read["labels"]))] == wanted


def test_about_the_share_is_held_out() -> None:
    ids = [f"{k:06}" for k in range(10_000)]
    held_out = {name for name in ids if is_held_out(name, 0.02)}
    assert 150 < len(held_out) < 250
    assert held_out <= {name for name in ids if is_held_out(name, 0.03)}
