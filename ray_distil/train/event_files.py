"""TensorBoard's event files of a training: a scalar for each number of a line of metrics.jsonl."""

import tempfile
import time
from pathlib import Path
from typing import Any

from ray_distil.store.storage import Folder

EVENTS = "tensorboard"  # the folder
NOT_SHOWN = ("step", "num_steps", "time")


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
                shown = scalar("eval/loss" if name == "eval_loss" else f"train/{name}", value)
                event.summary.value.extend(shown.value)
        self.writer.write_event(event)
        if self.staging is None:
            self.writer.flush()

    def flush(self) -> None:
        """Write all added events to disk, and upload them where the folder is in an object store."""
        self.writer.flush()
        if self.staging is not None:
            self.folder.upload(Path(self.place))
