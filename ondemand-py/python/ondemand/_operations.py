"""What can be asked of a server, whether it is waited for by blocking or by awaiting."""

from __future__ import annotations

import json
import os
from datetime import timedelta
from typing import Any, Dict, Iterable, List, Mapping, Optional, Tuple, Union
from urllib.parse import quote, urlencode

from . import _effects, _errors, _native
from ._connection import Connection, content
from ._effects import Operation
from ._models import Dataset, Environment, Json, Plan, Snapshot

Ttl = Union[int, str, timedelta]


def ttl(value: Ttl) -> Union[int, str]:
    """Write how long something lives as the server reads it."""
    return max(1, round(value.total_seconds())) if isinstance(value, timedelta) else value


def _path(*segments: str) -> str:
    return "".join("/" + quote(segment, safe="@") for segment in segments)


def _query(**values: Any) -> str:
    given = {key: value for key, value in values.items() if value is not None and value is not False and value != []}
    pairs = [(key, "true" if value is True else value) for key, value in given.items()]
    return "?" + urlencode(pairs, doseq=True) if pairs else ""


def create(
    connection: Connection,
    dataset: Optional[str],
    lifetime: Optional[Ttl],
    name: Optional[str],
    durable: bool,
    settings: Optional[Mapping[str, Union[str, int, float, bool]]],
    leased: bool,
) -> Operation[Json]:
    """Create a database."""
    body: Json = {"Durable": durable}
    if dataset is not None:
        body["Dataset"] = dataset
    if lifetime is not None:
        body["Ttl"] = ttl(lifetime)
    if name is not None:
        body["Name"] = name
    if settings:
        body["Settings"] = dict(settings)
    # It takes a moment, so whoever is interrupted has it made and deleted. To break off could come too late, and leave it.
    made = yield from connection.request("POST", "/servers", body, leased=leased, undo="/servers/{Id}", finish=True)
    return made  # type: ignore[no-any-return]


def get(connection: Connection, database: str) -> Operation[Json]:
    """Return a database with its password."""
    return (yield from connection.request("GET", _path("servers", database)))  # type: ignore[no-any-return]


def databases(connection: Connection) -> Operation[List[Json]]:
    """Return all databases, without passwords."""
    return (yield from connection.request("GET", "/servers"))  # type: ignore[no-any-return]


def delete(connection: Connection, database: str) -> Operation[None]:
    """Delete a database."""
    yield from connection.request("DELETE", _path("servers", database), finish=True)


def close(connection: Connection, database: str) -> Operation[None]:
    """Delete a database that may be gone already."""
    try:
        yield from delete(connection, database)
    except _errors.NotFound:
        pass


def reset(connection: Connection, database: str) -> Operation[Json]:
    """Take a database back to its snapshot."""
    return (yield from connection.request("POST", _path("servers", database, "reset")))  # type: ignore[no-any-return]


def extend(connection: Connection, database: str, lifetime: Ttl) -> Operation[Json]:
    """Make a database live so long from now."""
    body = {"Ttl": ttl(lifetime)}
    return (yield from connection.request("PATCH", _path("servers", database), body))  # type: ignore[no-any-return]


def keep(connection: Connection, database: str, lifetime: Optional[Ttl]) -> Operation[Json]:
    """Take a database off the lease of this process."""
    body: Json = {"Lease": None}
    if lifetime is not None:
        body["Ttl"] = ttl(lifetime)
    return (yield from connection.request("PATCH", _path("servers", database), body))  # type: ignore[no-any-return]


def publish(connection: Connection, database: str, dataset: str, derived: bool = False) -> Operation[Snapshot]:
    """Make a dataset's newest version of a database, which is gone then."""
    path = _path("servers", database, "publish")
    return Snapshot._read((yield from connection.request("POST", path, {"Dataset": dataset, "Derived": derived})))


def datasets(connection: Connection) -> Operation[List[Dataset]]:
    """Return all datasets."""
    return [Dataset._read(each) for each in (yield from connection.request("GET", "/datasets"))]


def dataset(connection: Connection, name: str) -> Operation[Dataset]:
    """Return a dataset, or one version of it."""
    return Dataset._read((yield from connection.request("GET", _path("datasets", name))))


