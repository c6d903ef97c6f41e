"""A place for each mode: a keeper's data directory, and a server of this test run's own."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable, Dict, Iterator, List, Set, Tuple, Union

import pytest

import ondemand

pytest_plugins = ["pytester"]

# Programs of Postgres whose `initdb` copies a cluster, from tests/setup/postgres.sh. Making one is most of the work of a small dataset.
PROGRAMS = os.environ.get("ONDEMAND_TEST_POSTGRES", "")

SQL = "CREATE TABLE people(name text); INSERT INTO people SELECT 'person ' || n FROM generate_series(1, 100) n;"


def eventually(condition: Callable[[], bool], what: Union[str, Callable[[], str]], seconds: float = 60.0) -> None:
    """Wait for what nothing tells of; `what` says what is wrong, and may look for it when it is."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what if isinstance(what, str) else what()
        time.sleep(0.02)


@dataclass
class Place:
    """Where databases are asked for, and what is there."""

    mode: str
    data_dir: Path
    env: Dict[str, str]
    od: ondemand.Ondemand
    started: "List[subprocess.Popen[str]]" = field(default_factory=list)

    def postgres(self) -> Set[int]:
        """The processes of Postgres that work in the data directory."""
        found = set()
        for directory in Path("/proc").iterdir():
            if directory.name.isdigit():
                try:
                    words = (directory / "cmdline").read_bytes().split(b"\0")
                except OSError:
                    continue
                if words[0].endswith(b"/postgres") and any(os.fsencode(self.data_dir) in word for word in words):
                    found.add(int(directory.name))
        return found

    def volumes(self) -> List[str]:
        """The volumes that are there."""
        return sorted(path.name for path in (self.data_dir / "store" / "volumes").iterdir() if path.is_dir())

    def is_clean(self) -> bool:
        """Whether nothing is left of any database."""
        return not self.postgres() and not self.volumes()

    def run(self, script: str, *arguments: str) -> "subprocess.Popen[str]":
        """Start a program that uses this place. Ctrl-C reaches it even where whoever runs the tests ignores it, as a job in the background does."""
        program = subprocess.Popen(
            ["env", "--default-signal=INT", sys.executable, "-c", script, *arguments],
            env={**os.environ, **self.env},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.started.append(program)
        return program

    def end_programs(self) -> None:
        """End what a test that failed left running: nobody waits for it any more, and it would keep its databases."""
        for program in self.started:
            if program.poll() is None:
                program.kill()
                program.wait()
        self.started.clear()

    def keeper(self) -> int:
        """The process of the keeper."""
        import json

        return int(json.loads((self.data_dir / "keeper.json").read_text())["pid"])


def new_home() -> Path:
    home = Path(tempfile.mkdtemp(prefix="ondemand-py-", dir=os.environ.get("TMPDIR", "/var/tmp")))
    # Postgres and services run as other users, who have to pass through.
    home.chmod(0o711)
    return home


def is_open(port: int) -> bool:
    """Whether something listens on a port of this machine."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def free_ports(count: int) -> int:
    """The first of so many ports that nothing listens on. They are below those that the kernel gives to clients, and other workers look elsewhere."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]) % 8
    for first in range(21000 + 1000 * worker, 22000 + 1000 * worker, count):
        if not any(is_open(port) for port in range(first, first + count)):
            return first
    raise AssertionError("no ports are free")


@pytest.fixture(scope="session")
def dump() -> Iterator[Path]:
    home = new_home()
    path = home / "dump.sql"
    path.write_text(SQL)
    yield path
    shutil.rmtree(home)


@pytest.fixture(scope="session")
def keeper_place(dump: Path) -> Iterator[Place]:
    """A data directory for keepers, with a dataset."""
    home = new_home()
    data_dir = home / "data"
    env = {"ONDEMAND_DATA_DIR": str(data_dir), "ONDEMAND_KEEPER_IDLE": "1", "ONDEMAND_URL": ""}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in env.items():
            patch.setenv(name, value)
        first = free_ports(100)
        config = {
            "store": "copy",
            "databases": {"first-port": first, "last-port": first + 99},
            "postgres": {"bin-dir": PROGRAMS} if PROGRAMS else {},
        }
        od = ondemand.embedded(data_dir, config=config)
        od.datasets.import_("production", dump)
        yield Place("embedded", data_dir, env, od)
        od.close()
        eventually(lambda: not (data_dir / "keeper.json").exists(), "the keeper does not end")
    eventually(lambda: _remove(home), "the data directory cannot be removed")


def _remove(home: Path) -> bool:
    shutil.rmtree(home, ignore_errors=True)
    return not home.exists()


@contextmanager
def serving(*arguments: str) -> Iterator[Tuple[Path, str]]:
    """A server as an operator starts it, and its URL; it has 99 ports for databases, and the one before that of the URL is free."""
    program = os.environ["ONDEMAND_TEST_PROGRAM"]
    home = new_home()
    first = free_ports(101)
    url = f"http://127.0.0.1:{first + 100}"
    log = open(home / "log", "w")
    server = subprocess.Popen(
        [program, "serve", "--data-dir", str(home / "data"), "--store", "copy", "--listen", url[7:], *arguments],
        env={
            **{name: value for name, value in os.environ.items() if not name.startswith("ONDEMAND_")},
            "ONDEMAND_TOKEN": "a token",
            "ONDEMAND_PORTS": f"{first}-{first + 98}",
            "ONDEMAND_PROXY_LISTEN": f"127.0.0.1:{first + 99}",
            **({"ONDEMAND_POSTGRES_BIN_DIR": PROGRAMS} if PROGRAMS else {}),
        },
        stderr=log,
        stdout=log,
    )
    try:
        od = ondemand.connect(url, "a token")

        def answers() -> bool:
            assert server.poll() is None, (home / "log").read_text()
            try:
                od.datasets.list()
            except ondemand.Unreachable:
                return False
            return True

        eventually(answers, "the server does not answer")
        od.close()
        yield home / "data", url
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(20)
        log.close()
    shutil.rmtree(home)


@pytest.fixture(scope="session")
def server_place(dump: Path) -> Iterator[Place]:
    """A server with a dataset."""
    with serving("--no-proxy") as (data_dir, url):
        od = ondemand.connect(url, "a token")
        od.datasets.import_("production", dump)
        yield Place("server", data_dir, {"ONDEMAND_URL": url, "ONDEMAND_TOKEN": "a token"}, od)
        od.close()


@pytest.fixture(params=["embedded", "server"])
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    """Each mode in turn; afterwards nothing is left in it."""
    found: Place = request.getfixturevalue("keeper_place" if request.param == "embedded" else "server_place")
    yield found
    found.end_programs()
    eventually(found.is_clean, lambda: f"something is left: {found.postgres()}, {found.volumes()}")
