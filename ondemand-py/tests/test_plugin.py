"""The fixtures, in test suites of their own.

Slow: a test runs pytest once or more, with workers and servers of its own.
"""

from __future__ import annotations

import re
from typing import Iterator

import psycopg
import pytest
from conftest import Place, eventually


@pytest.fixture(autouse=True)
def configured(place: Place, monkeypatch: pytest.MonkeyPatch, pytester: pytest.Pytester) -> Iterator[None]:
    for name, value in place.env.items():
        monkeypatch.setenv(name, value)
    pytester.makeini("[pytest]\nondemand_dataset = production\n")
    # A suite's own process, whose end is the end of its databases.
    monkeypatch.setattr(pytester, "_method", "subprocess")
    yield
    eventually(place.is_clean, "something is left", seconds=5)


HEAD = """
import psycopg, pytest

def count(db):
    with psycopg.connect(db.url) as connection:
        return connection.execute("SELECT count(*) FROM people").fetchone()[0]

def empty(db):
    with psycopg.connect(db.url) as connection:
        connection.execute("DELETE FROM people")
"""


def test_each_scope_has_databases_of_its_own(pytester: pytest.Pytester) -> None:
    for name in ("test_a", "test_b"):
        pytester.makepyfile(
            **{
                name: HEAD
                + """
def test_one(pg_snapshot, pg_snapshot_module, pg_snapshot_session):
    assert len({pg_snapshot.id, pg_snapshot_module.id, pg_snapshot_session.id}) == 3
    assert count(pg_snapshot) == count(pg_snapshot_module) == 100
    empty(pg_snapshot), empty(pg_snapshot_module)

def test_two(pg_snapshot, pg_snapshot_module, pg_snapshot_session):
    assert (count(pg_snapshot), count(pg_snapshot_module)) == (100, 0)
    with psycopg.connect(pg_snapshot_session.url) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS seen()")
"""
            }
        )
    pytester.runpytest().assert_outcomes(passed=4)


def test_marks_choose(pytester: pytest.Pytester, place: Place) -> None:
    pytester.makepyfile(
        HEAD
        + """
pytestmark = pytest.mark.ondemand(settings={"work_mem": "9MB"})

def shown(db, name):
    with psycopg.connect(db.url) as connection:
        return connection.execute(f"SHOW {name}").fetchone()[0]

def test_a_module(pg_snapshot, pg_snapshot_module):
    assert shown(pg_snapshot, "work_mem") == shown(pg_snapshot_module, "work_mem") == "9MB"

@pytest.mark.ondemand(durable=True)
def test_one(pg_snapshot):
    assert (shown(pg_snapshot, "work_mem"), shown(pg_snapshot, "fsync")) == ("9MB", "on")

@pytest.mark.ondemand(dataset="prodution")
def test_a_dataset_that_is_not_there(pg_snapshot):
    pass

@pytest.mark.ondemand(datset="production")
def test_a_slip(pg_snapshot):
    pass
"""
    )
    result = pytester.runpytest()
    result.assert_outcomes(passed=2, errors=2)
    result.stdout.fnmatch_lines(["*prodution*does not exist*", "*hint: *", "*takes dataset, ttl, durable, settings by name*"])


def test_a_conftest_builds_a_dataset(pytester: pytest.Pytester, place: Place) -> None:
    pytester.makeconftest(
        """
import ondemand, pytest

@pytest.fixture(scope="session")
def ondemand_dataset(ondemand_client, tmp_path_factory):
    file = tmp_path_factory.mktemp("sql") / "schema.sql"
    file.write_text("CREATE TABLE people AS SELECT 1 AS n")
    return ondemand.dataset_from(file, od=ondemand_client)
"""
    )
    pytester.makepyfile(HEAD + "def test_it(pg_snapshot): assert count(pg_snapshot) == 1")
    pytester.runpytest().assert_outcomes(passed=1)
    for dataset in place.od.datasets.list():
        if dataset.name != "production":
            place.od.datasets.delete(dataset.name)


@pytest.mark.parametrize("workers", [(), ("-n", "8")])
def test_databases_of_failed_tests_are_kept(pytester: pytest.Pytester, place: Place, workers: tuple[str, ...]) -> None:
    pytester.makepyfile(
        HEAD
        + """
def test_fails(pg_snapshot):
    empty(pg_snapshot)
    assert False

def test_passes(pg_snapshot):
    pass

def test_fails_with_the_modules(pg_snapshot_module):
    empty(pg_snapshot_module)
    assert False
"""
    )
    pytester.runpytest(*workers).assert_outcomes(passed=1, failed=2)
    eventually(place.is_clean, "what nobody asked to keep is kept", seconds=5)

    result = pytester.runpytest("--ondemand-keep-failed", *workers)
    result.assert_outcomes(passed=1, failed=2)
    kept = re.findall(r"^\S*(test_\S+): (postgresql://\S+)$", result.stdout.str(), re.MULTILINE)
    assert len(kept) == 2, result.stdout.str()
    for _, url in kept:
        with psycopg.connect(url) as connection:
            assert connection.execute("SELECT count(*) FROM people").fetchone() == (0,)
    for database in place.od.databases.list():
        assert not database.leased
        place.od.databases.delete(database.id)


def test_many_workers_share_one_owner(pytester: pytest.Pytester, place: Place) -> None:
    pytester.makepyfile(
        HEAD
        + """
import os, time

@pytest.mark.parametrize("number", range(40))
def test_it(pg_snapshot, number):
    assert count(pg_snapshot) == 100
    empty(pg_snapshot)
    print("PORT", pg_snapshot.port, os.environ["PYTEST_XDIST_WORKER"])
"""
    )
    result = pytester.runpytest("-n", "8", "-rP")
    result.assert_outcomes(passed=40)
    ran = re.findall(r"^PORT \d+ (gw\d)$", result.stdout.str(), re.MULTILINE)
    assert len(ran) == 40 and len(set(ran)) == 8


def test_a_suite_that_is_killed_leaves_nothing(pytester: pytest.Pytester, place: Place) -> None:
    pytester.makepyfile("import os, signal\ndef test_it(pg_snapshot): os.kill(os.getpid(), signal.SIGKILL)")
    assert pytester.runpytest().ret == -9


def test_the_server_may_be_named_in_the_configuration(pytester: pytest.Pytester, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    if place.mode == "server":
        key, value = "ondemand_url", place.env["ONDEMAND_URL"]
        monkeypatch.delenv("ONDEMAND_URL")
    else:
        key, value = "ondemand_data_dir", str(place.data_dir)
        monkeypatch.delenv("ONDEMAND_DATA_DIR")
    pytester.makepyprojecttoml(
        f'[tool.pytest.ini_options]\nondemand_dataset = "production"\n{key} = "{value}"\n'
    )
    (pytester.path / "tox.ini").unlink()
    pytester.makepyfile(HEAD + "def test_it(pg_snapshot): assert count(pg_snapshot) == 100")
    pytester.runpytest().assert_outcomes(passed=1)
