"""What pip builds the package with, on machines that lack something.

Slow: packages are built, in environments of their own.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Tuple

import pytest

PEP517 = Path(__file__).parents[1] / "pep517"
ASK = "import backend; print(backend._missing())"
BUILD = "import backend; backend.maturin.build_wheel = lambda *_: 'it.whl'; print(backend.build_wheel('.'))"


def run(program: str, path: Path, **env: str) -> "subprocess.CompletedProcess[str]":
    """Run a program of the backend where these are all commands there are."""
    return subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONPATH": str(PEP517), "PATH": str(path), "LIBCLANG_PATH": "/somewhere", **env},
        capture_output=True,
        text=True,
    )


@pytest.fixture
def commands(tmp_path: Path) -> Path:
    """All that is needed, as far as the backend can see."""
    for name in ("cc", "pkg-config"):
        command(tmp_path, name, "exit 0")
    return tmp_path


def command(path: Path, name: str, body: str) -> None:
    (path / name).write_text(f"#!/bin/sh\n{body}\n")
    (path / name).chmod(0o755)


@pytest.mark.parametrize(
    "name, missing", [("cc", ("a C compiler",)), ("pkg-config", ("pkg-config", "libbtrfsutil"))]
)
def test_it_knows_what_is_missing(commands: Path, name: str, missing: Tuple[str, ...]) -> None:
    assert run(ASK, commands).stdout == "[]\n"
    (commands / name).unlink()
    assert run(ASK, commands).stdout == f"{list(missing)}\n"


def test_what_is_missing_is_told_before_anything_is_built(commands: Path) -> None:
    assert run(BUILD, commands).stdout == "it.whl\n"
    command(commands, "pkg-config", "exit 1")
    ran = run(BUILD, commands)
    assert ran.returncode == 1 and ran.stdout == ""
    assert ran.stderr.startswith("error: ondemand is built with libbtrfsutil, which this machine lacks\nhint: ")
    assert "apt-get install" in ran.stderr


def test_an_archive_of_the_sources_can_be_built(tmp_path: Path) -> None:
    def backend(call: str, cwd: Path) -> str:
        program = f"import sys; sys.path.insert(0, 'pep517'); import backend; backend.{call}(sys.argv[1])"
        # All that it takes was fetched when the package was built.
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        env = {**os.environ, "CARGO_NET_OFFLINE": "true", "PATH": path}
        ran = subprocess.run([sys.executable, "-c", program, str(tmp_path)], cwd=cwd, env=env, capture_output=True, text=True)
        assert ran.returncode == 0, ran.stdout + ran.stderr
        return ran.stdout

    backend("build_sdist", PEP517.parent)
    (archive,) = tmp_path.glob("*.tar.gz")
    # Newer Pythons want to be told how to unpack, and older ones know no such word.
    subprocess.run(["tar", "-C", str(tmp_path), "-xzf", str(archive)], check=True)
    backend("prepare_metadata_for_build_wheel", tmp_path / archive.name[: -len(".tar.gz")])
    (made,) = tmp_path.glob("*.dist-info")
    assert "Name: ondemand\n" in (made / "METADATA").read_text()


def test_a_wheel_is_for_any_machine_unless_told_otherwise() -> None:
    said = "import backend; print(backend._for_any_machine({})['build-args'])"
    assert run(said, Path("/usr/bin")).stdout == "['--compatibility', 'pypi']\n"
    own = run(said, Path("/usr/bin"), MATURIN_PEP517_ARGS="--compatibility off --locked")
    assert own.stdout == "['--compatibility', 'off', '--locked']\n"
