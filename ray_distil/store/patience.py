"""An object store that is throttled, restarts, or drops a connection: the same operation is tried again, for minutes.

Arrow's client gives up after some six seconds of "503 SlowDown". A task that raised then would end its dataset, and all
engines would start again.
"""

import random
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from typing import Any, TypeVar

ResultT = TypeVar("ResultT")

MINUTES = 10.0  # for which an operation is tried again
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 20.0
# In the errors of Arrow's clients. An upload that was completed, but whose reply was lost, is NO_SUCH_UPLOAD.
PASSING = re.compile(
    r"SLOW_?DOWN|THROTTL|REQUEST_TIMEOUT|SERVICE_UNAVAILABLE|INTERNAL_FAILURE|INTERNAL_ERROR|NO_?SUCH_?UPLOAD"
    r"|Azure Error: \[(?:ServerBusy|OperationTimedOut|InternalError)\]|NETWORK_CONNECTION|HTTP status (?:code:? )?(?:429|50[0234])"
    r"|curlCode: (?:18|28|52|55|56)\b|reset by peer|timed out|UNAVAILABLE|DEADLINE_EXCEEDED",
    re.IGNORECASE,
)
NOBODY_THERE = re.compile(r"curlCode: [67]\b|Connection refused|resolve host", re.IGNORECASE)
_minutes: ContextVar[float] = ContextVar("minutes", default=MINUTES)
_answered: set[str] = set()  # stores that have answered in this process


def patient(operation: Callable[..., ResultT]) -> Callable[..., ResultT]:
    """An operation of a folder that is tried again after an error that passes. It must be one that can be repeated."""

    @wraps(operation)
    def tried(folder: Any, *arguments: Any, **options: Any) -> ResultT:
        patience = Patience(folder)
        while True:
            try:
                result = operation(folder, *arguments, **options)
            except OSError as error:
                patience.wait(error)
            else:
                patience.was_answered()
                return result

    return tried


@contextmanager
def hurried(minutes: float = 0.25) -> Iterator[None]:
    """Within the block, operations of this thread are tried again for so long only: a process is about to end."""
    token = _minutes.set(minutes)
    try:
        yield
    finally:
        _minutes.reset(token)


class Patience:
    """The tries of one operation on a folder."""

    def __init__(self, folder: Any) -> None:
        self.folder = folder
        place, _, options = folder.uri.partition("?")
        self.store = "" if folder.local is not None else f"{'/'.join(place.split('/')[:3])}?{options}"  # without a path
        self.until, self.pause = time.monotonic() + 60 * _minutes.get(), FIRST_PAUSE_S

    def was_answered(self) -> None:
        _answered.add(self.store)

    def wait(self, error: OSError) -> None:
        """Wait before the next try. Raises the error if it does not pass, on a disk, or after MINUTES.

        A store that cannot be reached at all is waited for only if it has answered before: else its address is wrong.
        """
        is_away = NOBODY_THERE.search(str(error))
        passes = self.store in _answered if is_away else PASSING.search(str(error))
        if not self.store or isinstance(error, FileNotFoundError | PermissionError) or not passes:
            raise error
        pause = self.pause * random.uniform(0.5, 1.5)
        if time.monotonic() + pause > self.until:
            raise error
        print(f"{self.folder}: {str(error)[:300]}; tried again in {pause:.1f} s", file=sys.stderr)
        time.sleep(pause)
        self.pause = min(2 * self.pause, LONGEST_PAUSE_S)
