"""The interface that blocks."""

from __future__ import annotations

import os
import warnings
from functools import cached_property
from types import TracebackType
from typing import Any, Dict, Iterable, Iterator, List, Literal, Mapping, Optional, Type, Union

from . import _choose, _native, _operations
from ._connection import Connection
from ._effects import Operation
from ._models import Coordinates, Dataset, Environment, Json, Plan, Snapshot
from ._operations import Ttl

Setting = Union[str, int, float, bool]


class Database(Coordinates):
    """A private, writable Postgres on a copy-on-write clone of a snapshot.

    As a context manager it is deleted at the end of the block:

    >>> with ondemand.pg_snapshot("production") as db:
    ...     psycopg.connect(db.url)
    """

    def __init__(self, connection: Connection, json: Json, *, mine: bool) -> None:
        super().__init__(json)
        self._connection = connection
        self._pid = os.getpid() if mine else 0

    def __enter__(self) -> Database:
        return self

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        self.close()

    def __del__(self) -> None:
        # Of a process that was forked it is a copy, and nobody's to close.
        if getattr(self, "_pid", 0) == os.getpid():
            warnings.warn(f"unclosed database {self!r}", ResourceWarning, stacklevel=2, source=self)

    def reset(self) -> None:
        """Take it back to its snapshot: same address, same password. Connections to it are closed.

        Raises:
            NotFound: if it has been deleted.
            Conflict: while it is being reset or deleted.

        >>> db.reset()
        """
        self._json = self._connection.run(_operations.reset(self._connection, self.id))

    def extend(self, ttl: Ttl) -> None:
        """Make it live so long from now, such as `"2h"`, a number of seconds or a `timedelta`.

        Raises:
            InvalidInput: above the configured maximum.

        >>> db.extend("2h")
        """
        self._json = self._connection.run(_operations.extend(self._connection, self.id, ttl))

    def keep(self, ttl: Optional[Ttl] = None) -> None:
        """Let it outlive this process: it is deleted when its time has passed, and `close()` leaves it alone.

        >>> db.keep("1h")
        """
        self._json = self._connection.run(_operations.keep(self._connection, self.id, ttl))
        self._pid = 0

    def logs(self, *, tail: Optional[int] = None, follow: bool = False) -> Iterator[str]:
        """Return the lines that Postgres wrote to its log: the last `tail`, and those to come if `follow`.

        >>> print(*db.logs(tail=20), sep="\\n")
        """
        return _lines(self._connection, _operations.open_logs(self._connection, self.id, tail, follow))

    def close(self) -> None:
        """Delete it. Returns when its process, its data and its port are gone; to call it again does nothing.

        A process that was forked from the one that asked for it, and one that has called `keep()`, leave it alone.

        >>> db.close()
        """
        if self._pid == os.getpid():
            self._connection.run(_operations.close(self._connection, self.id))
            self._pid = 0


def _lines(connection: Connection, opening: Operation[_native.Stream]) -> Iterator[str]:
    stream = connection.run(opening)
    rest: Optional[bytes] = b""
    while rest is not None:
        lines, rest = connection.run(_operations.next_lines(connection, stream, rest))
        yield from lines


