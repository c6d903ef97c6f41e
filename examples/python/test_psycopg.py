"""Each test has a connection to a database of its own."""

from __future__ import annotations

from typing import Iterator, Tuple

import psycopg
import pytest

import ondemand

Connection = psycopg.Connection[Tuple[int, ...]]


def sell(connection: Connection, product: int) -> None:
    """What is tested: it commits, so no test could take it back."""
    connection.execute("UPDATE product SET stock = stock - 1 WHERE id = %s", (product,))
    connection.commit()


@pytest.fixture
def connection(pg_snapshot: ondemand.Database) -> Iterator[Connection]:
    with psycopg.connect(pg_snapshot.url) as connection:
        yield connection


def stock(connection: Connection, product: int) -> int:
    row = connection.execute("SELECT stock FROM product WHERE id = %s", (product,)).fetchone()
    assert row is not None
    return row[0]


def test_what_is_sold_is_gone(connection: Connection) -> None:
    sell(connection, 5)
    assert stock(connection, 5) == 4


def test_what_is_not_there_is_not_sold(connection: Connection) -> None:
    with pytest.raises(psycopg.errors.CheckViolation):
        sell(connection, 10)


def test_the_other_tests_have_changed_nothing(connection: Connection) -> None:
    assert stock(connection, 5) == 5
