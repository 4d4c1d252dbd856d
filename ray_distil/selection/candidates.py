"""Small columns of all candidates and samples, in temporary files by problem: one part of the problems is in memory at a time.

A candidate takes 33 bytes and a sample 18. Ids are hashes, so that parts by the first bits of the problem's id are even.
"""

from collections.abc import Iterator

import numpy as np

from ray_distil.runtime.temporary_files import filling, temporary_file
from ray_distil.selection.choice import CANDIDATE, SAMPLE

PARTS = 64


class Parts:
    """Rows of one dtype with the field `problem`, in PARTS files."""

    def __init__(self, dtype: np.dtype) -> None:
        self._dtype = dtype
        self._files = [temporary_file() for _ in range(PARTS)]

    def add(self, rows: np.ndarray) -> None:
        """Raises UserError where the disk is full."""
        part = (rows["problem"] // np.uint64(2**64 // PARTS)).astype(np.int64)
        order = np.argsort(part, kind="stable")
        bounds = np.searchsorted(part[order], np.arange(PARTS + 1))
        with filling("sft_examples"):
            for file, start, end in zip(self._files, bounds, bounds[1:], strict=False):
                if start < end:
                    file.write(rows[order[start:end]].tobytes())
                    file.flush()

    def __iter__(self) -> Iterator[np.ndarray]:
        for file in self._files:
            file.seek(0)
            yield np.frombuffer(file.read(), self._dtype)


def candidate_parts() -> Parts:
    return Parts(CANDIDATE)


def sample_parts() -> Parts:
    return Parts(SAMPLE)
