"""Shows it in one command: `python -m ondemand.demo`.

A dataset is built from a few lines of SQL, five databases are cloned from it at once, one is broken and taken back, and nothing is left. Nothing is
needed but Postgres: no server, no configuration.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator, List

import ondemand

_SQL = """
CREATE TABLE orders AS
    SELECT n AS id, n % 100 AS customer, repeat('x', 80) AS note FROM generate_series(1, {rows}) n;
CREATE INDEX ON orders (customer);
"""
# Bytes of a row with its index entry, roughly.
_ROW = 140


@contextmanager
def _timed(what: str) -> Iterator[None]:
    began = time.perf_counter()
    yield
    print(f"{what:<58}{time.perf_counter() - began:8.3f} s", flush=True)


def main() -> None:
    """Run the demonstration."""
    parser = argparse.ArgumentParser(prog="python -m ondemand.demo", description="Shows databases on demand.")
    parser.add_argument("--size", type=int, default=50, metavar="MB", help="how much data there is [default: 50]")
    size: int = parser.parse_args().size
    home = Path(tempfile.mkdtemp(prefix="ondemand-demo-", dir="/var/tmp"))
    # Postgres may run as another user, who has to pass through.
    home.chmod(0o711)
    # Nobody else uses this one, so it need not wait for others.
    os.environ["ONDEMAND_KEEPER_IDLE"] = "0.2"
    try:
        _show(ondemand.embedded(home / "data", config={"store": "copy"}), home, size)
    except ondemand.Error as error:
        sys.exit(f"error: {error}")
    finally:
        shutil.rmtree(home, ignore_errors=True)


def _show(od: ondemand.Ondemand, home: Path, size: int) -> None:
    with od:
        sql = home / "shop.sql"
        sql.write_text(_SQL.format(rows=size * 1_000_000 // _ROW))
        with _timed("a keeper is started, and asked what there is"):
            od.datasets.list()
        with _timed(f"a dataset of about {size} MB is built, once"):
            shop = ondemand.dataset_from(sql, od=od)
        with _timed("and found again"):
            assert ondemand.dataset_from(sql, od=od) == shop
        with _timed("a database of one's own"), od.pg_snapshot(shop) as db:
            print(f"  {db.url}")
        with ThreadPoolExecutor(5) as pool:
            with _timed("five more, at once"):
                five: List[ondemand.Database] = list(pool.map(lambda _: od.pg_snapshot(shop), range(5)))
            with _timed("one is taken back to its snapshot"):
                five[0].reset()
            with _timed("all five are deleted"):
                list(pool.map(lambda each: each.close(), five))
        print(f"left: {len(od.databases.list())} databases")
    deadline = time.monotonic() + 10
    while (home / "data" / "keeper.json").exists() and time.monotonic() < deadline:
        time.sleep(0.05)


if __name__ == "__main__":
    main()
