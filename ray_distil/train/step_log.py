"""metrics.jsonl: one line for each logged step, written to the run's folder or store during training.

After a stop, the next training continues the same file.
"""

import json
import time
from contextlib import suppress
from typing import Any

from ray_distil.store.storage import Folder
from ray_distil.train.event_files import EventFiles

METRICS = "metrics.jsonl"
UPLOAD_SECONDS = 20.0  # between two uploads of the whole file: one cannot append to an object


class StepLog:
    """The log of a training that goes on after `done` steps. Lines of later steps are removed: they will come again."""

    def __init__(self, folder: Folder, done: int, tensorboard: bool = False) -> None:
        """With `tensorboard`, event files with the same numbers are written too."""
        self.folder = folder
        self.lines = [line for line in read_log(folder) if line["step"] <= done] if done else []
        self.events = EventFiles(folder, self.lines) if tensorboard else None
        self.flush()

    def add(self, line: dict[str, Any]) -> None:
        self.lines.append(line)
        if self.events is not None:
            self.events.add(line)
        if self.folder.local is not None:
            with open(self.folder.local / METRICS, "a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        elif time.monotonic() - self.flushed >= UPLOAD_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write the whole log."""
        self.folder.write_text(METRICS, "".join(json.dumps(line) + "\n" for line in self.lines))
        if self.events is not None:
            self.events.flush()
        self.flushed = time.monotonic()


def read_log(folder: Folder) -> list[dict[str, Any]]:
    """The lines of the log that are whole, in their order."""
    lines = []
    with suppress(FileNotFoundError):
        for text in folder.read_text(METRICS).splitlines():
            with suppress(ValueError):  # a worker was killed in the middle of the last
                lines.append(json.loads(text))
    return lines
