"""Many small files at a time: an object store takes as long for a request of a few bytes as for one of many."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")

AT_ONCE = 24  # Amazon's client keeps 25 connections
HELD_BYTES = 2**23


def ahead(
    work: Callable[[ItemT], ResultT], items: Iterable[ItemT], size: Callable[[ItemT], int] = lambda item: 0
) -> Iterator[ResultT]:
    """`work(item)` of each item, in their order; AT_ONCE of them are done by threads while the caller uses a result.

    `size`: bytes of an item. Of results that wait for the caller, and of those that are being made, there are no more
    than HELD_BYTES, and at least one.
    """
    waiting: deque[tuple[int, Future[ResultT]]] = deque()
    held_bytes = 0
    pool = ThreadPoolExecutor(AT_ONCE)
    try:
        for item in items:
            while waiting and (len(waiting) == AT_ONCE or held_bytes + size(item) > HELD_BYTES):
                bytes_of_it, result = waiting.popleft()
                yield result.result()
                held_bytes -= bytes_of_it
            waiting.append((size(item), pool.submit(work, item)))
            held_bytes += size(item)
        while waiting:
            yield waiting.popleft()[1].result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def do_all(work: Callable[[ItemT], object], items: Iterable[ItemT]) -> None:
    """`work(item)` for each item, AT_ONCE at a time. Raises the first error, in the order of the items."""
    for _ in ahead(work, items):
        pass
