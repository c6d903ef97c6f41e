"""Whom to ask where nobody was named."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any, Dict, Optional

from . import _errors, _keeper, _postgres
from ._connection import Connection

_lock = threading.Lock()
_default: Optional[Connection] = None


def server(url: Optional[str], token: Optional[str]) -> Connection:
    """Return a connection to a server."""
    url = url or os.environ.get("ONDEMAND_URL")
    if not url:
        raise _errors.InvalidInput(
            "no server was named", hint="give its URL, or set ONDEMAND_URL; or use ondemand.embedded()"
        )
    return Connection(url, token or os.environ.get("ONDEMAND_TOKEN") or None)


def for_environments(connection: Connection, given: Optional[str] = None) -> Connection:
    """Return a connection for environments, which belong to whom a GitHub token is: the one that was given, or the environment's."""
    github = given or os.environ.get("GITHUB_TOKEN")
    if connection.keeper is not None or connection.has_token or not github:
        return connection
    return Connection(connection.url, github)


def embedded(data_dir: "os.PathLike[str] | str | None", config: Optional[Dict[str, Any]]) -> Connection:
    """Return a connection to the keeper of a data directory."""
    chosen = dict(config or {})
    home = Path(data_dir or os.environ.get("ONDEMAND_DATA_DIR") or _usual_place()).absolute()
    mine = chosen.get("postgres", {})
    if "bin-dir" not in mine and (postgres := _postgres.settings(home)):
        chosen["postgres"] = {**postgres, **mine}
    try:
        idle = float(os.environ.get("ONDEMAND_KEEPER_IDLE") or 10)
    except ValueError:
        raise _errors.InvalidInput("ONDEMAND_KEEPER_IDLE is no number", hint="it is a number of seconds") from None
    return Connection(keeper=_keeper.Options(data_dir=str(home), idle=idle, config=chosen))


def default() -> Connection:
    """Return the connection of those who named none: the server of ONDEMAND_URL, or else this user's keeper."""
    global _default
    with _lock:
        if _default is None:
            _default = server(None, None) if os.environ.get("ONDEMAND_URL") else embedded(None, None)
        return _default


def _usual_place() -> Path:
    if os.geteuid() == 0:
        # Postgres runs as another user, who cannot look into root's home.
        return Path("/var/lib/ondemand-embedded")
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "ondemand"
