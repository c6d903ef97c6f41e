"""An engine for each test; the code under test opens sessions and commits as it likes."""

from __future__ import annotations

from typing import Iterator

import pytest
from sqlalchemy import Engine, create_engine
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

import ondemand


class Base(DeclarativeBase):
    pass


class Product(Base):
    __tablename__ = "product"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    stock: Mapped[int]


def sell(engine: Engine, product: int) -> None:
    with Session(engine) as session:
        session.get_one(Product, product).stock -= 1
        session.commit()


def stock(engine: Engine, product: int) -> int:
    with Session(engine) as session:
        return session.get_one(Product, product).stock


@pytest.fixture
def engine(pg_snapshot: ondemand.Database) -> Iterator[Engine]:
    engine = create_engine(pg_snapshot.url_for("postgresql+psycopg"))
    yield engine
    engine.dispose()


def test_what_is_sold_is_gone(engine: Engine) -> None:
    sell(engine, 5)
    assert stock(engine, 5) == 4


def test_what_is_not_there_is_not_sold(engine: Engine) -> None:
    with pytest.raises(IntegrityError):
        sell(engine, 10)


def test_a_reset_keeps_the_address(engine: Engine, pg_snapshot: ondemand.Database) -> None:
    sell(engine, 5)
    engine.dispose()
    pg_snapshot.reset()
    assert stock(engine, 5) == 5
