"""Runs Django's own test command, as `python manage.py test` would."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import List

import pytest


@pytest.mark.parametrize("options", [[], ["--parallel=2"]])
def test_djangos_tests_run_on_a_snapshot(ondemand_dataset: str, options: List[str]) -> None:
    here = Path(__file__).with_name("django")
    ran = subprocess.run(
        [sys.executable, "-m", "django", "test", "--settings=settings", *options],
        cwd=here,
        env={**os.environ, "PYTHONPATH": str(here), "SHOP_DATASET": ondemand_dataset},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    assert "Ran 3 tests" in ran.stderr
