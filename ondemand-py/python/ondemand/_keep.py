"""The program that a keeper is; `ondemand._keeper` starts it."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import sys
import time
from pathlib import Path

from . import _native
from ._keeper import ALIVE, INFO, Options


_PATIENCE = 10.0


def main() -> None:
    """Be a keeper."""
    options = Options(**json.load(sys.stdin))
    # Whoever started this waits for its end, and need not reap a process that lives on.
    if os.fork() != 0:
        os._exit(0)
    home = Path(options.data_dir)
    alive = open(home / ALIVE, "a")  # noqa: SIM115 - it is held until the process ends
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            fcntl.flock(alive, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            # Whoever looks whether it is locked has it for a moment.
            if time.monotonic() > deadline:
                _tell(_problem(f"another process holds {home / ALIVE}"))
                return
            time.sleep(0.001)
    token = secrets.token_hex(32)
    info = home / INFO

    def ready(address: str) -> None:
        content = {"url": f"http://{address}", "token": token, "pid": os.getpid(), "version": _native.VERSION}
        new = home / f"{INFO}.new"
        with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            json.dump(content, file)
        new.rename(info)
        _tell("ready")

    config = {
        **options.config,
        "data-dir": options.data_dir,
        "http": {**options.config.get("http", {}), "listen": "127.0.0.1:0", "token": token},
        "proxy": {"enabled": False, **options.config.get("proxy", {})},
    }
    problem = _native.keep(json.dumps(config), options.idle, ready)
    info.unlink(missing_ok=True)
    if problem is not None:
        print(problem, file=sys.stderr)
        _tell(problem)


def _problem(detail: str) -> str:
    return json.dumps({"code": "conflict", "detail": detail, "hint": "let it end, or name another data directory"})


def _tell(text: str) -> None:
    """Answer whoever started this, if nobody was answered yet."""
    try:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.close(null)
    except OSError:
        pass
