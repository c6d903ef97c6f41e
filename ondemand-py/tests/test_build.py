"""Datasets that are built once.

Slow: a test builds datasets, each with a cluster that is started and shut down.
"""

from __future__ import annotations

import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Iterator, List

import psycopg
import pytest
from conftest import Place, eventually

import ondemand


@pytest.fixture(autouse=True)
def nothing_stays(place: Place) -> Iterator[None]:
    yield
    for dataset in place.od.datasets.list():
        if dataset.name != "production":
            place.od.datasets.delete(dataset.name)


def migrations(directory: Path) -> List[Path]:
    directory.mkdir(exist_ok=True)
    (directory / "1.sql").write_text("CREATE TABLE people(name text)")
    (directory / "2.sql").write_text("; INSERT INTO people VALUES ('Ada'), ('Grace');\n-- the end")
    return sorted(directory.glob("*.sql"))


def rows(place: Place, dataset: str) -> int:
    with place.od.pg_snapshot(dataset) as db, psycopg.connect(db.url) as connection:
        row = connection.execute("SELECT count(*) FROM people").fetchone()
    assert row is not None
    return int(row[0])


def test_files_are_run_once(place: Place, tmp_path: Path) -> None:
    files = migrations(tmp_path / "a")
    name = ondemand.dataset_from(files, od=place.od)
    assert rows(place, name) == 2
    versions = place.od.datasets.get(name).versions
    # The same bytes elsewhere are the same, and one byte more is not.
    assert ondemand.dataset_from(migrations(tmp_path / "b"), od=place.od) == name
    assert place.od.datasets.get(name).versions == versions
    assert ondemand.dataset_from(files, key="2", od=place.od) != name
    files[1].write_text(files[1].read_text() + "\nINSERT INTO people VALUES ('Barbara');")
    other = ondemand.dataset_from(files, od=place.od)
    assert other != name and rows(place, other) == 3
    # What is in one file or the other is not the same.
    one, two = tmp_path / "one.sql", tmp_path / "two.sql"
    one.write_text("SELECT 1; ")
    two.write_text("SELECT 2; ")
    first = ondemand.dataset_from([one, two], od=place.od)
    one.write_text("SELECT 1; SELECT 2; ")
    two.write_text("")
    assert ondemand.dataset_from([one, two], od=place.od) != first


def test_sql_that_does_not_run(place: Place, tmp_path: Path) -> None:
    file = tmp_path / "broken.sql"
    file.write_text("CREATE TABLE people(name text);\nCREATE TABEL x();")
    with pytest.raises(ondemand.InvalidDump) as broken:
        ondemand.dataset_from(file, od=place.od)
    assert "TABEL" in str(broken.value)
    assert [dataset.name for dataset in place.od.datasets.list()] == ["production"]
    with pytest.raises(ondemand.NotFound):
        ondemand.dataset_from(tmp_path / "nowhere.sql", od=place.od)
    with pytest.raises(ondemand.InvalidInput):
        ondemand.dataset_from(tmp_path.glob("*.nothing"), od=place.od)


def test_each_file_is_run_by_itself(place: Place, tmp_path: Path) -> None:
    first, second, third = (tmp_path / name for name in ("1-first.sql", "2-second.sql", "3-third.sql"))
    # Without a semicolon, and a mark of UTF-8 in front of the next; what one sets is not set in the other.
    first.write_text("SET search_path = nowhere;\nCREATE TABLE public.people(name text) -- the end")
    second.write_bytes(b"\xef\xbb\xbfINSERT INTO people VALUES ('Ada')")
    assert rows(place, ondemand.dataset_from([first, second], od=place.od)) == 1
    third.write_text("SELECT 1;\n\nINSERT INTO poeple VALUES ('Grace');\n")
    with pytest.raises(ondemand.InvalidDump) as broken:
        ondemand.dataset_from([first, second, third], od=place.od)
    assert f"({third}, line 3)" in broken.value.message
    assert any(f"psql:{third}:3:" in line for line in broken.value.log)
    second.write_text("SELECT 1;\nBEGIN;\nINSERT INTO people VALUES ('Ada');\n")
    third.write_text("COMMIT;\n")
    with pytest.raises(ondemand.InvalidDump, match=f"in line 2 of {second}"):
        ondemand.dataset_from([first, second, third], od=place.od)


