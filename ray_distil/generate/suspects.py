"""Rows that were in an engine when it died: suspects. They are tried again, fewer at a time after each death, until the
row that kills the engine is found.

Ray restarts a dead engine and gives it the same rows, without end. So one row on which the engine always dies would
keep a stage from finishing. But most deaths are no row's fault, and no row may be rejected for a neighbour's fault:

- After one death, its rows go on as before.
- After each further death, a sixteenth as many suspects may be in the engine at once, down to one.
- A row that was the only suspect in the engine at two deaths is rejected (`kills_engine`).
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from ray_distil.errors import KillsEngine

if TYPE_CHECKING:
    from ray.actor import ActorHandle

FEWER = 16
ALONE_AT = 2  # a row is rejected after this many deaths at which it was the only suspect


class Deaths:
    """An actor that knows for each row how many engines died with it.

    It counts how often a row went into an engine, and forgets the row when it is finished. So a row that comes again
    has been in engines that died.
    """

    def __init__(self) -> None:
        self.num_begun: Counter[str] = Counter()

    def arrive(self, ids: list[str]) -> list[int]:
        """How often each row was in an engine that died. A row with 0 deaths counts as in an engine from now on."""
        deaths = [self.num_begun[row_id] for row_id in ids]
        self.num_begun.update(row_id for row_id, number in zip(ids, deaths, strict=True) if not number)
        return deaths

    def enter(self, row_id: str) -> None:
        """A suspect (a row for which `arrive` returned deaths) goes into an engine again."""
        self.num_begun[row_id] += 1

    def leave(self, ids: list[str]) -> None:
        for row_id in ids:
            self.num_begun.pop(row_id, None)


def most_at_once(deaths: int, capacity: int) -> int:
    """How many rows with `deaths` deaths may be at once in an engine that takes `capacity` rows.

    E.g. of 512: 512 after one death, 32 after two, 2 after three, 1 after four.
    """
    return max(1, capacity // int(FEWER ** max(0, deaths - 1)))


def kills(deaths: int, capacity: int) -> bool:
    """Whether a row was alone at enough of its deaths."""
    return deaths > ALONE_AT and most_at_once(deaths - ALONE_AT, capacity) == 1


class Room:
    """A space of `size`. Whoever comes waits, in order, until there is enough free space for it."""

    def __init__(self, size: int) -> None:
        self.size, self.taken = size, 0
        self.queue, self.somebody_left = asyncio.Lock(), asyncio.Event()

    @asynccontextmanager
    async def place(self, size: int) -> AsyncIterator[None]:
        async with self.queue:
            while self.taken + size > self.size:
                self.somebody_left.clear()
                await self.somebody_left.wait()
            self.taken += size
        try:
            yield
        finally:
            self.taken -= size
            self.somebody_left.set()


class Suspects:
    """The suspects among one engine's rows."""

    def __init__(self, deaths: "ActorHandle", capacity: int) -> None:
        """`deaths`: an actor of the class `Deaths`, one for all engines of a pool."""
        self.deaths, self.capacity = deaths, capacity
        self.room = Room(capacity)
        self.num_deaths: dict[str, int] = {}

    @asynccontextmanager
    async def among(self, ids: list[str]) -> AsyncIterator[None]:
        """Around the work on a batch: looks up which of its rows are suspects, and forgets the rows afterwards."""
        for row_id, number in zip(ids, await self._ask("arrive", ids) or [0] * len(ids), strict=True):
            if number:
                self.num_deaths[row_id] = number
        yield
        await self._ask("leave", ids)
        for row_id in ids:
            self.num_deaths.pop(row_id, None)

    @asynccontextmanager
    async def admitted(self, row_id: str) -> AsyncIterator[None]:
        """Around the work on one row of the batch; a suspect waits for its place. Raises KillsEngine to reject it."""
        number = self.num_deaths.get(row_id, 0)
        if not number:
            yield
            return
        if kills(number, self.capacity):
            raise KillsEngine(f"the engine died {number} times with this row, at last {ALONE_AT} times with it alone")
        async with self.room.place(self.capacity // most_at_once(number, self.capacity)):
            await self._ask("enter", row_id)
            yield
            await self._ask("leave", [row_id])  # the engine survived it: no suspect, even in a new try of its batch

    async def _ask(self, method: str, argument: Any) -> Any:
        from ray.exceptions import RayActorError

        try:
            return await getattr(self.deaths, method).remote(argument)
        except RayActorError:  # the actor is lost: all rows count as rows without deaths
            return None


def watched(engine: type, deaths: "ActorHandle", capacity: int) -> type:
    """The actor class of ray.data.llm's engine, which tracks the suspects among its rows by their `id`."""

    class Watched(engine):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            self.suspects = Suspects(deaths, capacity)
            generate_async = self.llm.generate_async

            async def generate_admitted(row: dict[str, Any]) -> Any:
                async with self.suspects.admitted(row["id"]):
                    return await generate_async(row)

            self.llm.generate_async = generate_admitted

        async def udf(self, batch: list[dict[str, Any]]) -> AsyncIterator[dict[str, Any]]:
            async with self.suspects.among([row["id"] for row in batch]):
                async for output in super().udf(batch):
                    yield output

    Watched.__name__ = engine.__name__  # Ray shows it as the name of the actor
    return Watched


def deaths_actor() -> "ActorHandle":
    """An actor of the class `Deaths`, on the driver's node, so that it survives the loss of an engine's node."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    strategy = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(num_cpus=0, scheduling_strategy=strategy)(Deaths).remote()
