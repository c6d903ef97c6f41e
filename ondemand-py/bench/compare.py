"""Measures `pg_snapshot()` by the Rust library's own create, and a test suite by the same suite on pytest-postgresql and testcontainers.

`compare.py --library PROGRAM [--rounds N] [--tests N] [--large MB]`, as root, with ONDEMAND_TEST_DOCKER_HOST and ONDEMAND_TEST_IMAGE set; `make bench
ONLY=python` does all of that. Everything is measured on the same data and machine, in turn.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Dict, List, Optional

import ondemand

# A query as small as queries of tests are. Each suite's tests do the same with another fixture.
BODY = """
@pytest.mark.parametrize("number", range({tests}))
def test_it({fixture}, number):
    with psycopg.connect({dsn}) as connection:
        assert connection.execute("SELECT count(*) FROM (SELECT FROM data LIMIT 100) few").fetchone() == (100,)
        connection.execute("UPDATE data SET text = 'mine' WHERE id = 7")
"""

SNAPSHOT = """
import psycopg, pytest
""" + BODY

TEMPLATE = """
from pathlib import Path
import psycopg, pytest
from pytest_postgresql import factories

proc = factories.postgresql_proc(executable="{bin_dir}/pg_ctl", user="postgres", postgres_options="-F", load=[Path("{dump}")])
database = factories.postgresql("proc")
""" + BODY

CONTAINER = """
import os, time
import psycopg, pytest
from testcontainers.core.container import DockerContainer

PREPARE = (
    "chown -R postgres /var/lib/postgresql && su postgres -c '"
    "{bin_dir}/initdb -D /var/lib/postgresql/data -A trust >/dev/null && "
    "echo host all all all trust >> /var/lib/postgresql/data/pg_hba.conf && "
    "{bin_dir}/pg_ctl -D /var/lib/postgresql/data -w -o \\"-F -c listen_addresses=\\" start >/dev/null && "
    "psql -q -f /dump.sql && {bin_dir}/pg_ctl -D /var/lib/postgresql/data -w stop >/dev/null && "
    "exec {bin_dir}/postgres -D /var/lib/postgresql/data -F -c listen_addresses=*'"
)

@pytest.fixture
def container():
    started = DockerContainer("{image}").with_command(["sh", "-c", PREPARE]).with_exposed_ports(5432)
    started.with_volume_mapping("{dump}", "/dump.sql", "ro")
    with started:
        address = "host=127.0.0.1 user=postgres dbname=postgres port=" + str(started.get_exposed_port(5432))
        while True:
            try:
                psycopg.connect(address).close()
                break
            except psycopg.OperationalError:
                time.sleep(0.01)
        yield address
