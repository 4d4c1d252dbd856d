"""metrics.jsonl: a line a logged step, in the run's folder or store as training goes on, and continued after a stop."""

import json
import time
from contextlib import suppress
from typing import Any

from ray_distil.store.storage import Folder

METRICS = "metrics.jsonl"
UPLOAD_SECONDS = 20.0  # between two uploads: an object store knows no appending


class StepLog:
    """The log of a training that has `done` steps behind it; the lines of later steps go, they will come again."""

    def __init__(self, folder: Folder, done: int) -> None:
        self.folder = folder
        self.lines = [line for line in read_log(folder) if line["step"] <= done] if done else []
        self.flush()

    def add(self, line: dict[str, Any]) -> None:
        self.lines.append(line)
        if self.folder.local is not None:
            with open(self.folder.local / METRICS, "a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        elif time.monotonic() - self.flushed >= UPLOAD_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write the whole log."""
        self.folder.write_text(METRICS, "".join(json.dumps(line) + "\n" for line in self.lines))
        self.flushed = time.monotonic()


def read_log(folder: Folder) -> list[dict[str, Any]]:
    """The lines of the log that are whole, in their order."""
    lines = []
    with suppress(FileNotFoundError):
        for text in folder.read_text(METRICS).splitlines():
            with suppress(ValueError):  # a worker was killed in the middle of the last
                lines.append(json.loads(text))
    return lines
