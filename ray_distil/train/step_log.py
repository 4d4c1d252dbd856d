"""metrics.jsonl: one line for each logged step, written to the run's folder or store during training.

After a stop, the next training continues the same file. On request, TensorBoard's event files have the same numbers.
"""

import json
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from ray_distil.store.storage import Folder

METRICS = "metrics.jsonl"
EVENTS = "tensorboard"  # the folder of the event files
NOT_SHOWN = ("step", "num_steps", "time")  # in the event files
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


class EventFiles:
    """TensorBoard event files in a folder. They are written anew at each start: first the `lines` of earlier steps."""

    def __init__(self, folder: Folder, lines: list[dict[str, Any]]) -> None:
        from tensorboardX.event_file_writer import EventsWriter

        self.folder = folder / EVENTS
        self.folder.remove_all()
        self.staging = None if self.folder.local is not None else tempfile.TemporaryDirectory(prefix="ray_distil-")
        self.place = str(self.folder.local) if self.staging is None else self.staging.name
        Path(self.place).mkdir(parents=True, exist_ok=True)
        self.writer = EventsWriter(f"{self.place}/events")  # it has no thread that would write later
        for line in lines:
            self.add(line)

    def add(self, line: dict[str, Any]) -> None:
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.summary import scalar

        event = Event(step=line["step"], wall_time=line.get("time", time.time()))
        for name, value in line.items():
            if value is not None and name not in NOT_SHOWN:
                summary = scalar("eval/loss" if name == "eval_loss" else f"train/{name}", value)
                event.summary.value.extend(summary.value)
        self.writer.write_event(event)
        if self.staging is None:
            self.writer.flush()

    def flush(self) -> None:
        """Write all added events to disk, and upload them where the folder is in an object store."""
        self.writer.flush()
        if self.staging is not None:
            self.folder.upload(Path(self.place))
