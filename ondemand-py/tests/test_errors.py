"""What goes wrong, and how it is told."""

from __future__ import annotations

import inspect
import socket
from pathlib import Path
from typing import Type

import pytest
from conftest import Place

import ondemand
from ondemand import _errors, _native


def classes() -> list[Type[ondemand.Error]]:
    found = [value for value in vars(ondemand).values() if inspect.isclass(value)]
    return [each for each in found if issubclass(each, ondemand.Error) and each is not ondemand.Error]


def test_each_code_has_a_class() -> None:
    by_code = {each.code: each for each in classes()}
    assert len(by_code) == len(classes())
    # A client can be unable to ask; no server says so.
    assert set(by_code) - set(_native.CODES) == {"unreachable"}
    for code in _native.CODES:
        made = _errors.from_problem(
            b'{"code":"%s","detail":"it","hint":"do","causes":["why"],"log":["line"]}' % code.encode()
        )
        assert type(made) is by_code[code]
        assert (made.code, made.hint, made.causes, made.log) == (code, "do", ["why"], ["line"])
        assert str(made) == "it: why\nhint: do\n  line"
        # The name is the code's, as Python writes names of classes.
        assert type(made).__name__ == code.title().replace("_", "")


def test_what_is_no_answer_of_ours_is_unreachable() -> None:
    for body in (b"<html>", b"[]", b"{}", b'"x"', b"\xff", b""):
        assert isinstance(_errors.from_problem(body, 502), ondemand.Unreachable), body
    newer = _errors.from_problem(b'{"code":"too_new","detail":"x"}')
    assert type(newer) is ondemand.Error


def test_pythons_own_classes_catch_them() -> None:
    for ours, pythons in (
        (ondemand.InvalidName, ValueError),
        (ondemand.NotReady, TimeoutError),
        (ondemand.Unreachable, ConnectionError),
        (ondemand.Unauthenticated, PermissionError),
    ):
        with pytest.raises(pythons) as caught:
            raise ours("it", hint="do")
        assert str(caught.value) == "it\nhint: do"


def test_nobody_at_that_address() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ondemand.Unreachable) as refused:
            ondemand.connect(url).pg_snapshot()
    assert "refused" in str(refused.value) and refused.value.hint


@pytest.mark.parametrize("url", ["pg.dev.internal", "http://", "mailto:me", "http://user:secret@:80"])
def test_what_is_no_url(url: str) -> None:
    with pytest.raises(ondemand.InvalidInput) as refused:
        ondemand.connect(url)
    assert refused.value.hint == "write it as http://HOST:PORT"


def test_nobody_was_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ONDEMAND_URL", raising=False)
    with pytest.raises(ondemand.InvalidInput) as refused:
        ondemand.connect()
    assert "ONDEMAND_URL" in str(refused.value)


def test_a_wrong_token(server_place: Place) -> None:
    with pytest.raises(ondemand.Unauthenticated) as refused:
        ondemand.connect(server_place.env["ONDEMAND_URL"], "a wrong one").pg_snapshot()
    assert refused.value.hint
    assert "a wrong one" not in str(refused.value)
    with pytest.raises(ondemand.InvalidInput) as refused_line:
        ondemand.connect(server_place.env["ONDEMAND_URL"], "two\nlines")
    assert "lines" not in str(refused_line.value)


def test_a_dump_that_cannot_be_read(place: Place, tmp_path: Path) -> None:
    dump = tmp_path / "dump.sql"
    with socket.socket(socket.AF_UNIX) as listener:
        # Not even root may open it.
        listener.bind(str(dump))
        with pytest.raises(ondemand.InvalidInput) as refused:
            place.od.datasets.import_("unreadable", dump)
    assert str(dump) in str(refused.value) and refused.value.causes and refused.value.hint
    # The server was not to blame, and is asked again.
    names = [dataset.name for dataset in place.od.datasets.list()]
    assert "production" in names and "unreadable" not in names


def test_what_a_signals_handler_raises_is_raised(place: Place) -> None:
    # As programs limit how long something may take.
    script = """
import signal, ondemand

def handler(*_):
    raise TimeoutError("it took too long")

signal.signal(signal.SIGALRM, handler)
ondemand.pg_snapshot("production").close()
try:
    while True:
        signal.setitimer(signal.ITIMER_REAL, 0.01)
        ondemand.pg_snapshot("production").close()
except TimeoutError as error:
    print(type(error).__name__, error)
"""
    out, err = place.run(script).communicate(timeout=60)
    assert out == "TimeoutError it took too long\n", err


def test_environments_are_asked_for_over_a_connection_that_is_made_when_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_TOKEN", "a token of a user's")
    monkeypatch.delenv("ONDEMAND_TOKEN", raising=False)
    before = len(list(Path("/proc/self/task").iterdir()))
    connected = [ondemand.connect("http://127.0.0.1:1") for _ in range(5)]
    # A thread each.
    assert len(list(Path("/proc/self/task").iterdir())) - before <= 5
    assert connected[0].environments is connected[0].environments


def test_what_does_not_exist(place: Place) -> None:
    with pytest.raises(ondemand.NotFound) as missing:
        place.od.pg_snapshot("prodution")
    assert "prodution" in str(missing.value)
    assert missing.value.hint == (
        "list those that exist with `od.datasets.list()`, or import one: `od.datasets.import_(NAME, FILE)`"
    )
    with pytest.raises(ondemand.InvalidName):
        place.od.pg_snapshot("no good")
    with pytest.raises(ondemand.InvalidInput):
        place.od.pg_snapshot("production", ttl="a while")
    with pytest.raises(ondemand.NotFound):
        place.od.databases.delete("../servers")
