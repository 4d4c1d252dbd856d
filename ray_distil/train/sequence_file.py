"""Packed sequences on a node's disk, each read when it is needed: a worker's memory does not hold all the tokens.

Once on each node, the columns of the shards are copied into plain files of int32, 12 bytes a token. An index in memory
takes 16 bytes a sequence. The files are read and not mapped: the pages of a mapped file count as its reader's memory.
"""

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ray_distil.errors import StageError
from ray_distil.store.manifest import read_manifest
from ray_distil.store.schemas import stable_fraction
from ray_distil.store.storage import Folder

COLUMNS = ("input_ids", "labels", "position_ids")
ROWS = 32  # rows of a shard that are in memory at once
Sequences = Mapping[str, Sequence[Any]]  # column -> for each sequence a tensor (length,), int64
# Index files (sequences, 2): the first token of each sequence, and its length in tokens; in the order of their ids.
TRAINED_INDEX, HELD_OUT_INDEX = "trained.npy", "held_out.npy"


class Column(Sequence[Any]):
    """A column of all sequences: `column[k]` is a tensor (length,), int64."""

    def __init__(self, file: Path, index: np.ndarray) -> None:
        self.file = open(file, "rb")  # noqa: SIM115  it is read as long as training goes on
        self.rows = index

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, k: Any) -> Any:
        import torch

        start, length = (4 * int(number) for number in self.rows[k])
        data = os.pread(self.file.fileno(), length, start)
        if len(data) != length:
            raise RuntimeError(f"{self.file.name}: {len(data)} bytes where sequence {k} has {length}")
        return torch.from_numpy(np.frombuffer(data, np.int32).astype(np.int64))


def is_held_out(sequence_id: str, fraction: float) -> bool:
    """Whether a sequence belongs to the share that is not trained on; the same of each id in every run."""
    return stable_fraction("held out", sequence_id) < fraction


def write_sequences(packed: Folder, place: Path, eval_fraction: float) -> None:
    """Copy the columns of all shards into files in `place`, with an index of the trained and of the held-out ones."""
    ids, lengths = [pa.array([], pa.string())], [np.zeros(0, np.int64)]
    files = [open(place / name, "wb") for name in COLUMNS]  # noqa: SIM115  closed below
    try:
        manifest = read_manifest(packed)
        if manifest is None:
            raise StageError(f"{packed} has no manifest: its sequences are not whole")
        for shard in (name for name in manifest.files if name.startswith("part-")):
            for part in packed.read_parts(shard, ["sequence_id", *COLUMNS], ROWS):
                (rows,) = part.to_batches()
                ids.append(rows["sequence_id"])
                lengths.append(pc.list_value_length(rows[COLUMNS[0]]).to_numpy().astype(np.int64))
                for name, file in zip(COLUMNS, files, strict=True):
                    rows[name].flatten().to_numpy().astype(np.int32, copy=False).tofile(file)
    finally:
        for file in files:
            file.close()

    # Where each sequence begins, and its length.
    every = np.concatenate(lengths)
    index = np.stack([np.cumsum(every) - every, every], axis=1)
    all_ids = pa.chunked_array(ids)

    # The order does not depend on the shards.
    held_out = np.array([is_held_out(sequence, eval_fraction) for sequence in all_ids.to_pylist()], np.bool_)
    order = pc.sort_indices(all_ids).to_numpy()
    for name, is_chosen in ((TRAINED_INDEX, ~held_out), (HELD_OUT_INDEX, held_out)):
        np.save(place / name, index[order[is_chosen[order]]])


def read_sequences(place: Path, part: str) -> Sequences:
    """The columns that `write_sequences` wrote, sequences in the order of their ids. `part`: TRAINED_INDEX or HELD_OUT_INDEX."""
    index = np.load(place / part)
    return {name: Column(place / name, index) for name in COLUMNS}


def open_sequences(packed: Folder, eval_fraction: float, node: int, is_first: bool) -> tuple[Sequences, Sequences]:
    """The trained and the held-out packed sequences. The first worker of each node (`is_first`) copies them to disk.

    Before this returns, the files are deleted while all workers hold them open. The disk frees their space when the
    workers end, however they end.
    """
    import torch.distributed as dist

    place = mkdtemp(prefix="ray_distil-") if is_first else ""
    if place:
        write_sequences(packed, Path(place), eval_fraction)
    places = [(0, "")] * dist.get_world_size()
    dist.all_gather_object(places, (node, place))
    folder = Path(next(place_of_node for number, place_of_node in places if number == node and place_of_node))
    trained, held_out = read_sequences(folder, TRAINED_INDEX), read_sequences(folder, HELD_OUT_INDEX)
    dist.barrier()
    if place:
        shutil.rmtree(place)
    return trained, held_out
