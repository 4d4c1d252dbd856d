"""Which row kills an engine is found without blaming its neighbours."""

import asyncio
from typing import Any

import pytest

from ray_distil.errors import KillsEngine
from ray_distil.generate.suspects import Deaths, Room, Suspects, kills, most_at_once

IDS = [f"row-{n}" for n in range(64)]


class Remote:
    """The class Deaths as an actor's handle has it."""

    def __init__(self) -> None:
        self.deaths = Deaths()

    def __getattr__(self, method: str) -> Any:
        class Method:
            @staticmethod
            async def remote(argument: Any) -> Any:
                return getattr(self.deaths, method)(argument)

        return Method


class EngineDied(BaseException):
    pass


class Engine:
    """One life of an engine: dies as soon as it has had a deadly row for some turns of the loop."""

    def __init__(self, deaths: Remote, capacity: int, deadly: set[str]) -> None:
        self.suspects, self.deadly = Suspects(deaths, capacity), deadly  # type: ignore[arg-type]
        self.now: set[str] = set()
        self.most = 0

    async def row(self, row_id: str) -> str:
        try:
            async with self.suspects.admitted(row_id):
                self.now.add(row_id)
                self.most = max(self.most, len(self.now))
                for _ in range(3):
                    await asyncio.sleep(0)
                if row_id in self.deadly:
                    raise EngineDied
                self.now.discard(row_id)
                return "done"
        except KillsEngine as error:
            return str(error)

    async def batch(self, ids: list[str]) -> dict[str, str]:
        async with self.suspects.among(ids):
            return dict(zip(ids, await asyncio.gather(*map(self.row, ids)), strict=True))


def lives(
    deaths: Remote, deadly: set[str], batch_size: int = 16, capacity: int = 32
) -> tuple[dict[str, str], list[int]]:
    """Every row's end, when engines are begun again with the batches that are left; and most rows at once, by life."""

    async def together(engine: Engine, batches: list[list[str]]) -> None:
        async def one(batch: list[str]) -> None:
            ends.update(await engine.batch(batch))
            left.remove(batch)

        await asyncio.gather(*map(one, batches))

    left = [IDS[n : n + batch_size] for n in range(0, len(IDS), batch_size)]
    ends: dict[str, str] = {}
    most = []
    for _ in range(40):
        engine = Engine(deaths, capacity, deadly)
        loop = asyncio.new_event_loop()
        try:
            while left:
                loop.run_until_complete(together(engine, left[: capacity // batch_size]))
            return ends, most
        except EngineDied:
            most.append(engine.most)
        finally:
            for task in asyncio.all_tasks(loop):
                task.cancel()
            loop.close()
    raise AssertionError(f"the engine never came through: {most}")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("deadly", [{"row-5"}, {"row-5", "row-9"}, {"row-0", "row-40", "row-63"}], ids=len)
def test_the_rows_that_kill_the_engine_are_rejected_and_all_others_are_done(deadly: set[str]) -> None:
    remote = Remote()
    ends, most = lives(remote, deadly)
    assert ends.keys() == set(IDS)
    assert {row_id for row_id, end in ends.items() if end != "done"} == deadly
    assert all("died" in ends[row_id] for row_id in deadly)
    assert len(most) <= 5 * len(deadly)
    assert not remote.deaths.num_begun  # nothing is remembered of rows that have come to their end


def test_one_death_slows_nothing_and_blames_nobody() -> None:
    remote = Remote()
    remote.deaths.arrive(IDS[:32])
    engine = Engine(remote, 32, set())
    assert set(asyncio.run(engine.batch(IDS[:32])).values()) == {"done"}
    assert engine.most == 32


def test_fewer_at_once_with_each_further_death() -> None:
    assert [most_at_once(n, 1024) for n in range(6)] == [1024, 1024, 64, 4, 1, 1]
    assert [kills(n, 1024) for n in range(8)] == [False] * 6 + [True] * 2
    assert [most_at_once(n, 8) for n in range(4)] == [8, 8, 1, 1]
    assert [kills(n, 8) for n in range(6)] == [False] * 4 + [True] * 2
    assert [kills(n, 1) for n in range(4)] == [False] * 3 + [True]


def test_a_large_one_is_not_passed_by_small_ones() -> None:
    entered = []

    async def one(room: Room, name: str, size: int) -> None:
        async with room.place(size):
            entered.append(name)
            assert room.taken <= room.size
            await asyncio.sleep(0)

    async def all_of_them() -> None:
        room = Room(4)
        await asyncio.gather(*(one(room, name, size) for name, size in [("a", 1), ("b", 4), ("c", 1), ("d", 1)]))
        assert room.taken == 0

    asyncio.run(all_of_them())
    assert entered == ["a", "b", "c", "d"]
