"""What pip builds the package with (PEP 517): maturin, once the libraries are there that it links."""

from __future__ import annotations

import ctypes.util
import glob
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, List, Mapping, Optional

import maturin
from maturin import (
    build_sdist,
    get_requires_for_build_editable,
    get_requires_for_build_sdist,
    get_requires_for_build_wheel,
    prepare_metadata_for_build_editable,
    prepare_metadata_for_build_wheel,
)

__all__ = [
    "build_editable",
    "build_sdist",
    "build_wheel",
    "get_requires_for_build_editable",
    "get_requires_for_build_sdist",
    "get_requires_for_build_wheel",
    "prepare_metadata_for_build_editable",
    "prepare_metadata_for_build_wheel",
]

# The one that `make` installs with; an archive of the sources has none.
_INSTALL = Path(__file__).resolve().parents[2] / "tests" / "setup" / "packages.sh"


def build_wheel(
    wheel_directory: str, config_settings: Optional[Mapping[str, Any]] = None, metadata_directory: Optional[str] = None
) -> str:
    """Build the wheel."""
    _provide()
    built: str = maturin.build_wheel(wheel_directory, _for_any_machine(config_settings), metadata_directory)
    return built


def build_editable(
    wheel_directory: str, config_settings: Optional[Mapping[str, Any]] = None, metadata_directory: Optional[str] = None
) -> str:
    """Build the wheel that leads to the sources."""
    _provide()
    built: str = maturin.build_editable(wheel_directory, config_settings, metadata_directory)
    return built


def _for_any_machine(config_settings: Optional[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Make a wheel that holds libbtrfsutil, which maturin does not do for pip unless it is told to."""
    arguments = maturin.get_maturin_pep517_args(config_settings)
    if "--compatibility" not in arguments and "--manylinux" not in arguments:
        arguments = ["--compatibility", "pypi", *arguments]
    return {**(config_settings or {}), "build-args": arguments, "maturin.build-args": arguments}


def _provide() -> None:
    """Install what is missing, as `make` does, if this is root on Debian; else say what it is, and not only after minutes of compiling."""
    missing = _missing()
    if missing and os.geteuid() == 0 and _INSTALL.exists() and shutil.which("apt-get"):
        # Output goes where pip shows it if this fails.
        if subprocess.run([_INSTALL, "build"], stdin=subprocess.DEVNULL, stdout=sys.stderr).returncode == 0:
            missing = _missing()
    if missing:
        sys.exit(
            f"error: ondemand is built with {', '.join(missing)}, which this machine lacks\n"
            "hint: on Debian and Ubuntu: apt-get install gcc libc6-dev pkg-config libbtrfsutil-dev libclang-dev; "
            "on Fedora: dnf install gcc pkgconf libbtrfsutil-devel clang-devel"
        )


def _missing() -> List[str]:
    missing = []
    if not (os.environ.get("CC") or shutil.which("cc")):
        missing.append("a C compiler")
    if not shutil.which("pkg-config"):
        missing.append("pkg-config")
    # It is not found without the former.
    if "pkg-config" in missing or subprocess.run(["pkg-config", "--exists", "libbtrfsutil"]).returncode != 0:
        missing.append("libbtrfsutil")
    found = os.environ.get("LIBCLANG_PATH") or ctypes.util.find_library("clang")
    if not (found or glob.glob("/usr/lib/llvm-*/lib/libclang*.so*") or glob.glob("/usr/lib*/libclang.so*")):
        missing.append("libclang")
    return missing
