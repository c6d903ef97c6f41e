"""The same for asyncio: a database is asked for where it is needed."""

from __future__ import annotations

import asyncio

import asyncpg  # type: ignore[import-untyped]
import pytest

import ondemand
from ondemand import aio


async def sell(url: str, product: int) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute("UPDATE product SET stock = stock - 1 WHERE id = $1", product)
    finally:
        await connection.close()


async def stock(url: str, product: int) -> int:
    connection = await asyncpg.connect(url)
    try:
        return int(await connection.fetchval("SELECT stock FROM product WHERE id = $1", product))
    finally:
        await connection.close()


def test_what_is_sold_is_gone(ondemand_dataset: str) -> None:
    async def main() -> None:
        async with aio.pg_snapshot(ondemand_dataset) as db:
            await sell(db.url, 5)
            assert await stock(db.url, 5) == 4

    asyncio.run(main())


def test_what_is_not_there_is_not_sold(pg_snapshot: ondemand.Database) -> None:
    # A fixture that blocks is as good for a test that awaits.
    with pytest.raises(asyncpg.CheckViolationError):
        asyncio.run(sell(pg_snapshot.url, 10))


def test_many_at_once_sell_no_more_than_there_is(pg_snapshot: ondemand.Database) -> None:
    async def main() -> int:
        sales = await asyncio.gather(*(sell(pg_snapshot.url, 9) for _ in range(20)), return_exceptions=True)
        assert sum(sale is None for sale in sales) == 9
        return await stock(pg_snapshot.url, 9)

    assert asyncio.run(main()) == 0
