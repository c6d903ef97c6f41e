"""The examples of the documentation are test suites that pass.

Slow: each is a pytest of its own, with servers of its own.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Place

EXAMPLES = Path(__file__).parents[2] / "examples" / "python"


@pytest.mark.parametrize("name", ["psycopg", "asyncpg", "sqlalchemy", "django"])
def test_it_passes(place: Place, name: str) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--import-mode=importlib", str(EXAMPLES / f"test_{name}.py")],
        env={**os.environ, **place.env, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert " passed" in ran.stdout and "skipped" not in ran.stdout
