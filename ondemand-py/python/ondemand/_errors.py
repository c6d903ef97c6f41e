"""What can go wrong, one class for each meaning."""

from __future__ import annotations

import json
from typing import ClassVar, Dict, List, Optional, Sequence, Type

__all__ = [
    "AlreadyExists",
    "Backend",
    "Cancelled",
    "Conflict",
    "Error",
    "Forbidden",
    "InvalidDump",
    "InvalidInput",
    "InvalidName",
    "InvalidTemplate",
    "NotFound",
    "NotReady",
    "OutOfSpace",
    "QuotaExceeded",
    "ServiceFailed",
    "Unauthenticated",
    "Unreachable",
    "Unsupported",
]


class Error(Exception):
    """Something could not be done.

    Catch a subclass to handle one meaning, or this for all:

    >>> try:
    ...     ondemand.pg_snapshot("prodution")
    ... except ondemand.NotFound as error:
    ...     print(error.hint)
    """

    code: ClassVar[str] = "error"
    """The stable name of what it means; the same in HTTP, on the command line and in Rust."""

    def __init__(
        self,
        message: str,
        *,
        hint: Optional[str] = None,
        causes: Sequence[str] = (),
        log: Sequence[str] = (),
    ) -> None:
        super().__init__(message)
        self.message: str = message
        self.hint: Optional[str] = hint
        """What to do about it."""
        self.causes: List[str] = list(causes)
        """What led to it, the nearest first."""
        self.log: List[str] = list(log)
        """The end of the log that explains it."""

    def __str__(self) -> str:
        parts = [": ".join([self.message, *self.causes])]
        if self.hint:
            parts.append(f"hint: {self.hint}")
        parts.extend(f"  {line}" for line in self.log)
        return "\n".join(parts)


class NotFound(Error):
    """The thing named does not exist."""

    code = "not_found"


class AlreadyExists(Error):
    """The name is taken."""

    code = "already_exists"


class Conflict(Error):
    """The request is valid, but not now: something else uses, holds or changes the thing."""

    code = "conflict"


class InvalidName(Error, ValueError):
    """A name or an id that could not be one."""

    code = "invalid_name"


class InvalidInput(Error, ValueError):
    """Any other value that does not parse or is out of range."""

    code = "invalid_input"


class InvalidDump(Error, ValueError):
    """A dump, or SQL, that Postgres would not restore."""

    code = "invalid_dump"


class InvalidTemplate(Error, ValueError):
    """A template that cannot be deployed."""

    code = "invalid_template"


class ServiceFailed(Error):
    """A service of an environment did not do its work."""

    code = "service_failed"


class Forbidden(Error, PermissionError):
    """The caller is known, and may not do this."""

    code = "forbidden"


class Unauthenticated(Error, PermissionError):
    """The caller has not said who it is, or not proved it."""

    code = "unauthenticated"


class QuotaExceeded(Error):
    """A configured limit is reached."""

    code = "quota_exceeded"


class OutOfSpace(Error):
    """The pool or the disk is full."""

    code = "out_of_space"


class NotReady(Error, TimeoutError):
    """Something was started and did not answer."""

    code = "not_ready"


class Unsupported(Error):
    """This version, machine or configuration cannot do it."""

    code = "unsupported"


class Cancelled(Error):
    """The operation was given up before its end, and undone."""

    code = "cancelled"


class Backend(Error):
    """An engine, a file system or a program failed."""

    code = "backend"


class Unreachable(Error, ConnectionError):
    """The server cannot be asked, or what answers is none."""

    code = "unreachable"


_CLASSES: Dict[str, Type[Error]] = {
    each.code: each
    for each in (
        NotFound,
        AlreadyExists,
        Conflict,
        InvalidName,
        InvalidInput,
        InvalidDump,
        InvalidTemplate,
        ServiceFailed,
        Forbidden,
        Unauthenticated,
        QuotaExceeded,
        OutOfSpace,
        NotReady,
        Unsupported,
        Cancelled,
        Backend,
    )
}

# Hints name the program's commands. Whoever has the package may not have the program.
_IN_PYTHON = {
    "`ondemand dataset list`": "`od.datasets.list()`",
    "`ondemand dataset import NAME --dump FILE`": "`od.datasets.import_(NAME, FILE)`",
    "`ondemand env list`": "`od.environments.list()`",
    "apt-get install postgresql, or set postgres.bin-dir": "apt-get install postgresql, or pip install 'ondemand[postgres]'",
}


def _in_python(hint: str) -> str:
    for command, call in _IN_PYTHON.items():
        hint = hint.replace(command, call)
    return hint


def from_problem(body: bytes, status: int = 0) -> Error:
    """Make the exception for an answer that is a problem (RFC 9457)."""
    try:
        problem = json.loads(body)
        code, detail = str(problem["code"]), str(problem["detail"])
        hint = _in_python(problem["hint"]) if problem.get("hint") else None
        causes, log = problem.get("causes") or (), problem.get("log") or ()
    except (ValueError, TypeError, KeyError, AttributeError):
        return Unreachable(
            f"what answers is not a server of ondemand: status {status}",
            hint="check ONDEMAND_URL",
        )
    # A newer server may know more than this version does.
    made = _CLASSES.get(code, Error)
    return made(detail, hint=hint, causes=[str(cause) for cause in causes], log=[str(line) for line in log])