def import_(
    connection: Connection,
    name: str,
    dump: Optional["os.PathLike[str] | str"],
    dbname: Optional[str],
    roles: Iterable[str],
    create_roles: bool,
    no_owner: bool,
    on_error: str,
    postgres: Optional[int],
) -> Operation[Snapshot]:
    """Restore a dump, or nothing, into a new version of a dataset."""
    file = None
    if dump is not None:
        file = os.fspath(dump)
        if os.path.isdir(file):
            raise _errors.Unsupported(
                f"{file} is a directory",
                hint="pack it with `tar -C DIRECTORY -c .`, or use `ondemand dataset import`",
            )
        if not os.path.exists(file):
            raise _errors.NotFound(f"file {file!r} does not exist", hint="check the path")
    query = _query(
        dbname=dbname,
        role=list(roles),
        create_roles=create_roles,
        no_owner=no_owner,
        on_error=None if on_error == "stop" else on_error,
        postgres=postgres,
        empty=file is None,
    )
    path = _path("datasets", name) + query
    return Snapshot._read((yield from connection.request("POST", path, file=file)))


def delete_dataset(connection: Connection, name: str) -> Operation[None]:
    """Delete a dataset, or one version of it."""
    yield from connection.request("DELETE", _path("datasets", name))


def open_logs(connection: Connection, database: str, tail: Optional[int], follow: bool) -> Operation[_native.Stream]:
    """Begin to read what a database wrote to its log."""
    path = _path("servers", database, "logs") + _query(tail=tail, follow=follow)
    return (yield from connection.open("GET", path))


def next_lines(connection: Connection, stream: _native.Stream, rest: bytes) -> Operation[Tuple[List[str], Optional[bytes]]]:
    """Return the lines that come next, and what was read of the one after them; None of that at the end."""
    chunk = yield from connection.read(stream)
    if chunk is None:
        return ([rest.decode(errors="replace")] if rest else []), None
    *lines, rest = (rest + chunk).split(b"\n")
    return [line.decode(errors="replace") for line in lines], rest


def _wanted(
    name: Optional[str],
    back: Optional[str],
    back_branch: Optional[str],
    front: Optional[str],
    front_branch: Optional[str],
    template: Optional[str],
    with_fixtures: bool,
    keep_days: Optional[int],
    github_token: Optional[str],
) -> Json:
    values: Dict[str, Any] = {
        "name": name,
        "github-back": back,
        "github-back-branch": back_branch,
        "github-front": front,
        "github-front-branch": front_branch,
        "template": template,
        "with-fixtures": with_fixtures or None,
        "keep-days": keep_days,
        "github-token": _token(github_token),
    }
    return {key: value for key, value in values.items() if value is not None}


def _token(given: Optional[str]) -> Optional[str]:
    return given or os.environ.get("GITHUB_TOKEN") or None


def create_environment(connection: Connection, wanted: Json) -> Operation[Environment]:
    """Create an environment, and return it once it answers."""
    # It takes minutes, so whoever is interrupted breaks it off, which the server undoes.
    # The answer has the name only if none was asked for.
    named = wanted.get("name")
    undo = _path("envs", named) if named else "/envs/{name}"
    asked = _effects.Request("POST", "/envs", json.dumps(wanted).encode(), undo=undo)
    answer = yield from connection.answer(lambda: asked)
    try:
        made = yield from environment(connection, content(answer).get("name") or wanted["name"])
    except BaseException:
        answer.undo()
        raise
    answer.claim()
    return made


def plan_environment(connection: Connection, wanted: Json) -> Operation[Plan]:
    """Tell what creating an environment would do."""
    return Plan._read((yield from connection.request("POST", "/envs?plan=true", wanted)))


wanted_environment = _wanted


def environment(connection: Connection, name: str) -> Operation[Environment]:
    """Return an environment."""
    return Environment._read((yield from connection.request("GET", _path("envs", name))))


def environments(connection: Connection) -> Operation[List[str]]:
    """Return the names of all environments."""
    return (yield from connection.request("GET", "/envs"))  # type: ignore[no-any-return]


def delete_environment(connection: Connection, name: str) -> Operation[None]:
    """Delete an environment with its database."""
    yield from connection.request("DELETE", _path("envs", name))


def redeploy_environment(connection: Connection, name: str) -> Operation[Environment]:
    """Build an environment from what its branches are at now."""
    yield from connection.request("POST", _path("envs", name, "redeploy"))
    return (yield from environment(connection, name))


def extend_environment(connection: Connection, name: str, keep_days: int) -> Operation[Environment]:
    """Make an environment live so many days from now."""
    yield from connection.request("PATCH", _path("envs", name), {"keep-days": keep_days})
    return (yield from environment(connection, name))


def open_environment_logs(
    connection: Connection, name: str, service: Optional[str], tail: Optional[int], follow: bool, since: Optional[str]
) -> Operation[_native.Stream]:
    """Begin to read what an environment's services wrote."""
    path = _path("envs", name, "logs") + _query(service=service, tail=tail, follow=follow, since=since)
    return (yield from connection.open("GET", path))
