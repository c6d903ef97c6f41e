"""The demonstration.

Slow: it makes data, imports them and runs several databases.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_it_shows_everything_and_leaves_nothing() -> None:
    before = set(Path("/var/tmp").glob("ondemand-demo-*"))
    ran = subprocess.run([sys.executable, "-m", "ondemand.demo", "--size", "5"], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    lines = ran.stdout.splitlines()
    assert lines[-1] == "left: 0 databases"
    assert sum(line.endswith(" s") for line in lines) == 7, ran.stdout
    assert set(Path("/var/tmp").glob("ondemand-demo-*")) == before
