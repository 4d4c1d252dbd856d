"""TensorBoard's event files of a training: a scalar for each number of a line of metrics.jsonl."""

import tempfile
from pathlib import Path
from typing import Any

from ray_distil.storage import Folder

EVENTS = "tensorboard"  # the folder
NOT_SHOWN = ("step", "num_steps", "time")


class EventFiles:
    """Event files in a folder, of a training whose earlier lines are there already: a new file has these as well."""

    def __init__(self, folder: Folder, lines: list[dict[str, Any]]) -> None:
        from tensorboardX import SummaryWriter

        self.folder = folder / EVENTS
        self.folder.remove_all()
        self.staging = None if self.folder.local is not None else tempfile.TemporaryDirectory(prefix="ray_distil-")
        self.place = str(self.folder.local) if self.staging is None else self.staging.name
        self.writer = SummaryWriter(self.place, flush_secs=10)
        for line in lines:
            self.add(line)

    def add(self, line: dict[str, Any]) -> None:
        for name, value in line.items():
            if value is not None and name not in NOT_SHOWN:
                shown = "eval/loss" if name == "eval_loss" else f"train/{name}"
                self.writer.add_scalar(shown, value, line["step"], walltime=line.get("time"))

    def flush(self) -> None:
        """Put all that was added where it belongs."""
        self.writer.flush()
        if self.staging is not None:
            self.folder.upload(Path(self.place))
