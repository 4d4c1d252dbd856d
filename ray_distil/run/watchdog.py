"""A stage that goes wrong ends, before it has cost a night: rows that fail one after the other, or none for too long."""

import json
import queue
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TypeVar

from ray_distil.store.shards import StageError, Written

ItemT = TypeVar("ItemT")
LEAST_ROWS = 100  # or all, where there are fewer: a few failures at the beginning say nothing yet


class StoppedError(StageError):
    """A stage was stopped while it was at work: its tasks may still be running when this is raised."""


def steady(items: Iterable[ItemT], minutes: float | None, stage: str) -> Iterator[ItemT]:
    """The items as they come. Raises StoppedError where none comes for so many minutes; None: waits for ever.

    They are taken in a thread, since what Ray waits for cannot be interrupted.
    """
    taken: queue.Queue[tuple[ItemT | None, BaseException | None]] = queue.Queue()
    over = threading.Event()

    def take() -> None:
        try:
            for item in items:
                taken.put((item, None))
                if over.is_set():
                    return
            taken.put((None, StopIteration()))
        except BaseException as error:  # noqa: BLE001  raised where the item is asked for
            taken.put((None, error))

    threading.Thread(target=take, daemon=True).start()
    try:
        while True:
            try:
                item, error = taken.get(timeout=None if minutes is None else 60 * minutes)
            except queue.Empty:
                raise StoppedError(
                    f"{stage}: no row was finished for {minutes:g} minutes (run.stall_minutes). Look into the engines' "
                    "log; the same command goes on with the rows that are left"
                ) from None
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            yield item  # type: ignore[misc]
    finally:
        over.set()


class FailureLimit:
    """Counts the rows of a stage. Raises StoppedError when more than a share `most` of them failed."""

    def __init__(self, most: float, rows: int, stage: str, rejects: str, known: int = 0) -> None:
        """`rows`: so many will come; `known` of them have failed before, and may again.

        `rejects`: where the failed ones can be looked at.
        """
        self.most, self.least, self.stage, self.rejects = most, min(LEAST_ROWS, rows), stage, rejects
        self.known = known
        self.num_rows = self.num_failed = 0
        self.reasons: Counter[str] = Counter()
        self.details: dict[str, str] = {}

    def add(self, shard: Written) -> None:
        self.num_rows += shard["num_tried"]
        self.num_failed += shard["num_failed"]
        for reason, number, detail in json.loads(shard["why"]):
            self.reasons[reason] += number
            self.details.setdefault(reason, detail)
        if self.num_rows >= self.least and self.num_failed > self.known + self.most * self.num_rows:
            (reason, number), *_ = self.reasons.most_common(1)
            example = f": {self.details[reason][:200].rstrip('.')}" if self.details[reason] else ""
            raise StoppedError(
                f"{self.stage}: {self.num_failed:,} of the first {self.num_rows:,} rows failed or were cut off, more than "
                f"run.max_reject_fraction={self.most:g} of them; most often {reason}, {number:,} times{example}. All reasons are in "
                f"{self.rejects}. Remove the cause, or raise the fraction, and run again"
            )
