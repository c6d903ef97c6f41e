"""The same for asyncio: what blocks in `ondemand` is awaited here.

>>> from ondemand import aio
>>> async with aio.pg_snapshot("production") as db:
...     connection = await asyncpg.connect(db.url)
"""

from __future__ import annotations

import asyncio
import os
import warnings
from functools import cached_property
from types import TracebackType
from typing import Any, AsyncIterator, Awaitable, Callable, Dict, Generator, Iterable, List, Literal, Mapping, Optional, Type, Union

from . import _build, _choose, _native, _operations
from ._connection import Connection
from ._effects import Operation
from ._models import Coordinates, Dataset, Environment, Json, Plan, Snapshot
from ._operations import Ttl

__all__ = [
    "Database",
    "Databases",
    "Datasets",
    "Environments",
    "Ondemand",
    "connect",
    "dataset_from",
    "embedded",
    "pg_snapshot",
]

Setting = Union[str, int, float, bool]


class Database(Coordinates):
    """A private, writable Postgres on a copy-on-write clone of a snapshot; see `ondemand.Database`."""

    def __init__(self, connection: Connection, json: Json, *, mine: bool) -> None:
        super().__init__(json)
        self._connection = connection
        self._pid = os.getpid() if mine else 0

    async def __aenter__(self) -> Database:
        return self

    async def __aexit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        await self.close()

    def __del__(self) -> None:
        # Of a process that was forked it is a copy, and nobody's to close.
        if getattr(self, "_pid", 0) == os.getpid():
            warnings.warn(f"unclosed database {self!r}", ResourceWarning, stacklevel=2, source=self)

    async def reset(self) -> None:
        """Take it back to its snapshot: same address, same password. Connections to it are closed.

        >>> await db.reset()
        """
        self._json = await self._connection.run_async(_operations.reset(self._connection, self.id))

    async def extend(self, ttl: Ttl) -> None:
        """Make it live so long from now.

        >>> await db.extend("2h")
        """
        self._json = await self._connection.run_async(_operations.extend(self._connection, self.id, ttl))

    async def keep(self, ttl: Optional[Ttl] = None) -> None:
        """Let it outlive this process: it is deleted when its time has passed, and `close()` leaves it alone.

        >>> await db.keep("1h")
        """
        self._json = await self._connection.run_async(_operations.keep(self._connection, self.id, ttl))
        self._pid = 0

    def logs(self, *, tail: Optional[int] = None, follow: bool = False) -> AsyncIterator[str]:
        """Return the lines that Postgres wrote to its log.

        >>> async for line in db.logs(tail=20):
        ...     print(line)
        """
        return _lines(self._connection, _operations.open_logs(self._connection, self.id, tail, follow))

    async def close(self) -> None:
        """Delete it. Cancelled, it is deleted in the background. To call it again does nothing.

        >>> await db.close()
        """
        if self._pid == os.getpid():
            self._pid = 0
            await asyncio.shield(self._connection.run_async(_operations.close(self._connection, self.id)))


async def _lines(connection: Connection, opening: Operation[_native.Stream]) -> AsyncIterator[str]:
    stream = await connection.run_async(opening)
    rest: Optional[bytes] = b""
    while rest is not None:
        lines, rest = await connection.run_async(_operations.next_lines(connection, stream, rest))
        for line in lines:
            yield line


class _Creation:
    """A database that is made when it is awaited, or entered."""

    def __init__(self, create: Callable[[], Awaitable[Database]]) -> None:
        self._create = create
        self._database: Optional[Database] = None

    def __await__(self) -> Generator[Any, None, Database]:
        return self._create().__await__()

    async def __aenter__(self) -> Database:
        self._database = await self._create()
        return self._database

    async def __aexit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        if self._database is not None:
            await self._database.close()