def test_a_function_is_called_once(place: Place) -> None:
    calls = []

    def build(db: ondemand.Database) -> None:
        calls.append(db.dataset)
        with psycopg.connect(db.url) as connection:
            connection.execute("CREATE TABLE people AS SELECT n FROM generate_series(1, 5) n")

    name = ondemand.dataset_from(build, key="five", od=place.od)
    assert ondemand.dataset_from(build, key="five", od=place.od) == name
    assert calls == ["ondemand-empty"]
    assert rows(place, name) == 5
    assert ondemand.dataset_from(lambda db: None, key="six", od=place.od) != name
    with pytest.raises(ondemand.InvalidInput) as refused:
        ondemand.dataset_from(build, od=place.od)
    assert "key" in str(refused.value.hint)


def test_a_function_that_was_to_be_awaited(place: Place) -> None:
    async def build(db: ondemand.Database) -> None:
        raise AssertionError("nobody awaits it")

    with pytest.raises(ondemand.InvalidInput) as refused:
        ondemand.dataset_from(build, key="awaited", od=place.od)
    assert "aio" in str(refused.value.hint)
    # Nothing was taken for what it builds.
    assert {dataset.name for dataset in place.od.datasets.list()} <= {"production", "ondemand-empty"}


def test_a_function_goes_on_from_another_dataset(place: Place) -> None:
    def migrate(db: ondemand.Database) -> None:
        with psycopg.connect(db.url) as connection:
            connection.execute("INSERT INTO people VALUES ('one more')")

    assert rows(place, ondemand.dataset_from(migrate, key="1", base="production", od=place.od)) == 101
    with pytest.raises(ondemand.NotFound):
        ondemand.dataset_from(migrate, key="1", base="prodution", od=place.od)


def test_a_newer_version_of_what_it_starts_with_makes_another_dataset(place: Place, dump: Path) -> None:
    calls: List[ondemand.Database] = []
    place.od.datasets.import_("daily", dump)
    first = ondemand.dataset_from(calls.append, key="1", base="daily", od=place.od)
    place.od.datasets.import_("daily", dump)
    second = ondemand.dataset_from(calls.append, key="1", base="daily", od=place.od)
    assert first != second
    assert ondemand.dataset_from(calls.append, key="1", base="daily", od=place.od) == second
    # A version can be named, too.
    oldest = place.od.datasets.get("daily").versions[0].name
    assert ondemand.dataset_from(calls.append, key="1", base=oldest, od=place.od) == first
    assert len(calls) == 2


def test_what_was_built_is_never_what_no_name_means(place: Place, tmp_path: Path) -> None:
    ondemand.dataset_from(migrations(tmp_path), od=place.od)
    ondemand.dataset_from(lambda db: None, key="nothing", od=place.od)
    with place.od.pg_snapshot() as db:
        assert db.dataset == "production"
    derived = {dataset.name: dataset.versions[-1].derived for dataset in place.od.datasets.list()}
    assert derived.pop("production") is False
    assert len(derived) == 3 and all(derived.values())


def test_a_function_that_raises_leaves_nothing(place: Place) -> None:
    def fail(db: ondemand.Database) -> None:
        raise KeyError("mine")

    with pytest.raises(KeyError):
        ondemand.dataset_from(fail, key="fails", od=place.od)
    assert place.is_clean()
    assert ondemand.dataset_from(lambda db: None, key="fails", od=place.od).startswith("from-")


def test_of_many_who_want_it_at_once_one_builds(place: Place, tmp_path: Path) -> None:
    calls = []
    together = threading.Barrier(6)

    def build(db: ondemand.Database) -> None:
        calls.append(db.id)

    def want(_: int) -> str:
        together.wait()
        return ondemand.dataset_from(build, key="once", od=place.od)

    with ThreadPoolExecutor(6) as pool:
        assert len(set(pool.map(want, range(6)))) == 1
    assert len(calls) == 1

    files = migrations(tmp_path)

    def want_files(_: int) -> str:
        together.wait()
        return ondemand.dataset_from(files, od=place.od)

    with ThreadPoolExecutor(6) as pool:
        (name,) = set(pool.map(want_files, range(6)))
    assert len(place.od.datasets.get(name).versions) == 1


def test_whoever_waits_goes_on_when_the_builder_dies(place: Place) -> None:
    builder = place.run(
        """
import ondemand, time
def build(db):
    print("building", flush=True)
    time.sleep(60)
ondemand.dataset_from(build, key="shared")
"""
    )
    assert builder.stdout is not None
    assert builder.stdout.readline() == "building\n"
    waiting = ThreadPoolExecutor(1).submit(ondemand.dataset_from, lambda db: None, key="shared", od=place.od)
    # It is seen to wait: the other's database is there, and no other.
    eventually(lambda: len(place.od.databases.list()) == 1, "nobody builds")
    assert not waiting.done()
    builder.send_signal(signal.SIGKILL)
    builder.communicate()
    assert waiting.result(timeout=60).startswith("from-")
