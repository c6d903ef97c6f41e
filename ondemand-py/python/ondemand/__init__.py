"""A private, writable Postgres with a copy of real data, for as long as a test runs.

>>> import ondemand
>>> with ondemand.pg_snapshot("production") as db:
...     print(db.url)
postgresql://postgres:4f0c...@127.0.0.1:5433/shop

`ondemand.aio` is the same for asyncio.
"""

from ._build import dataset_from
from ._errors import (
    AlreadyExists,
    Backend,
    Cancelled,
    Conflict,
    Error,
    Forbidden,
    InvalidDump,
    InvalidInput,
    InvalidName,
    InvalidTemplate,
    NotFound,
    NotReady,
    OutOfSpace,
    QuotaExceeded,
    ServiceFailed,
    Unauthenticated,
    Unreachable,
    Unsupported,
)
from ._models import Dataset, Environment, Owner, Plan, Service, Snapshot, Source
from ._native import VERSION as __version__
from ._sync import Database, Databases, Datasets, Environments, Ondemand, connect, embedded, pg_snapshot

__all__ = [
    "AlreadyExists",
    "Backend",
    "Cancelled",
    "Conflict",
    "Database",
    "Databases",
    "Dataset",
    "Datasets",
    "Environment",
    "Environments",
    "Error",
    "Forbidden",
    "InvalidDump",
    "InvalidInput",
    "InvalidName",
    "InvalidTemplate",
    "NotFound",
    "NotReady",
    "Ondemand",
    "OutOfSpace",
    "Owner",
    "Plan",
    "QuotaExceeded",
    "Service",
    "ServiceFailed",
    "Snapshot",
    "Source",
    "Unauthenticated",
    "Unreachable",
    "Unsupported",
    "__version__",
    "connect",
    "dataset_from",
    "embedded",
    "pg_snapshot",
]
