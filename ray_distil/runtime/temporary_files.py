"""Temporary files of the driver, in Python's temporary folder (TMPDIR). They have no name, and go with the process."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

from ray_distil.errors import UserError


def temporary_file() -> IO[bytes]:
    return tempfile.TemporaryFile(prefix="ray_distil-")


@contextmanager
def filling(content: str) -> Iterator[None]:
    """Raises UserError where the disk is full. `content`: what is written, for the message."""
    try:
        yield
    except OSError as error:
        place, text = tempfile.gettempdir(), " ".join(str(error).split())
        raise UserError(f"{content}: {place} cannot take them ({text}); set TMPDIR") from error
