"""The process that owns a data directory.

Slow: keepers are started, imported into, and ended or killed.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import tempfile
import threading
from pathlib import Path
from typing import Iterator, Set

import pytest
from conftest import Place, _remove, eventually, free_ports, new_home

import ondemand
from ondemand import _keeper, _native


@pytest.fixture
def own(dump: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    """A data directory that no keeper has been started on."""
    home = new_home()
    data_dir = home / "data"
    env = {"ONDEMAND_DATA_DIR": str(data_dir), "ONDEMAND_KEEPER_IDLE": "1", "ONDEMAND_URL": ""}
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    first = free_ports(100)
    config = {"store": "copy", "databases": {"first-port": first, "last-port": first + 99}}
    od = ondemand.embedded(data_dir, config=config)
    yield Place("embedded", data_dir, env, od)
    od.close()
    eventually(lambda: not (data_dir / "keeper.json").exists(), "the keeper does not end")
    eventually(lambda: _remove(home), "the data directory cannot be removed")


@pytest.mark.parametrize("killed", [False, True])
def test_of_many_that_come_at_once_one_starts_it(own: Place, killed: bool) -> None:
    script = """
import sys, ondemand
print("here", flush=True)
sys.stdin.read(1)
print(ondemand.embedded(config={"store": "copy"}).datasets.list(), flush=True)
sys.stdin.read()
"""
    programs = [own.run(script) for _ in range(8)]
    for program in programs:
        assert program.stdout is not None
        assert program.stdout.readline() == "here\n"
    if killed:
        own.od.datasets.list()
        os.kill(own.keeper(), signal.SIGKILL)
    for program in programs:
        assert program.stdin is not None
        program.stdin.write("x")
        program.stdin.flush()
    for program in programs:
        assert program.stdout is not None
        if program.stdout.readline() != "[]\n":
            pytest.fail(program.communicate()[1])
    keepers = [
        pid
        for pid in filter(str.isdigit, os.listdir("/proc"))
        if b"ondemand._keep" in _command(pid) and own.data_dir / _keeper.ALIVE in _files(pid)
    ]
    assert keepers == [str(own.keeper())]
    for program in programs:
        program.communicate()


def _command(pid: str) -> bytes:
    try:
        return Path("/proc", pid, "cmdline").read_bytes()
    except OSError:
        return b""


def _files(pid: str) -> Set[Path]:
    """The files that a process has open."""
    found = set()
    try:
        for link in Path("/proc", pid, "fd").iterdir():
            found.add(Path(os.readlink(link)))
    except OSError:
        pass
    return found


def test_it_ends_when_nobody_needs_it(own: Place, dump: Path) -> None:
    own.od.datasets.import_("production", dump)
    pid = own.keeper()
    with own.od.pg_snapshot():
        pass
    own.od.close()
    eventually(lambda: not Path("/proc", str(pid)).exists(), "it does not end")
    assert not (own.data_dir / "keeper.json").exists()
    # And the next program has what there was.
    with own.od.pg_snapshot("production") as db:
        assert own.keeper() != pid
        assert db.status == "Running"


def test_one_that_was_killed_is_followed_by_another(own: Place, dump: Path) -> None:
    own.od.datasets.import_("production", dump)
    before = own.od.pg_snapshot()
    lost = own.run("import ondemand, time; db = ondemand.pg_snapshot(); print(db.port, flush=True); time.sleep(60)")
    assert lost.stdout is not None
    lost.stdout.readline()
    os.kill(own.keeper(), signal.SIGKILL)
    lost.kill()
    lost.communicate()
    with own.od.pg_snapshot() as after:
        assert after.port != before.port
        # Whoever lives has kept what he had, and what belonged to the dead goes.
        eventually(lambda: len(own.od.databases.list()) == 2, "the database of a dead program stays")
        assert {before.id, after.id} == {db.id for db in own.od.databases.list()}
    before.reset()
    before.close()
    eventually(own.is_clean, "something is left")


def test_what_one_that_was_killed_had_said_is_not_taken_for_the_next_ones(own: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    own.data_dir.mkdir()
    said = {"url": "http://127.0.0.1:1", "token": "old", "pid": 1, "version": _native.VERSION}
    (own.data_dir / _keeper.INFO).write_text(json.dumps(said))
    begin, seen = _keeper._start, []

    def start(options: _keeper.Options) -> None:
        # The next one has the lock, and has not said yet where it is.
        with _keeper._locked(own.data_dir / _keeper.ALIVE):
            seen.append(_keeper._running(own.data_dir))
        begin(options)

    monkeypatch.setattr(_keeper, "_start", start)
    assert own.od.datasets.list() == []
    assert seen == [None]


def test_who_looks_whether_one_is_alive_does_not_keep_the_next_from_starting(own: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    begin, alive = _keeper._start, own.data_dir / _keeper.ALIVE

    def start(options: _keeper.Options) -> None:
        starting = threading.Thread(target=begin, args=[options])
        with open(alive, "a") as file:
            fcntl.flock(file, fcntl.LOCK_SH)
            starting.start()
            eventually(lambda: alive in _files_of_others(), "no keeper begins")
        starting.join()

    monkeypatch.setattr(_keeper, "_start", start)
    assert own.od.datasets.list() == []


def _files_of_others() -> Set[Path]:
    return {file for pid in filter(str.isdigit, os.listdir("/proc")) if pid != str(os.getpid()) for file in _files(pid)}


def test_modules_of_its_users_do_not_stand_in_for_pythons(own: Place, tmp_path: Path) -> None:
    for name in ("json", "secrets", "fcntl", "typing"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the wrong module')")
    # As a runner of tests puts their directories in front.
    script = """