class Databases:
    """All databases of a server."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def create(
        self,
        dataset: Optional[str] = None,
        *,
        ttl: Optional[Ttl] = None,
        name: Optional[str] = None,
        durable: bool = False,
        settings: Optional[Mapping[str, Setting]] = None,
        lease: bool = True,
    ) -> Database:
        """Create a database, and return once it answers.

        Args:
            dataset: what to clone: a dataset's newest version, or `DATASET@VERSION`; by default the configured one, or the only one.
            ttl: how long it lives at most: `"90s"`, `"2h"`, a number of seconds, a `timedelta`.
            name: a name, unique among those that live.
            durable: whether commits survive a power cut, which costs a flush to disk for each.
            settings: settings of Postgres, as in `postgresql.conf`.
            lease: whether it is deleted when this process ends, however that happens.

        Raises:
            NotFound: if there is no such dataset.
            AlreadyExists: if the name is taken.
            InvalidInput: for a ttl or a setting.
            QuotaExceeded: if there are too many.

        >>> db = od.databases.create("production", settings={"work_mem": "64MB"})
        """
        operation = _operations.create(self._connection, dataset, ttl, name, durable, settings, lease)
        return Database(self._connection, self._connection.run(operation), mine=lease)

    def get(self, database: str) -> Database:
        """Return a database by its name, its id, or the first digits of that.

        Raises:
            NotFound: if there is none.

        >>> od.databases.get("pgondemand_5433").url
        """
        return Database(self._connection, self._connection.run(_operations.get(self._connection, database)), mine=False)

    def list(self) -> List[Database]:
        """Return all databases, the oldest first, without their passwords.

        >>> [db.name for db in od.databases.list()]
        """
        listed = self._connection.run(_operations.databases(self._connection))
        return [Database(self._connection, each, mine=False) for each in listed]

    def delete(self, database: str) -> None:
        """Delete a database. Returns when it is gone.

        Raises:
            NotFound: if there is none.

        >>> od.databases.delete("pgondemand_5433")
        """
        self._connection.run(_operations.delete(self._connection, database))

    def publish(self, database: str, dataset: str) -> Snapshot:
        """Make a dataset's newest version of what a database holds. The database is gone then.

        Raises:
            Conflict: while something is being imported into the dataset.

        >>> od.databases.publish(db.id, "fixtures").name
        """
        return self._connection.run(_operations.publish(self._connection, database, dataset))


class Datasets:
    """All datasets of a server."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def list(self) -> List[Dataset]:
        """Return all datasets in the order of their names.

        >>> [dataset.name for dataset in od.datasets.list()]
        """
        return self._connection.run(_operations.datasets(self._connection))

    def get(self, name: str) -> Dataset:
        """Return a dataset, or of `DATASET@VERSION` that version.

        Raises:
            NotFound: if there is none.

        >>> od.datasets.get("production").versions[-1].created
        """
        return self._connection.run(_operations.dataset(self._connection, name))

    def import_(
        self,
        name: str,
        dump: "os.PathLike[str] | str | None",
        *,
        dbname: Optional[str] = None,
        roles: Iterable[str] = (),
        create_roles: bool = False,
        no_owner: bool = False,
        on_error: Literal["stop", "continue"] = "stop",
        postgres: Optional[int] = None,
    ) -> Snapshot:
        """Restore a dump into a new version of a dataset, which need not exist.

        Args:
            name: the dataset.
            dump: a file of SQL, also compressed with gzip or zstd, what `pg_dump -Fc` wrote, or a tar archive of what `pg_dump -Fd` wrote or
                of a data directory; None for an empty database.
            dbname: the Postgres database that holds the data: of several that the dump makes, this one, or else one that is made to
                restore into.
            roles: roles to make before.
            create_roles: whether to make each role that the dump names and does not make.
            no_owner: whether to leave out owners and privileges; not for SQL text.
            on_error: what a statement that fails leads to; with "continue", the version has a list of what failed.
            postgres: the major version of Postgres to restore with.

        Raises:
            InvalidDump: if Postgres does not restore it.
            OutOfSpace: if it does not fit.

        >>> od.datasets.import_("production", "dump.sql.zst")
        """
        operation = _operations.import_(
            self._connection, name, dump, dbname, roles, create_roles, no_owner, on_error, postgres
        )
        return self._connection.run(operation)

    def delete(self, name: str) -> None:
        """Delete a dataset, or of `DATASET@VERSION` that version.

        Raises:
            Conflict: while databases live on it.

        >>> od.datasets.delete("production@20261122-192300")
        """
        self._connection.run(_operations.delete_dataset(self._connection, name))


class Environments:
    """All environments of a server: running copies of the product, each built from chosen branches."""

    def __init__(self, connection: Connection) -> None:
        self._given = connection
        self._connection = _choose.for_environments(connection)

    def create(
        self,
        name: Optional[str] = None,
        *,
        back: Optional[str] = None,
        back_branch: Optional[str] = None,
        front: Optional[str] = None,
        front_branch: Optional[str] = None,
        template: Optional[str] = None,
        with_fixtures: bool = False,
        keep_days: Optional[int] = None,
        github_token: Optional[str] = None,
    ) -> Environment:
        """Create an environment, and return once it is reached by its URLs.

        Args:
            name: its name; a readable one is made where there is none.
            back: the repository of its back end, as `OWNER/REPOSITORY`.
            back_branch: the branch of that.
            front: the repository of its front end.
            front_branch: the branch of that.
            template: what it is rendered from.
            with_fixtures: whether it gets fixtures instead of the dump.
            keep_days: how many days it lives.
            github_token: whose it is to be; by default that of GITHUB_TOKEN.

        Raises:
            AlreadyExists: if the name is taken.
            NotFound: if a repository or a branch does not exist, or cannot be read with the token.
            ServiceFailed: if a part could not be built or started; `.log` has the end of its log.

        >>> od.environments.create("demo", back="shop/back", back_branch="new-cart").links
        """
        wanted = _operations.wanted_environment(
            name, back, back_branch, front, front_branch, template, with_fixtures, keep_days, github_token
        )
        # Whose it is may also undo it.
        connection = _choose.for_environments(self._given, github_token) if github_token else self._connection
        return connection.run(_operations.create_environment(connection, wanted))

    def plan(
        self,
        name: Optional[str] = None,
        *,
        back: Optional[str] = None,
        back_branch: Optional[str] = None,
        front: Optional[str] = None,
        front_branch: Optional[str] = None,
        template: Optional[str] = None,
        with_fixtures: bool = False,
        keep_days: Optional[int] = None,
        github_token: Optional[str] = None,
    ) -> Plan:
        """Tell what `create` would do, and change nothing.

        >>> print(od.environments.plan("demo").compose)
        """
        wanted = _operations.wanted_environment(
            name, back, back_branch, front, front_branch, template, with_fixtures, keep_days, github_token
        )
        return self._connection.run(_operations.plan_environment(self._connection, wanted))

    def list(self) -> List[str]:
        """Return the names of all environments.

        >>> od.environments.list()
        ['demo']
        """
        return self._connection.run(_operations.environments(self._connection))

    def get(self, name: str) -> Environment:
        """Return an environment.

        Raises:
            NotFound: if there is none.

        >>> od.environments.get("demo").status
        'ready'
        """
        return self._connection.run(_operations.environment(self._connection, name))

    def delete(self, name: str) -> None:
        """Delete an environment with its database. Returns when it is gone.

        Raises:
            Forbidden: if it is another's.

        >>> od.environments.delete("demo")
        """
        self._connection.run(_operations.delete_environment(self._connection, name))

    def redeploy(self, name: str) -> Environment:
        """Build an environment from what its branches are at now: same URLs, same data.

        >>> od.environments.redeploy("demo").back
        """
        return self._connection.run(_operations.redeploy_environment(self._connection, name))

    def extend(self, name: str, keep_days: int) -> Environment:
        """Make an environment live so many days from now.

        >>> od.environments.extend("demo", 5).expires
        """
        return self._connection.run(_operations.extend_environment(self._connection, name, keep_days))

    def logs(
        self,
        name: str,
        *,
        service: Optional[str] = None,
        tail: Optional[int] = None,
        follow: bool = False,
        since: Optional[str] = None,
    ) -> Iterator[str]:
        """Return the lines that an environment's services wrote.

        >>> print(*od.environments.logs("demo", service="api", tail=20), sep="\\n")
        """
        opening = _operations.open_environment_logs(self._connection, name, service, tail, follow, since)
        return _lines(self._connection, opening)


