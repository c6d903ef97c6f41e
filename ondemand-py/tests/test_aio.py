"""The interface for asyncio.

Slow: datasets are built and imported, each with a cluster that is started and shut down.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, Optional

import asyncpg  # type: ignore[import-untyped]
import pytest
from conftest import Place, eventually

import ondemand
from ondemand import _native, aio


def client(place: Place) -> aio.Ondemand:
    if place.mode == "server":
        return aio.connect(place.env["ONDEMAND_URL"], place.env["ONDEMAND_TOKEN"])
    return aio.embedded(place.data_dir)


async def count(db: aio.Database) -> int:
    connection = await asyncpg.connect(db.url)
    try:
        return int(await connection.fetchval("SELECT count(*) FROM people"))
    finally:
        await connection.close()


def test_a_database_lives_for_as_long_as_its_block(place: Place) -> None:
    async def main() -> None:
        async with client(place) as od:
            async with od.pg_snapshot("production") as db:
                assert await count(db) == 100
                connection = await asyncpg.connect(db.url)
                await connection.execute("DELETE FROM people")
                await connection.close()
                await db.reset()
                assert await count(db) == 100
                await db.extend("2h")
                assert any("ready" in [word for line in [line] for word in line.split()] for line in [x async for x in db.logs()])
            assert place.is_clean()
            awaited = await od.pg_snapshot("production")
            assert [each.id for each in await od.databases.list()] == [awaited.id]
            await awaited.close()
            await awaited.close()

    asyncio.run(main())


def test_many_at_once(place: Place) -> None:
    async def one(od: aio.Ondemand) -> int:
        async with od.pg_snapshot("production") as db:
            return await count(db)

    async def main() -> list[int]:
        od = client(place)
        return list(await asyncio.gather(*(one(od) for _ in range(8))))

    assert asyncio.run(main()) == [100] * 8


def test_the_loop_runs_meanwhile(place: Place) -> None:
    async def main() -> int:
        od = client(place)
        await od.datasets.list()
        turns = 0
        creation = asyncio.ensure_future(od.databases.create("production"))
        while not creation.done():
            await asyncio.sleep(0)
            turns += 1
        await (await creation).close()
        return turns

    # Held up for all of the create, it would turn once or twice.
    assert asyncio.run(main()) > 20


async def cleaned(place: Place) -> None:
    """Wait, in a loop that runs, until nothing is left."""
    await asyncio.get_running_loop().run_in_executor(None, eventually, place.is_clean, "something is left", 5)


def test_a_creation_that_is_cancelled_leaves_nothing(place: Place) -> None:
    async def main() -> None:
        od = client(place)
        await od.datasets.list()
        for delay in (0, 0.005, 0.02, 0.04, 0.06):
            creation = asyncio.ensure_future(od.databases.create("production"))
            await asyncio.sleep(delay)
            if creation.done():
                await (await creation).close()
            creation.cancel()
            with pytest.raises(asyncio.CancelledError):
                await creation
                raise asyncio.CancelledError
        await cleaned(place)

    asyncio.run(main())


def is_running(place: Place) -> bool:
    return any(database.status == "Running" for database in place.od.databases.list())


def test_a_creation_that_is_cancelled_when_it_is_done_leaves_nothing(place: Place) -> None:
    async def main() -> None:
        od = client(place)
        await od.datasets.list()
        creation = asyncio.ensure_future(od.databases.create("production"))
        while not place.od.databases.list():
            await asyncio.sleep(0)
        # Now the loop, which is held up, does not notice that it is there.
        eventually(lambda: is_running(place), "it is not created")
        creation.cancel()
        with pytest.raises(asyncio.CancelledError):
            await creation
        await cleaned(place)

    asyncio.run(main())


class Interrupting:
    """A session that cancels a task the moment there is an answer for it, before it has run and got that."""

    def __init__(self, session: _native.Session) -> None:
        self.session = session
        self.status: Optional[int] = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.session, name)

    def request_async(self, method: str, *arguments: Any) -> Any:
        future: Any = self.session.request_async(method, *arguments)
        task = asyncio.current_task()
        assert task is not None

        def interrupt(answered: Any) -> None:
            self.status = answered.result().status
            task.cancel()

        if method == "POST":
            future.add_done_callback(interrupt)
        return future


def test_a_creation_whose_answer_is_not_taken_leaves_nothing(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        od = client(place)
        await od.datasets.list()
        interrupting = Interrupting(od._connection._session())
        monkeypatch.setattr(od._connection, "_session", lambda: interrupting)
        with pytest.raises(asyncio.CancelledError):
            await od.databases.create("production")
        assert interrupting.status == 201
        await cleaned(place)

    asyncio.run(main())


def test_a_block_that_is_cancelled_is_left_clean(place: Place) -> None:
    async def main() -> None:
        od = client(place)
        entered = asyncio.Event()

        async def use() -> None:
            async with od.pg_snapshot("production"):
                entered.set()
                await asyncio.sleep(60)

        task = asyncio.create_task(use())
        await entered.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert place.is_clean()

    asyncio.run(main())


def test_errors_are_the_same(place: Place) -> None:
    async def main() -> None:
        od = client(place)
        with pytest.raises(ondemand.NotFound):
            await od.pg_snapshot("prodution")
        with pytest.raises(ondemand.NotFound):
            async with od.pg_snapshot("prodution"):
                pass
        with pytest.raises(ondemand.NotFound):
            await od.databases.delete("nobody")
        with pytest.raises(ondemand.Unsupported):
            await od.environments.get("demo")

    asyncio.run(main())


def test_a_function_that_awaits_builds_a_dataset(place: Place, tmp_path: Path) -> None:
    async def migrate(db: aio.Database) -> None:
        connection = await asyncpg.connect(db.url)
        await connection.execute("CREATE TABLE people AS SELECT 1 AS n")
        await connection.close()

    async def main() -> None:
        od = client(place)
        name = await aio.dataset_from(migrate, key="async", od=od)
        assert await aio.dataset_from(migrate, key="async", od=od) == name
        async with od.pg_snapshot(name) as db:
            assert await count(db) == 1
        await od.datasets.delete(name)

    asyncio.run(main())
