"""A test runner that takes a snapshot instead of making a database and running all migrations."""

from __future__ import annotations

from typing import Any, List, Tuple

from django.core.management import call_command
from django.db import connections
from django.test.runner import DiscoverRunner, ParallelTestSuite

import ondemand


def take() -> ondemand.Database:
    """Points Django to a snapshot."""
    connection = connections["default"]
    connection.close()
    snapshot = ondemand.pg_snapshot(connection.settings_dict["TEST"].get("ONDEMAND_DATASET"))
    connection.settings_dict.update(
        HOST=snapshot.host,
        PORT=str(snapshot.port),
        USER=snapshot.user,
        PASSWORD=snapshot.password,
        NAME=snapshot.dbname,
    )
    # Those that came after the snapshot was made.
    call_command("migrate", verbosity=0, interactive=False)
    return snapshot


def begin(*_: Any, **__: Any) -> None:
    """Gives a process of `--parallel` a snapshot of its own. It is deleted when the process ends."""
    global of_this_process
    of_this_process = take()


class SnapshotSuite(ParallelTestSuite):
    """Runs classes of tests in processes that were forked from this one."""

    init_worker = begin


class SnapshotRunner(DiscoverRunner):
    """To be named by TEST_RUNNER. The database is the one whose settings have `ONDEMAND_DATASET` among their options of TEST."""

    parallel_test_suite = SnapshotSuite
    snapshot: ondemand.Database

    def setup_databases(self, **kwargs: Any) -> List[Tuple[Any, str, bool]]:
        self.snapshot = take()
        return []

    def teardown_databases(self, old_config: List[Tuple[Any, str, bool]], **kwargs: Any) -> None:
        connections.close_all()
        self.snapshot.close()
