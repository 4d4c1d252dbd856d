"""Rows that were in an engine when it died: tried again, with ever fewer beside them, until the one that kills it is known.

Ray begins a dead engine again and gives it the same rows, without end, so that one row on which the engine dies each
time would keep a stage from ever finishing. Most deaths are no row's fault, and no row may be rejected for its
neighbour's: what was in an engine when it died once goes on as before; after each further death a sixteenth as many may
be in it at once, down to one; and a row that is alone among suspects at two deaths is rejected (`kills_engine`).
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray.actor import ActorHandle

FEWER = 16
ALONE_AT = 2  # deaths of a row that was alone, until it is rejected


class KillsEngine(Exception):
    """The engine died each time that it had this row."""


class Deaths:
    """How many engines died with a row; an actor. It holds the rows that are in an engine, and forgets the finished."""

    def __init__(self) -> None:
        self.begun: Counter[str] = Counter()

    def arrive(self, ids: list[str]) -> list[int]:
        """How often each row was in an engine that died; those of which none did are in one from now on."""
        deaths = [self.begun[row_id] for row_id in ids]
        self.begun.update(row_id for row_id, number in zip(ids, deaths, strict=True) if not number)
        return deaths

    def enter(self, row_id: str) -> None:
        """A row that `arrive` knew is in an engine again."""
        self.begun[row_id] += 1

    def leave(self, ids: list[str]) -> None:
        for row_id in ids:
            self.begun.pop(row_id, None)


def most_at_once(deaths: int, capacity: int) -> int:
    """How many rows with so many deaths may be in an engine that takes `capacity` rows."""
    return max(1, capacity // FEWER ** max(0, deaths - 1))


def kills(deaths: int, capacity: int) -> bool:
    """Whether a row was alone at enough of its deaths."""
    return deaths > ALONE_AT and most_at_once(deaths - ALONE_AT, capacity) == 1


class Room:
    """Room for `size`: lets in, in their order, what has room beside what is in."""

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
        self.known: dict[str, int] = {}

    @asynccontextmanager
    async def among(self, ids: list[str]) -> AsyncIterator[None]:
        """While a batch is at work."""
        for row_id, number in zip(ids, await self._ask("arrive", ids) or [0] * len(ids), strict=True):
            if number:
                self.known[row_id] = number
        yield
        await self._ask("leave", ids)
        for row_id in ids:
            self.known.pop(row_id, None)

    @asynccontextmanager
    async def admitted(self, row_id: str) -> AsyncIterator[None]:
        """While one row of the batch is in the engine; a suspect waits for its place. Raises KillsEngine."""
        number = self.known.get(row_id, 0)
        if not number:
            yield
            return
        if kills(number, self.capacity):
            raise KillsEngine(f"the engine died {number} times with this row, at last {ALONE_AT} times with it alone")
        async with self.room.place(self.capacity // most_at_once(number, self.capacity)):
            await self._ask("enter", row_id)
            yield
            await self._ask("leave", [row_id])  # it came out of it: not it, even if its batch is begun again

    async def _ask(self, method: str, argument: Any) -> Any:
        from ray.exceptions import RayActorError

        try:
            return await getattr(self.deaths, method).remote(argument)
        except RayActorError:  # without it all rows are as good as new
            return None


def watched(engine: type, deaths: "ActorHandle", capacity: int) -> type:
    """The actor of ray.data.llm's engine, whose rows have an `id`, with an eye on the suspects among them."""

    class Watched(engine):  # type: ignore[misc]
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

    Watched.__name__ = engine.__name__  # in Ray's names of actors
    return Watched


def deaths_actor() -> "ActorHandle":
    """An actor of the class `Deaths`, on the driver's node: no engine's end takes it along."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(num_cpus=0, scheduling_strategy=here)(Deaths).remote()
