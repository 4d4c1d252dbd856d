"""The log of a run in an object store, copied into the run: the machine of its driver may be gone when somebody reads it.

RUN/logs/driver-20261130T070000Z.log   what libraries said, copied each COPY_S and at the end
RUN/logs/error-20261130T070000Z.log    the whole error that ended the process, if one did
"""

import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from ray_distil.store.patience import hurried
from ray_distil.store.storage import Folder

COPY_S = 60.0
COPIED_BYTES = 2**24  # of the end of a log
LOGS = "logs"


@contextmanager
def shipped(log: Path, run: Folder) -> Iterator[None]:
    """Within the block, the log of a run in an object store is copied into the run. On a disk it lies there already."""
    if run.local is not None:
        yield
        return
    began = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    target, over = run / LOGS, threading.Event()

    def copy() -> None:
        with suppress(OSError):  # the log is no reason to end a run
            target.write_bytes(f"driver-{began}.log", _end_of(log))

    def copy_often() -> None:
        while not over.wait(COPY_S):
            copy()

    copying = threading.Thread(target=copy_often, daemon=True)
    copying.start()
    try:
        yield
    except BaseException as error:
        with hurried(), suppress(OSError):
            target.write_text(f"error-{began}.log", "".join(traceback.format_exception(error)))
        raise
    finally:
        over.set()
        copying.join(timeout=5)
        with hurried():
            copy()


def _end_of(log: Path) -> bytes:
    with open(log, "rb") as file:
        file.seek(max(0, log.stat().st_size - COPIED_BYTES))
        return file.read()
