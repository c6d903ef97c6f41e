"""Datasets that are built by running migrations and fixtures, once for all who want the same."""

from __future__ import annotations

import hashlib
import inspect
import os
import re
from pathlib import Path
from typing import Any, Callable, Iterable, List, Match, Optional, Tuple, Union

from . import _choose, _effects, _errors, _operations
from ._connection import Connection
from ._effects import Operation
from ._models import Json
from ._sync import Database, Ondemand

Files = Union["os.PathLike[str]", str, Iterable["os.PathLike[str] | str"]]

_EMPTY = "ondemand-empty"
_LOOK = 0.1

_MARK_OF_UTF8 = b"\xef\xbb\xbf"
# Ends what a file may have left without a semicolon, and begins a session of its own for the next one.
_BETWEEN = b"\n;\n\\connect\n"
# How an error names a line of the whole.
_LINE = re.compile(r"\(line (?P<in_brackets>\d+)\)|\bin line (?P<in_words>\d+)|psql:<stdin>:(?P<of_psql>\d+):")


def dataset_from(
    source: Union[Callable[[Database], object], Files],
    *,
    key: Optional[str] = None,
    base: Optional[str] = None,
    od: Optional[Ondemand] = None,
) -> str:
    """Return the name of a dataset that `source` builds, and build it if it is not there yet.

    The name is made of what it is built from: the bytes of the files and the key. So it is built once, for every run and every worker after
    that; who comes while it is being built waits.

    Args:
        source: files of SQL, which are run one after the other in an empty database, each in a session of its own; or a function, which is
            called with a database and may do anything with it.
        key: what tells this version of the function from others, such as a hash of the migrations. For files it may say more than their bytes.
        base: for a function, the dataset it starts with, whose newest version is part of the key; by default an empty database.
        od: where to build it; by default where `pg_snapshot()` asks.

    Raises:
        InvalidDump: with Postgres's first error, its file and its line, if the SQL does not run, or leaves a transaction open.
        InvalidInput: for a function without a key.
        NotFound: if a file or the base does not exist.

    >>> shop = ondemand.dataset_from(sorted(Path("migrations").glob("*.sql")))
    >>> with ondemand.pg_snapshot(shop) as db:
    ...     ...
    """
    connection = od._connection if od is not None else _choose.default()

    def fill(json: Json) -> object:
        assert callable(source)
        returned = source(Database(connection, json, mine=False))
        if inspect.isawaitable(returned):
            if inspect.iscoroutine(returned):
                returned.close()
            raise _errors.InvalidInput(
                "the function is to be awaited, and has not built anything", hint="give it to ondemand.aio.dataset_from()"
            )
        return returned

    return connection.run(building(connection, source, key, base, fill))


def building(
    connection: Connection,
    source: Any,
    key: Optional[str],
    base: Optional[str],
    fill: Callable[[Json], object],
) -> Operation[str]:
    """Build a dataset from files, or by calling `fill`."""
    if not callable(source):
        if base is not None:
            raise _errors.InvalidInput("files of SQL start with an empty database", hint="give a function, or no base")
        return (yield from _from_files(connection, _read(source), key))
    if not key:
        raise _errors.InvalidInput(
            "nothing tells this function from others",
            hint="give a key that changes when what it builds changes, such as a hash of the migrations",
        )
    return (yield from _from_function(connection, fill, key, base))


def _read(files: Files) -> List[Tuple[str, bytes]]:
    """Return the names of the files and what is in them."""
    paths = [files] if isinstance(files, (str, os.PathLike)) else list(files)
    if not paths:
        raise _errors.InvalidInput("there are no files", hint="check the pattern")
    try:
        return [(os.fspath(path), Path(path).read_bytes()) for path in paths]
    except FileNotFoundError as error:
        raise _errors.NotFound(f"file {error.filename!r} does not exist", hint="check the path") from None


def _digest(*parts: bytes) -> str:
    # Each part with its length, so that no two lists of parts read the same.
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()[:16]


def _exists(connection: Connection, name: str) -> Operation[bool]:
    try:
        yield from _operations.dataset(connection, name)
    except _errors.NotFound:
        return False
    return True


def _from_files(connection: Connection, files: List[Tuple[str, bytes]], key: Optional[str]) -> Operation[str]:
    contents = [content for _, content in files]
    name = f"from-{_digest(b'sql', (key or '').encode(), *contents)}"
    sql = _BETWEEN.join(content[len(_MARK_OF_UTF8) :] if content.startswith(_MARK_OF_UTF8) else content for content in contents)
    try:
        yield from _once(connection, name, f"/datasets/{name}?new=true&derived=true", sql)
    except _errors.InvalidDump as error:
        raise _with_files(error, files) from None
    return name


def _with_files(error: _errors.InvalidDump, files: List[Tuple[str, bytes]]) -> _errors.InvalidDump:
    """Name the file and its line where an error names a line of all of them together."""

    def place(match: Match[str]) -> str:
        line = int(match[match.lastgroup or 0])
        path, content = files[0]
        for path, content in files:
            lines = content.count(b"\n") + _BETWEEN.count(b"\n")
            if line <= lines:
                break
            line -= lines
        # What ends what was left without a semicolon is none of its lines.
        line = max(1, min(line, len(content.splitlines())))
        texts = {"in_brackets": f"({path}, line {line})", "in_words": f"in line {line} of {path}", "of_psql": f"psql:{path}:{line}:"}
        return texts[match.lastgroup or ""]

    return _errors.InvalidDump(
        _LINE.sub(place, error.message),
        hint=error.hint,
        causes=error.causes,
        log=[_LINE.sub(place, line) for line in error.log],
    )


def _once(connection: Connection, name: str, path: str, sql: bytes) -> Operation[None]:
    """Import SQL as a dataset, unless it is there; if it is being imported, wait."""
    while not (yield from _exists(connection, name)):
        try:
            yield from connection.request("POST", path, raw=sql)
        except _errors.AlreadyExists:
            return
        except _errors.Conflict:
            yield _effects.Sleep(_LOOK)


def _from_function(
    connection: Connection, fill: Callable[[Json], object], key: str, base: Optional[str]
) -> Operation[str]:
    if base is not None:
        # Of the data that it starts with, not of their name: a newer version makes another dataset.
        base = (yield from _operations.dataset(connection, base)).versions[-1].name
    digest = _digest(b"function", key.encode(), (base or "").encode())
    name, lock = f"from-{digest}", f"build-{digest}"
    if base is None:
        base = _EMPTY
        yield from _once(connection, base, f"/datasets/{base}?empty=true&new=true&derived=true", b"")
    while not (yield from _exists(connection, name)):
        try:
            # Its name is the lock. Should this process die, it goes with its lease, and the next one builds.
            database = yield from _operations.create(connection, base, None, lock, False, None, True)
        except _errors.AlreadyExists:
            yield _effects.Sleep(_LOOK)
            continue
        try:
            # Whoever had the name before may have published just before this process got it.
            if not (yield from _exists(connection, name)):
                yield _effects.Call(lambda: fill(database))
                yield from _operations.publish(connection, database["Id"], name, derived=True)
        finally:
            yield from _operations.close(connection, database["Id"])
    return name