""" + BODY


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--library", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--tests", type=int, default=200)
    parser.add_argument("--large", type=int, default=1000)
    arguments = parser.parse_args()
    home = Path(tempfile.mkdtemp(prefix="ondemand-bench-", dir=os.environ.get("TMPDIR", "/var/tmp")))
    home.chmod(0o755)
    os.environ["ONDEMAND_KEEPER_IDLE"] = "0.2"
    first = _free_ports()
    config = {"pool": {"size": "12G"}, "databases": {"first-port": first, "last-port": first + 99}}
    bench = Bench(home, ondemand.embedded(home / "data", config=config), first, arguments)
    try:
        bench.run()
    finally:
        bench.close()


def _free_ports() -> int:
    for first in range(22000, 32000, 100):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", first)) != 0:
                return first
    raise AssertionError("no ports are free")


class Bench:
    """A data directory on BTRFS with both datasets, and the suites."""

    def __init__(self, home: Path, od: ondemand.Ondemand, first: int, arguments: argparse.Namespace) -> None:
        self.home, self.od, self.first, self.arguments = home, od, first, arguments
        self.data_dir = home / "data"
        self.env = {**os.environ, "ONDEMAND_DATA_DIR": str(self.data_dir), "ONDEMAND_URL": ""}
        (self.bin_dir,) = sorted(Path("/usr/lib/postgresql").glob("*/bin"))[-1:]

    def run(self) -> None:
        for name, megabytes in (("small", 10), ("large", self.arguments.large)):
            dump = self.home / f"{name}.sql"
            # A row is about 148 bytes on disk, with its entry in the index.
            rows = megabytes * 7085
            dump.write_text(
                f"CREATE TABLE data AS SELECT n AS id, repeat('x', 90) AS text FROM generate_series(1, {rows}) n;\n"
                "ALTER TABLE data ADD PRIMARY KEY (id);\n"
            )
            dump.chmod(0o644)
            print(f"importing {megabytes} MB", file=sys.stderr, flush=True)
            self.od.datasets.import_(name, dump)
        self.overhead()
        self.suites("small", {"snapshot": self.arguments.tests, "template": self.arguments.tests, "container": 10})
        self.suites("large", {"snapshot": self.arguments.tests, "template": 10, "container": 2})

    def overhead(self) -> None:
        """The time inside `pg_snapshot()` to the library's own, and what a request costs by itself."""
        python: List[float] = []
        library: List[float] = []
        # A create takes a fifth more in some seconds than in others, so that turns have to be short.
        turn = max(1, self.arguments.rounds // 10)
        while len(python) < self.arguments.rounds:
            library += self.library(turn)
            python += self.python(turn)
        ratio = statistics.median(python) / statistics.median(library)
        show(
            f"pg_snapshot(), {self.arguments.large} MB, to the Rust library's create",
            f"{statistics.median(python):.1f} ms / {statistics.median(library):.1f} ms = {ratio:.2f} (limit 1.1)",
        )
        requests = []
        for _ in range(200):
            began = time.perf_counter()
            self.od.databases.list()
            requests.append((time.perf_counter() - began) * 1000)
        show("a whole call that asks for no database", f"{statistics.median(requests):.2f} ms (limit 1 ms)")

    def library(self, rounds: int) -> List[float]:
        self.end_keeper()
        said = subprocess.run(
            [self.arguments.library, self.data_dir, "large", str(self.first), str(rounds + 2)],
            stdout=subprocess.PIPE,
            check=True,
        )
        times: List[float] = json.loads(said.stdout)
        # The first ones find out where the password is put.
        return times[2:]

    def python(self, rounds: int) -> List[float]:
        times = []
        for _ in range(rounds + 2):
            began = time.perf_counter()
            with self.od.pg_snapshot("large"):
                times.append((time.perf_counter() - began) * 1000)
        return times[2:]

    def suites(self, dataset: str, tests: Dict[str, int]) -> None:
        """A suite with each way of having databases; the ones that take too long with fewer tests, and told for as many."""
        wanted = self.arguments.tests
        took: Dict[str, float] = {}
        for name, source in (("snapshot", SNAPSHOT), ("template", TEMPLATE), ("container", CONTAINER)):
            count = tests[name]
            seconds = self.suite(name, source, dataset, count)
            if count < wanted:
                # What is done once for all tests is seen by the difference.
                more = self.suite(name, source, dataset, 2 * count)
                seconds += (wanted - count) * (more - seconds) / count
            took[name] = seconds
            how = "" if count == wanted else f", from {count} and {2 * count}"
            print(f"{dataset} {name}: {seconds:.1f} s for {wanted} tests{how}", file=sys.stderr, flush=True)
        for name, peer in (("template", "pytest-postgresql"), ("container", "testcontainers")):
            ratio = took[name] / took["snapshot"]
            limit = "limit 20" if dataset == "large" else "limit 1"
            show(
                f"{wanted} tests on the {dataset} dataset, {peer} to ondemand",
                f"{took[name]:.0f} s / {took['snapshot']:.1f} s = {ratio:.1f} ({limit})",
            )

    def suite(self, name: str, source: str, dataset: str, tests: int) -> float:
        directory = self.home / f"suite-{name}"
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir()
        directory.chmod(0o755)
        values = {
            "tests": str(tests),
            "bin_dir": str(self.bin_dir),
            "dump": str(self.home / f"{dataset}.sql"),
            "image": os.environ.get("ONDEMAND_TEST_IMAGE", ""),
            "fixture": {"snapshot": "pg_snapshot", "template": "database", "container": "container"}[name],
            "dsn": {
                "snapshot": "pg_snapshot.url",
                "template": "database.info.dsn",
                "container": "container",
            }[name],
        }
        text = re.sub(r"\{(tests|bin_dir|dump|image|fixture|dsn)\}", lambda match: values[match[1]], source)
        (directory / "test_suite.py").write_text(text)
        user = self.ordinary_user() if name == "template" else None
        env = dict(self.env)
        if name == "container":
            env["DOCKER_HOST"] = os.environ["ONDEMAND_TEST_DOCKER_HOST"]
            env["TESTCONTAINERS_RYUK_DISABLED"] = "true"
        if user is not None:
            env["HOME"] = str(directory)
            shutil.chown(directory, user)
        plugins = ["-p", "no:cacheprovider", "-p", "no:randomly"]
        if name != "snapshot":
            plugins += ["-p", "no:ondemand"]
        began = time.perf_counter()
        ran = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", *plugins, f"--basetemp={directory}/tmp", f"--rootdir={directory}"]
            + ([f"--ondemand-dataset={dataset}"] if name == "snapshot" else [])
            + [str(directory)],
            cwd=directory,
            env=env,
            user=user,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        seconds = time.perf_counter() - began
        if ran.returncode != 0:
            sys.exit(f"the suite on {name} fails:\n{ran.stdout[-4000:]}")
        return seconds

    def ordinary_user(self) -> Optional[str]:
        """Whom pytest-postgresql runs as: Postgres does not run as root."""
        return "postgres" if os.geteuid() == 0 else None

    def end_keeper(self) -> None:
        self.od.close()
        deadline = time.monotonic() + 30
        while (self.data_dir / "keeper.json").exists():
            assert time.monotonic() < deadline, "the keeper does not end"
            time.sleep(0.02)

    def close(self) -> None:
        self.end_keeper()
        pool = self.data_dir / "pool"
        if pool.is_mount():
            subprocess.run(["umount", pool], check=True)
        shutil.rmtree(self.home)


def show(what: str, figure: str) -> None:
    print(f"{what:<68}{figure}", flush=True)


if __name__ == "__main__":
    main()