class Databases:
    """All databases of a server; see `ondemand.Databases`."""

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
    ) -> _Creation:
        """Create a database: to be awaited, or to be used with `async with`.

        >>> db = await od.databases.create("production")
        """
        connection = self._connection

        async def create() -> Database:
            operation = _operations.create(connection, dataset, ttl, name, durable, settings, lease)
            return Database(connection, await connection.run_async(operation), mine=lease)

        return _Creation(create)

    async def get(self, database: str) -> Database:
        """Return a database by its name, its id, or the first digits of that.

        >>> (await od.databases.get("pgondemand_5433")).url
        """
        json = await self._connection.run_async(_operations.get(self._connection, database))
        return Database(self._connection, json, mine=False)

    async def list(self) -> List[Database]:
        """Return all databases, the oldest first, without their passwords.

        >>> [db.name for db in await od.databases.list()]
        """
        listed = await self._connection.run_async(_operations.databases(self._connection))
        return [Database(self._connection, each, mine=False) for each in listed]

    async def delete(self, database: str) -> None:
        """Delete a database.

        >>> await od.databases.delete("pgondemand_5433")
        """
        await self._connection.run_async(_operations.delete(self._connection, database))

    async def publish(self, database: str, dataset: str) -> Snapshot:
        """Make a dataset's newest version of what a database holds. The database is gone then.

        >>> (await od.databases.publish(db.id, "fixtures")).name
        """
        return await self._connection.run_async(_operations.publish(self._connection, database, dataset))


class Datasets:
    """All datasets of a server; see `ondemand.Datasets`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def list(self) -> List[Dataset]:
        """Return all datasets in the order of their names.

        >>> [dataset.name for dataset in await od.datasets.list()]
        """
        return await self._connection.run_async(_operations.datasets(self._connection))

    async def get(self, name: str) -> Dataset:
        """Return a dataset, or of `DATASET@VERSION` that version.

        >>> (await od.datasets.get("production")).versions[-1].created
        """
        return await self._connection.run_async(_operations.dataset(self._connection, name))

    async def import_(
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
        """Restore a dump into a new version of a dataset; see `ondemand.Datasets.import_`.

        >>> await od.datasets.import_("production", "dump.sql.zst")
        """
        operation = _operations.import_(
            self._connection, name, dump, dbname, roles, create_roles, no_owner, on_error, postgres
        )
        return await self._connection.run_async(operation)

    async def delete(self, name: str) -> None:
        """Delete a dataset, or of `DATASET@VERSION` that version.

        >>> await od.datasets.delete("production@20261122-192300")
        """
        await self._connection.run_async(_operations.delete_dataset(self._connection, name))


class Environments:
    """All environments of a server; see `ondemand.Environments`."""

    def __init__(self, connection: Connection) -> None:
        self._given = connection
        self._connection = _choose.for_environments(connection)

    async def create(
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
        """Create an environment, and return once it is reached by its URLs. Cancelled, it is undone.

        >>> (await od.environments.create("demo", back="shop/back", back_branch="new-cart")).links
        """
        wanted = _operations.wanted_environment(
            name, back, back_branch, front, front_branch, template, with_fixtures, keep_days, github_token
        )
        # Whose it is may also undo it.
        connection = _choose.for_environments(self._given, github_token) if github_token else self._connection
        return await connection.run_async(_operations.create_environment(connection, wanted))

    async def plan(
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

        >>> print((await od.environments.plan("demo")).compose)
        """
        wanted = _operations.wanted_environment(
            name, back, back_branch, front, front_branch, template, with_fixtures, keep_days, github_token
        )
        return await self._connection.run_async(_operations.plan_environment(self._connection, wanted))

    async def list(self) -> List[str]:
        """Return the names of all environments.

        >>> await od.environments.list()
        ['demo']
        """
        return await self._connection.run_async(_operations.environments(self._connection))

    async def get(self, name: str) -> Environment:
        """Return an environment.

        >>> (await od.environments.get("demo")).status
        'ready'
        """
        return await self._connection.run_async(_operations.environment(self._connection, name))

    async def delete(self, name: str) -> None:
        """Delete an environment with its database.

        >>> await od.environments.delete("demo")
        """
        await self._connection.run_async(_operations.delete_environment(self._connection, name))

    async def redeploy(self, name: str) -> Environment:
        """Build an environment from what its branches are at now: same URLs, same data.

        >>> (await od.environments.redeploy("demo")).back
        """
        return await self._connection.run_async(_operations.redeploy_environment(self._connection, name))

    async def extend(self, name: str, keep_days: int) -> Environment:
        """Make an environment live so many days from now.

        >>> (await od.environments.extend("demo", 5)).expires
        """
        return await self._connection.run_async(_operations.extend_environment(self._connection, name, keep_days))

    def logs(
        self,
        name: str,
        *,
        service: Optional[str] = None,
        tail: Optional[int] = None,
        follow: bool = False,
        since: Optional[str] = None,
    ) -> AsyncIterator[str]:
        """Return the lines that an environment's services wrote.

        >>> async for line in od.environments.logs("demo", service="api", tail=20):
        ...     print(line)
        """
        opening = _operations.open_environment_logs(self._connection, name, service, tail, follow, since)
        return _lines(self._connection, opening)


