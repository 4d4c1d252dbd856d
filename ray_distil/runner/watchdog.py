"""Stops a stage before it has cost a night: when too many of its rows fail, or when none is finished for too long."""

import json
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from math import inf
from typing import TypeVar

from ray_distil.errors import NoAccess, StoppedError
from ray_distil.generate.generation import NO_ACCESS
from ray_distil.store.shards import Written

ItemT = TypeVar("ItemT")
POLL_S = 5.0
DETAIL = 120  # characters of an error that a line shows
LEAST_ROWS = 100  # that the share of failures needs; all, if there are fewer. A few early failures prove nothing


def steady(
    items: Iterable[ItemT], minutes: float | None, stage: str, is_ready: Callable[[], bool] = lambda: True
) -> Iterator[ItemT]:
    """The items as they come. Raises StoppedError where none comes for `minutes`; None: waits for ever.

    Only the time in which `is_ready` is true counts: a large model takes an hour to load, at the beginning and where its
    engine was lost. A thread takes the items, because a call that waits in Ray cannot be interrupted.
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
    limit = inf if minutes is None else 60 * minutes
    waited, looked = 0.0, time.monotonic()
    try:
        while True:
            try:
                item, error = taken.get(timeout=min(limit, POLL_S))
            except queue.Empty:
                now = time.monotonic()
                waited, looked = waited + (now - looked if is_ready() else 0), now
                if waited < limit:
                    continue
                raise StoppedError(
                    f"{stage}: no row was finished for {minutes:g} minutes (run.stall_minutes). Look into the engines' "
                    "log; the same command goes on with the rows that are left"
                ) from None
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            yield item  # type: ignore[misc]
            waited, looked = 0.0, time.monotonic()
    finally:
        over.set()


class FailureLimit:
    """Counts the rows of a stage. Raises StoppedError when more than the share `fraction` of the rows has failed, and
    NoAccess at the first row that an endpoint refuses as it would refuse all.
    """

    def __init__(self, fraction: float, rows: int, stage: str, rejects: str, num_known: int = 0) -> None:
        """`rows`: how many rows will come. `num_known`: how many of them failed in an earlier try, and may fail again.

        `rejects`: the folder of the failed rows, for the message.
        """
        self.max_fraction, self.rows, self.stage, self.rejects = fraction, rows, stage, rejects
        self.num_known = num_known
        self.num_rows = self.num_failed = self.num_unfit = 0  # rows of unfit sources are not tried
        self.reasons: Counter[str] = Counter()
        self.details: dict[str, str] = {}

    def add(self, shard: Written) -> None:
        self.num_rows += shard["num_tried"]
        self.num_failed += shard["num_failed"]
        self.num_unfit += shard["rows_out"] + shard["rows_rejected"] - shard["num_tried"]
        for reason, number, detail in json.loads(shard["why"]):
            self.reasons[reason] += number
            self.details.setdefault(reason, detail)
        for reason in sorted(NO_ACCESS & set(self.reasons)):
            raise NoAccess(
                f"{self.stage}: the endpoint refuses all requests, {reason}: {self.details[reason]}. Finished rows stay; with "
                "the key or the account in order, the same command goes on"
            )
        if self.num_rows >= min(LEAST_ROWS, self.rows - self.num_unfit):
            self.judge()

    def judge(self) -> None:
        """Raise StoppedError if too many of the rows so far have failed; at the end of a stage however few they are."""
        if self.num_failed > self.num_known + self.max_fraction * self.num_rows:
            (reason, number), *_ = self.reasons.most_common(1)
            example = f": {self.details[reason][:200].rstrip('.')}" if self.details[reason] else ""
            raise StoppedError(
                f"{self.stage}: {self.num_failed:,} of the first {self.num_rows:,} rows failed or were cut off, more than "
                f"run.max_reject_fraction={self.max_fraction:g} of them; most often {reason}, {number:,} times{example}. All reasons are in "
                f"{self.rejects}. Remove the cause, or raise the fraction, and run again"
            )


def failures_text(failed: Counter[str], details: dict[str, str]) -> str:
    """E.g. "38 rows failed (http_503 30: overloaded, timeout 8: no reply)". `details`: reason -> that of a row."""
    parts = [
        (f"{reason} {number:,}", details.get(reason, "")[:DETAIL].rstrip(". "))
        for reason, number in failed.most_common()
    ]
    why = ", ".join(": ".join(filter(None, part)) for part in parts)
    return f"{failed.total():,} rows failed ({why})"
