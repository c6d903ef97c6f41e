"""Fixtures for pytest: a private Postgres with a copy of real data for a test, a module or a session.

The plugin is found by itself once the package is installed. `pytest --fixtures -p ondemand` lists what it offers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Dict, Generator, Iterator, List, Optional, Set, Tuple

import pytest

from ._choose import default, embedded, server
from ._errors import Error
from ._sync import Database, Ondemand

if TYPE_CHECKING:
    from _pytest.terminal import TerminalReporter

_FUNCTION, _MODULE, _SESSION = "pg_snapshot", "pg_snapshot_module", "pg_snapshot_session"
_MARK = "ondemand"
_OPTIONS = ("dataset", "ttl", "durable", "settings")

# The databases that were kept, each with the test or the scope it was for.
_kept = pytest.StashKey[List[Tuple[str, str]]]()
# The nodes below which a test has failed that used a database of theirs.
_failed = pytest.StashKey[Set[Tuple[str, str]]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("ondemand", "databases on demand")
    group.addoption(
        "--ondemand-keep-failed",
        action="store_true",
        help="keep the databases of tests that fail, and print their URLs; they are deleted when their time has passed",
    )
    group.addoption("--ondemand-dataset", metavar="DATASET", help="what databases are cloned from")
    parser.addini("ondemand_dataset", "what databases are cloned from, unless a test is marked otherwise")
    parser.addini("ondemand_url", "the server to ask; by default ONDEMAND_URL, or else the embedded default")
    parser.addini("ondemand_data_dir", "the data directory of the embedded default; by default ONDEMAND_DATA_DIR")
    parser.addini("ondemand_keep", "how long a failed test's database is kept, such as 2h", default="2h")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        f"{_MARK}(dataset=None, ttl=None, durable=False, settings=None): what the databases of a test, a class or a module are",
    )
    config.stash[_kept] = []
    config.stash[_failed] = set()


@pytest.fixture(scope="session")
def ondemand_client(pytestconfig: pytest.Config) -> Iterator[Ondemand]:
    """The server, or the embedded default, that databases are asked for at. With pytest-xdist, all workers share one."""
    url, data_dir = pytestconfig.getini("ondemand_url"), pytestconfig.getini("ondemand_data_dir")
    if url:
        yield Ondemand(server(url, None))
    elif data_dir:
        yield Ondemand(embedded(pytestconfig.rootpath / data_dir, None))
    else:
        yield Ondemand(default())


@pytest.fixture(scope="session")
def ondemand_dataset(pytestconfig: pytest.Config) -> Optional[str]:
    """The dataset that databases are cloned from, unless a test is marked otherwise.

    Override it to build one:

        @pytest.fixture(scope="session")
        def ondemand_dataset(ondemand_client):
            return ondemand.dataset_from(sorted(Path("migrations").glob("*.sql")), od=ondemand_client)
    """
    return pytestconfig.getoption("--ondemand-dataset") or pytestconfig.getini("ondemand_dataset") or None


@pytest.fixture
def pg_snapshot(
    request: pytest.FixtureRequest, ondemand_client: Ondemand, ondemand_dataset: Optional[str]
) -> Iterator[Database]:
    """A database of this test's own, in the state of its snapshot."""
    yield from _database(request, ondemand_client, ondemand_dataset, _FUNCTION)


@pytest.fixture(scope="module")
def pg_snapshot_module(
    request: pytest.FixtureRequest, ondemand_client: Ondemand, ondemand_dataset: Optional[str]
) -> Iterator[Database]:
    """A database that the tests of this module share."""
    yield from _database(request, ondemand_client, ondemand_dataset, _MODULE)


@pytest.fixture(scope="session")
def pg_snapshot_session(
    request: pytest.FixtureRequest, ondemand_client: Ondemand, ondemand_dataset: Optional[str]
) -> Iterator[Database]:
    """A database that all tests share; with pytest-xdist, all tests of a worker."""
    yield from _database(request, ondemand_client, ondemand_dataset, _SESSION)


def _database(
    request: pytest.FixtureRequest, od: Ondemand, dataset: Optional[str], fixture: str
) -> Generator[Database, None, None]:
    node = request.node
    options: Dict[str, Any] = {"dataset": dataset}
    for mark in reversed(list(node.iter_markers(_MARK))):
        if mark.args or not set(mark.kwargs) <= set(_OPTIONS):
            pytest.fail(f"@pytest.mark.{_MARK} takes {', '.join(_OPTIONS)} by name, and nothing else", pytrace=False)
        options.update(mark.kwargs)
    try:
        database = od.pg_snapshot(**options)
    except Error as error:
        pytest.fail(f"no database for {node.nodeid or 'this session'}: {error}", pytrace=False)
    with database:
        yield database
        config = request.config
        if config.getoption("--ondemand-keep-failed") and (fixture, node.nodeid) in config.stash[_failed]:
            database.keep(config.getini("ondemand_keep"))
            config.stash[_kept].append((node.nodeid or "the session", database.url))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        used = getattr(item, "fixturenames", ())
        module = item.getparent(pytest.Module)
        scopes = {_FUNCTION: item.nodeid, _MODULE: module.nodeid if module else "", _SESSION: item.session.nodeid}
        item.config.stash[_failed].update((name, nodeid) for name, nodeid in scopes.items() if name in used)
    return report


def pytest_sessionfinish(session: pytest.Session) -> None:
    # A worker of pytest-xdist tells whom it works for.
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["ondemand_kept"] = session.config.stash[_kept]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    output = getattr(node, "workeroutput", None) or {}
    node.config.stash[_kept].extend(tuple(each) for each in output.get("ondemand_kept", ()))


def pytest_terminal_summary(terminalreporter: "TerminalReporter", config: pytest.Config) -> None:
    kept = config.stash[_kept]
    if kept:
        terminalreporter.section("databases of failed tests, kept")
        for test, url in kept:
            terminalreporter.line(f"{test}: {url}")
        terminalreporter.line(f"each is deleted after {config.getini('ondemand_keep')}")