class Ondemand:
    """A server, or the embedded default: where databases, datasets and environments are. Threads may share it."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.databases = Databases(connection)
        """All databases."""
        self.datasets = Datasets(connection)
        """All datasets."""

    @cached_property
    def environments(self) -> Environments:
        """All environments."""
        return Environments(self._connection)

    def __repr__(self) -> str:
        return f"<ondemand.Ondemand {self._connection!r}>"

    def __enter__(self) -> Ondemand:
        return self

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        self.close()

    def pg_snapshot(
        self,
        dataset: Optional[str] = None,
        *,
        ttl: Optional[Ttl] = None,
        name: Optional[str] = None,
        durable: bool = False,
        settings: Optional[Mapping[str, Setting]] = None,
    ) -> Database:
        """Create a database that lives until the end of the block, or of this process, however that ends.

        It is `databases.create()` by another name; see there for what it takes and raises.

        >>> with od.pg_snapshot("production") as db:
        ...     psycopg.connect(db.url)
        """
        return self.databases.create(dataset, ttl=ttl, name=name, durable=durable, settings=settings)

    def close(self) -> None:
        """Let go of all databases that this process has asked for: they are deleted within a second or two.

        >>> od.close()
        """
        self._connection.close()


def connect(url: Optional[str] = None, token: Optional[str] = None) -> Ondemand:
    """Return a server's databases, datasets and environments. Nothing is sent yet.

    Args:
        url: where it is, such as `http://pg.dev.internal`; by default ONDEMAND_URL.
        token: what it wants to be told; by default ONDEMAND_TOKEN.

    >>> od = ondemand.connect("http://pg.dev.internal")
    """
    return Ondemand(_choose.server(url, token))


def embedded(
    data_dir: "os.PathLike[str] | str | None" = None, *, config: Optional[Dict[str, Any]] = None
) -> Ondemand:
    """Return databases, datasets and environments of this machine, with no server.

    A process of its own, which all programs of this user that embed the same data directory share, is started when something is asked
    for, and ends when nobody needs it any more.

    Args:
        data_dir: where everything is kept; by default ONDEMAND_DATA_DIR, or else a directory of this user's.
        config: what `ondemand.toml` would say, such as `{"store": "copy"}`; read when the process is started.

    >>> od = ondemand.embedded(data_dir="/srv/ondemand")
    """
    return Ondemand(_choose.embedded(data_dir, config))


def pg_snapshot(
    dataset: Optional[str] = None,
    *,
    ttl: Optional[Ttl] = None,
    name: Optional[str] = None,
    durable: bool = False,
    settings: Optional[Mapping[str, Setting]] = None,
) -> Database:
    """Create a database that lives until the end of the block, or of this process, however that ends.

    It is asked for at the server of ONDEMAND_URL, or else at the embedded default.

    Args:
        dataset: what to clone: a dataset's newest version, or `DATASET@VERSION`; by default the configured one, or the only one.
        ttl: how long it lives at most: `"90s"`, `"2h"`, a number of seconds, a `timedelta`.
        name: a name, unique among those that live.
        durable: whether commits survive a power cut, which costs a flush to disk for each.
        settings: settings of Postgres, as in `postgresql.conf`.

    Raises:
        NotFound: if there is no such dataset.
        Unreachable: if the server cannot be asked.

    >>> with ondemand.pg_snapshot("production") as db:
    ...     psycopg.connect(db.url)
    """
    return Ondemand(_choose.default()).pg_snapshot(dataset, ttl=ttl, name=name, durable=durable, settings=settings)
