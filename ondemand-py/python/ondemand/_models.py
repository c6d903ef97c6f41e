"""What a server tells of what it has."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any, Dict, List, Optional
from urllib.parse import quote

Json = Dict[str, Any]


def moment(seconds: str) -> datetime:
    """Read a time that is written in seconds since 1970."""
    return datetime.fromtimestamp(int(seconds), timezone.utc)


def _moment_of_text(text: str) -> datetime:
    # Before Python 3.11, `fromisoformat` knows neither Z nor nanoseconds.
    head, _, rest = text.replace("Z", "+00:00").partition(".")
    if rest:
        zone = max(rest.find("+"), rest.find("-"))
        head += "." + rest[:zone][:6].ljust(6, "0") + rest[zone:]
    return datetime.fromisoformat(head)


@dataclass(frozen=True)
class Snapshot:
    """One published version of a dataset."""

    name: str
    """The dataset and the version, as `pg_snapshot()` takes it."""
    dataset: str
    version: str
    created: datetime
    postgres: int
    """The major version of Postgres that wrote it."""
    dbname: str
    """The Postgres database that holds the data."""
    data_bytes: int
    dump_bytes: int
    derived: bool
    """Whether `dataset_from()` built it: it is no dataset that `pg_snapshot()` uses where none is named."""
    databases: int
    """How many databases live on it."""
    failures: int = 0
    """How many statements of the dump failed; of an incomplete version, more than none."""
    failed: List[str] = field(default_factory=list)
    """What the first of them failed with."""
    warning: Optional[str] = None
    """What whoever uses it should know."""

    @classmethod
    def _read(cls, json: Json) -> Snapshot:
        return cls(
            name=json["Name"],
            dataset=json["Dataset"],
            version=json["Version"],
            created=moment(json["Created_at"]),
            postgres=json["Postgres"],
            dbname=json["Dbname"],
            data_bytes=json["Data_bytes"],
            dump_bytes=json["Dump_bytes"],
            derived=json.get("Derived", False),
            databases=json["Servers"],
            failures=json.get("Failures", 0),
            failed=json.get("Failed", []),
            warning=json.get("Warning"),
        )


@dataclass(frozen=True)
class Dataset:
    """A named lineage of data."""

    name: str
    versions: List[Snapshot]
    """Its versions, the newest last."""

    @classmethod
    def _read(cls, json: Json) -> Dataset:
        return cls(json["Name"], [Snapshot._read(version) for version in json["Versions"]])


@dataclass(frozen=True)
class Owner:
    """Whose an environment is."""

    id: int
    login: str


@dataclass(frozen=True)
class Source:
    """What a part of an environment was built from."""

    repository: str
    branch: str
    commit: str

    @classmethod
    def _read(cls, json: Optional[Json]) -> Optional[Source]:
        return cls(json["repository"], json["branch"], json["commit"]) if json else None


@dataclass(frozen=True)
class Service:
    """A service of an environment."""

    name: str
    state: str
    """`starting`, `running`, `exited` or `asleep`."""
    restarts: int
    error: Optional[str]


@dataclass(frozen=True)
class Environment:
    """A running copy of the product, built from chosen branches."""

    name: str
    status: str
    urls: List[str]
    """The host names that it is reached by."""
    links: List[str]
    """What people type to reach it."""
    owner: Owner
    template: str
    created: datetime
    expires: datetime
    back: Optional[Source]
    front: Optional[Source]
    with_fixtures: bool
    database: Optional[str]
    services: List[Service]
    failure: Optional[str]

    @classmethod
    def _read(cls, json: Json) -> Environment:
        return cls(
            name=json["name"],
            status=json["status"],
            urls=json["urls"],
            links=json["links"],
            owner=Owner(json["owner"]["id"], json["owner"]["login"]),
            template=json["template"],
            created=_moment_of_text(json["created"]),
            expires=_moment_of_text(json["expires"]),
            back=Source._read(json.get("back")),
            front=Source._read(json.get("front")),
            with_fixtures=json["with-fixtures"],
            database=json.get("database"),
            services=[
                Service(each["name"], each["state"], each["restarts"], each.get("error")) for each in json["services"]
            ],
            failure=json.get("failure"),
        )


@dataclass(frozen=True)
class Plan:
    """What creating an environment would do."""

    name: str
    urls: List[str]
    template: str
    owner: Owner
    back: Optional[Source]
    front: Optional[Source]
    dataset: Optional[str]
    expires: datetime
    compose: str
    """The compose file, as it would be deployed."""

    @classmethod
    def _read(cls, json: Json) -> Plan:
        return cls(
            name=json["name"],
            urls=json["urls"],
            template=json["template"],
            owner=Owner(json["owner"]["id"], json["owner"]["login"]),
            back=Source._read(json.get("back")),
            front=Source._read(json.get("front")),
            dataset=json.get("dataset"),
            expires=_moment_of_text(json["expires"]),
            compose=json["compose"],
        )


class Coordinates:
    """How a database is reached, in the forms that drivers take."""

    def __init__(self, json: Json) -> None:
        self._json = json

    def _field(self, name: str) -> str:
        return str(self._json[name])

    @property
    def id(self) -> str:
        """What identifies it for as long as it lives: 64 hexadecimal digits."""
        return self._field("Id")

    @property
    def name(self) -> str:
        """Its name, unique among those that live."""
        return self._field("Name").lstrip("/")

    @property
    def host(self) -> str:
        """The host to connect to."""
        return self._field("Host")

    @property
    def port(self) -> int:
        """The port to connect to."""
        return int(self._json["Port"])

    @property
    def user(self) -> str:
        """The user to connect as; a superuser."""
        return self._field("User")

    @property
    def password(self) -> str:
        """The user's password; empty for a database from a list."""
        return str(self._json.get("Password") or "")

    @property
    def dbname(self) -> str:
        """The Postgres database that holds the data."""
        return self._field("Dbname")

    @property
    def dataset(self) -> str:
        """The dataset it was cloned from."""
        return self._field("Dataset")

    @property
    def snapshot(self) -> str:
        """The version of the dataset, as `pg_snapshot()` takes it."""
        return self._field("Snapshot")

    @property
    def created(self) -> datetime:
        """When it was created."""
        return moment(self._json["Created_at"])

    @property
    def expires(self) -> datetime:
        """When it is deleted, if it lives so long."""
        return moment(self._json["Expires_at"])

    @property
    def status(self) -> str:
        """What it was doing when it was asked: `Running`, `Resetting`, `Starting` or `Stopped`."""
        return self._field("Status")

    @property
    def leased(self) -> bool:
        """Whether it goes with the process that asked for it."""
        return bool(self._json.get("Leased"))

    @property
    def url(self) -> str:
        """The connection URL with the password in it: `postgresql://user:password@host:port/dbname`."""
        return self.url_for("postgresql")

    def url_for(self, scheme: str) -> str:
        """Return the connection URL with another scheme, as SQLAlchemy wants one.

        >>> sqlalchemy.create_engine(db.url_for("postgresql+psycopg"))
        """
        host = f"[{self.host}]" if ":" in self.host else self.host
        user, password, dbname = (quote(text, safe="") for text in (self.user, self.password, self.dbname))
        return f"{scheme}://{user}:{password}@{host}:{self.port}/{dbname}"

    def dsn(self) -> str:
        """Return the keywords and values that libpq takes.

        >>> db.dsn()
        'host=127.0.0.1 port=5433 user=postgres password=... dbname=postgres'
        """
        values = {
            "host": self.host,
            "port": str(self.port),
            "user": self.user,
            "password": self.password,
            "dbname": self.dbname,
        }
        return " ".join(f"{key}={_quoted(value)}" for key, value in values.items())

    @property
    def env(self) -> Dict[str, str]:
        """The variables by which libpq's programs and most drivers find it: PGHOST, PGPORT, PGUSER, PGPASSWORD, PGDATABASE."""
        return {
            "PGHOST": self.host,
            "PGPORT": str(self.port),
            "PGUSER": self.user,
            "PGPASSWORD": self.password,
            "PGDATABASE": self.dbname,
        }

    def __repr__(self) -> str:
        # The password is not for logs.
        return f"<{type(self).__module__}.{type(self).__name__} {self.name} of {self.snapshot} at {self.host}:{self.port}>"


def _quoted(value: str) -> str:
    if value and not any(character in value for character in " '\\"):
        return value
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
