"""The owner of a data directory: a process of its own, which every program that embeds ondemand shares.

Whoever comes first starts it. It ends by itself when nobody has needed it for a while. A program holds a lease at it by an open connection,
so when a program dies, however that happens, the kernel closes the connection, and the keeper deletes the program's databases.
"""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Dict, Iterator, Optional, Tuple

from . import _errors, _native

_IDLE = 10.0
_PATIENCE = 60.0
_FAREWELL = 0.5
INFO = "keeper.json"
ALIVE = "keeper.lock"
_STARTING = "keeper.start"
_LOG = "keeper.log"
# This very package, wherever it is, and not by way of the path: what else is there must not stand in for Python's own modules.
_BE = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("ondemand", sys.argv[1] + "/__init__.py", submodule_search_locations=sys.argv[1:])
sys.modules["ondemand"] = module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
from ondemand._keep import main
main()
"""


@dataclass(frozen=True)
class Options:
    """What a keeper is started with. One that runs already is used as it is."""

    data_dir: str
    idle: float = _IDLE
    config: Dict[str, Any] = field(default_factory=dict)


def endpoint(options: Options) -> Tuple[str, str]:
    """Return the URL and the token of the keeper, which is started if there is none."""
    home = Path(options.data_dir)
    found = _running(home)
    if found is not None:
        return found
    _make(home)
    with _locked(home / _STARTING):
        deadline = time.monotonic() + _PATIENCE
        while _is_locked(home / ALIVE):
            # It runs, or it is about to end and has taken its address back.
            found = _running(home)
            if found is not None:
                return found
            if time.monotonic() > deadline:
                raise _errors.NotReady(
                    f"the keeper of {home} neither answers nor ends", hint=f"look into {home / _LOG}"
                )
            time.sleep(0.01)
        # One that was killed could not take it back.
        (home / INFO).unlink(missing_ok=True)
        _start(options)
        found = _running(home)
    if found is None:
        raise _errors.NotReady(f"the keeper of {home} has ended at once", hint=f"look into {home / _LOG}")
    return found


def await_another(options: Options, gone: Tuple[str, str]) -> None:
    """Wait a moment for the end of a keeper that was found and does not answer: its sockets close before its lock opens."""
    deadline = time.monotonic() + _FAREWELL
    while _running(Path(options.data_dir)) == gone and time.monotonic() < deadline:
        time.sleep(0.01)


def _make(home: Path) -> None:
    try:
        # Postgres may run as another user, who has to pass through.
        home.mkdir(mode=0o711, parents=True, exist_ok=True)
    except OSError as error:
        raise _errors.Backend(
            f"the data directory {home} cannot be made",
            causes=[str(error)],
            hint="name another with ondemand.embedded(data_dir=...) or ONDEMAND_DATA_DIR",
        ) from error


def _running(home: Path) -> Optional[Tuple[str, str]]:
    """Return where a keeper answers, if one is alive and has said so."""
    try:
        # In this order: the next keeper takes the lock when what one that was killed had said is gone.
        if not _is_locked(home / ALIVE):
            return None
        info = json.loads((home / INFO).read_text())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    except OSError as error:
        raise _errors.Forbidden(
            f"the data directory {home} belongs to another user",
            causes=[str(error)],
            hint="name another with ondemand.embedded(data_dir=...) or ONDEMAND_DATA_DIR",
        ) from error
    if info["version"] != _native.VERSION:
        raise _errors.Conflict(
            f"a keeper of version {info['version']} runs on {home}, and this is {_native.VERSION}",
            hint=f"let the programs that use it end, or end process {info['pid']}",
        )
    return info["url"], info["token"]


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with open(path, "a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _is_locked(path: Path) -> bool:
    try:
        with open(path) as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def _start(options: Options) -> None:
    """Start a keeper, and return once it answers."""
    if not sys.executable:
        raise _errors.Unsupported(
            "this program does not know which Python it is, and cannot start another",
            hint="run `ondemand serve`, and set ONDEMAND_URL",
        )
    with open(Path(options.data_dir) / _LOG, "w") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", _BE, str(Path(__file__).parent)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            cwd="/",
            # A Ctrl-C is for those who use it.
            start_new_session=True,
        )
        # What it is told may hold secrets, which arguments would show to everyone.
        said, _ = process.communicate(json.dumps(asdict(options)).encode())
    answer = said.decode(errors="replace").strip()
    if answer == "ready":
        return
    if answer.startswith("{"):
        raise _errors.from_problem(answer.encode())
    tail = (Path(options.data_dir) / _LOG).read_text(errors="replace").splitlines()[-20:]
    raise _errors.NotReady("the keeper could not be started", log=tail)
