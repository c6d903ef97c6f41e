"""What a program does with a database."""

from __future__ import annotations

import gc
import json
import subprocess
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Dict, Union

import psycopg
import pytest
from conftest import Place, eventually, is_open

import ondemand
from ondemand._connection import Connection
from ondemand._effects import Hold, Request


def count(db: ondemand.Database) -> int:
    with psycopg.connect(db.url) as connection:
        row = connection.execute("SELECT count(*) FROM people").fetchone()
    assert row is not None
    return int(row[0])


def test_a_database_lives_for_as_long_as_its_block(place: Place) -> None:
    with place.od.pg_snapshot("production") as db:
        assert count(db) == 100
        assert db.leased and db.status == "Running"
        assert (db.dataset, db.snapshot.partition("@")[0]) == ("production", "production")
        assert [other.id for other in place.od.databases.list()] == [db.id]
        assert db.password not in repr(db)
    assert place.is_clean()
    assert not is_open(db.port)
    with pytest.raises(ondemand.NotFound):
        place.od.databases.get(db.id)
    db.close()


def test_what_was_let_go_goes_whatever_comes_next(place: Place) -> None:
    before = place.od.pg_snapshot("production")
    place.od.close()
    with place.od.pg_snapshot("production") as after:
        assert before.id != after.id
        eventually(lambda: [db.id for db in place.od.databases.list()] == [after.id], "it stays", seconds=5)
        assert not is_open(before.port)
    before.close()


def test_a_lease_that_is_let_go_while_it_is_taken_is_not_held() -> None:
    connection = Connection("http://127.0.0.1:1")
    ready = connection._ready(True)
    first = next(ready)
    # Another thread, or another task, when the answer is on its way.
    connection.close()
    second = ready.send(None)
    assert isinstance(first, Hold) and isinstance(second, Hold) and first != second
    with pytest.raises(StopIteration):
        ready.send(None)
    # What is asked for now is on the one that is held.
    creation = connection.request("POST", "/servers", {}, leased=True)
    asked = next(creation)
    assert isinstance(asked, Request) and json.loads(asked.body or b"") == {"Lease": second.lease}


def test_every_driver_finds_it(place: Place) -> None:
    with place.od.pg_snapshot() as db:
        query = "SELECT count(*) FROM people"
        with psycopg.connect(db.dsn()) as connection:
            assert connection.execute(query).fetchone() == (100,)
        told = {"host": db.host, "port": db.port, "user": db.user, "password": db.password, "dbname": db.dbname}
        with psycopg.connect(**told) as connection:  # type: ignore[arg-type]
            assert connection.execute(query).fetchone() == (100,)
        said = subprocess.run(["psql", "-XAtc", query], env={"PATH": "/usr/bin", **db.env}, capture_output=True)
        assert said.stdout == b"100\n", said.stderr


def test_a_reset_takes_it_back(place: Place) -> None:
    with place.od.pg_snapshot("production") as db:
        before = db.url
        with psycopg.connect(db.url) as connection:
            connection.execute("DELETE FROM people")
        assert count(db) == 0
        db.reset()
        assert (db.url, count(db)) == (before, 100)


def test_databases_are_private(place: Place) -> None:
    with place.od.pg_snapshot("production") as one, place.od.pg_snapshot("production") as other:
        with psycopg.connect(one.url) as connection:
            connection.execute("DROP TABLE people")
        assert count(other) == 100
        assert one.port != other.port


def test_what_is_asked_for_is_had(place: Place) -> None:
    settings: Dict[str, Union[str, int, bool]] = {"work_mem": "9MB", "max_connections": 7, "jit": False}
    with place.od.pg_snapshot("production", name="mine", ttl=timedelta(hours=2), settings=settings) as db:
        assert place.od.databases.get("mine").id == db.id
        assert timedelta(hours=1, minutes=59) < db.expires - datetime.now(timezone.utc) <= timedelta(hours=2)
        with psycopg.connect(db.url) as connection:
            for name, value in {"work_mem": "9MB", "max_connections": "7", "jit": "off"}.items():
                assert connection.execute("SELECT current_setting(%s)", (name,)).fetchone() == (value,)
        db.extend("3h")
        assert db.expires - datetime.now(timezone.utc) > timedelta(hours=2, minutes=59)
        with pytest.raises(ondemand.AlreadyExists):
            place.od.pg_snapshot(name="mine")
        assert any("ready to accept connections" in line for line in db.logs())
        assert len(list(db.logs(tail=1))) == 1


def test_a_kept_database_outlives_its_block(place: Place) -> None:
    with place.od.pg_snapshot("production") as db:
        db.keep("10m")
    assert count(db) == 100
    assert not db.leased
    place.od.databases.delete(db.id)


def test_a_forgotten_database_is_warned_of(place: Place) -> None:
    db = place.od.pg_snapshot("production")
    name = db.name
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        del db
        gc.collect()
    assert [warning.category for warning in caught] == [ResourceWarning]
    assert name in str(caught[0].message)
    place.od.databases.delete(name)


def test_threads_share_a_client(place: Place) -> None:
    # Slow: sixteen databases are made and removed.
    def one(_: int) -> int:
        with place.od.pg_snapshot("production") as db:
            return count(db)

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(one, range(16))) == [100] * 16


def test_other_threads_run_meanwhile(place: Place) -> None:
    done = threading.Event()

    def create() -> None:
        place.od.pg_snapshot("production").close()
        done.set()

    thread = threading.Thread(target=create)
    thread.start()
    longest, turns, last = 0.0, 0, time.perf_counter()
    while not done.is_set():
        now = time.perf_counter()
        longest, turns, last = max(longest, now - last), turns + 1, now
        time.sleep(0)
    thread.join()
    # A create takes some fifty milliseconds at least; held for all of it, the lock would let this thread run once or twice.
    assert turns > 20


def test_datasets_come_and_go(place: Place, tmp_path: Path) -> None:
    dump = tmp_path / "more.sql"
    dump.write_text("CREATE TABLE more(n int)")
    snapshot = place.od.datasets.import_("more", dump, dbname="shop")
    assert (snapshot.dataset, snapshot.dbname) == ("more", "shop")
    assert snapshot.dump_bytes == len("CREATE TABLE more(n int)")
    assert {dataset.name for dataset in place.od.datasets.list()} >= {"more", "production"}
    assert place.od.datasets.get("more").versions == [snapshot]
    with place.od.pg_snapshot(snapshot.name) as db:
        assert db.dbname == "shop"
        with pytest.raises(ondemand.Conflict) as refused:
            place.od.datasets.delete("more")
        assert refused.value.hint
    place.od.datasets.delete("more")
    with pytest.raises(ondemand.NotFound):
        place.od.datasets.get("more")
    dump.write_text("CREATE TABLE broken(")
    with pytest.raises(ondemand.InvalidDump) as broken:
        place.od.datasets.import_("more", dump)
    assert "syntax error" in str(broken.value)
    with pytest.raises(ondemand.NotFound):
        place.od.datasets.import_("more", tmp_path / "nowhere.sql")


def test_environments_that_are_not_there(place: Place) -> None:
    with pytest.raises(ondemand.Unsupported) as refused:
        place.od.environments.list()
    assert "templates" in str(refused.value)