import sys, ondemand
sys.path.insert(0, sys.argv[1])
print(ondemand.embedded(config={"store": "copy"}).datasets.list())
"""
    program = own.run(script, str(tmp_path))
    out, err = program.communicate(timeout=60)
    assert out == "[]\n", err


def test_it_is_the_package_of_whoever_starts_it(own: Place, tmp_path: Path) -> None:
    copy = tmp_path / "ondemand"
    shutil.copytree(Path(ondemand.__file__).parent, copy)
    shutil.copytree(Path(ondemand.__file__).parents[1] / "ondemand.libs", tmp_path / "ondemand.libs")
    script = """
import sys
sys.path.insert(0, sys.argv[1])
import ondemand
print(ondemand.embedded(config={"store": "copy"}).datasets.list(), flush=True)
sys.stdin.read()
"""
    program = own.run(script, str(tmp_path))
    assert program.stdout is not None
    assert program.stdout.readline() == "[]\n"
    assert str(copy) in Path("/proc", str(own.keeper()), "maps").read_text()
    program.communicate()


def test_its_secrets_are_its_users_alone(own: Place) -> None:
    own.od.datasets.list()
    info = own.data_dir / "keeper.json"
    assert info.stat().st_mode & 0o777 == 0o600
    token = json.loads(info.read_text())["token"]
    pid = str(own.keeper())
    assert token.encode() not in _command(pid) + Path("/proc", pid, "environ").read_bytes()
    assert token not in (own.data_dir / "keeper.log").read_text()


def test_a_data_directory_that_a_server_has_open(server_place: Place) -> None:
    with pytest.raises(ondemand.Conflict) as refused:
        ondemand.embedded(server_place.data_dir).datasets.list()
    assert str(server_place.data_dir) in str(refused.value)


def test_another_version_of_the_package(own: Place) -> None:
    own.od.datasets.list()
    path = own.data_dir / "keeper.json"
    info = json.loads(path.read_text())
    path.write_text(json.dumps({**info, "version": "0.0.1"}))
    with pytest.raises(ondemand.Conflict) as refused:
        ondemand.embedded(own.data_dir).datasets.list()
    assert "0.0.1" in str(refused.value) and str(info["pid"]) in str(refused.value.hint)


def test_what_is_configured_wrongly(own: Place) -> None:
    with pytest.raises(ondemand.InvalidInput) as refused:
        ondemand.embedded(own.data_dir, config={"sotre": "copy"}).datasets.list()
    assert "sotre" in str(refused.value)


def test_a_directory_that_cannot_be_made() -> None:
    with tempfile.NamedTemporaryFile() as file, pytest.raises(ondemand.Backend) as refused:
        ondemand.embedded(Path(file.name, "data")).datasets.list()
    assert "ONDEMAND_DATA_DIR" in str(refused.value.hint)