class Ondemand:
    """A server, or the embedded default; see `ondemand.Ondemand`."""

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
        return f"<ondemand.aio.Ondemand {self._connection!r}>"

    async def __aenter__(self) -> Ondemand:
        return self

    async def __aexit__(
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
    ) -> _Creation:
        """Create a database that lives until the end of the block, or of this process, however that ends.

        >>> async with od.pg_snapshot("production") as db:
        ...     connection = await asyncpg.connect(db.url)
        """
        return self.databases.create(dataset, ttl=ttl, name=name, durable=durable, settings=settings)

    def close(self) -> None:
        """Let go of all databases that this process has asked for: they are deleted within a second or two.

        >>> od.close()
        """
        self._connection.close()


def connect(url: Optional[str] = None, token: Optional[str] = None) -> Ondemand:
    """Return a server's databases, datasets and environments; see `ondemand.connect`.

    >>> od = aio.connect("http://pg.dev.internal")
    """
    return Ondemand(_choose.server(url, token))


def embedded(
    data_dir: "os.PathLike[str] | str | None" = None, *, config: Optional[Dict[str, Any]] = None
) -> Ondemand:
    """Return databases, datasets and environments of this machine, with no server; see `ondemand.embedded`.

    >>> od = aio.embedded(data_dir="/srv/ondemand")
    """
    return Ondemand(_choose.embedded(data_dir, config))


def pg_snapshot(
    dataset: Optional[str] = None,
    *,
    ttl: Optional[Ttl] = None,
    name: Optional[str] = None,
    durable: bool = False,
    settings: Optional[Mapping[str, Setting]] = None,
) -> _Creation:
    """Create a database that lives until the end of the block, or of this process, however that ends; see `ondemand.pg_snapshot`.

    >>> async with aio.pg_snapshot("production") as db:
    ...     connection = await asyncpg.connect(db.url)
    """
    return Ondemand(_choose.default()).pg_snapshot(dataset, ttl=ttl, name=name, durable=durable, settings=settings)


async def dataset_from(
    source: Union[Callable[[Database], object], _build.Files],
    *,
    key: Optional[str] = None,
    base: Optional[str] = None,
    od: Optional[Ondemand] = None,
) -> str:
    """Return the name of a dataset that `source` builds; see `ondemand.dataset_from`. The function may be a coroutine function.

    >>> shop = await aio.dataset_from(migrate, key=version)
    """
    connection = od._connection if od is not None else _choose.default()

    def fill(json: Json) -> object:
        assert callable(source)
        return source(Database(connection, json, mine=False))

    return await connection.run_async(_build.building(connection, source, key, base, fill))
