"""A test runner that takes a snapshot instead of making a database and running all migrations."""

from __future__ import annotations

from typing import Any, List, Tuple

from django.core.management import call_command
from django.db import connections
from django.test.runner import DiscoverRunner

import ondemand


class SnapshotRunner(DiscoverRunner):
    """To be named by TEST_RUNNER. The database is the one whose settings have `ONDEMAND_DATASET` among their options of TEST."""

    snapshot: ondemand.Database

    def setup_databases(self, **kwargs: Any) -> List[Tuple[Any, str, bool]]:
        connection = connections["default"]
        connection.close()
        self.snapshot = ondemand.pg_snapshot(connection.settings_dict["TEST"].get("ONDEMAND_DATASET"))
        connection.settings_dict.update(
            HOST=self.snapshot.host,
            PORT=str(self.snapshot.port),
            USER=self.snapshot.user,
            PASSWORD=self.snapshot.password,
            NAME=self.snapshot.dbname,
        )
        # Those that came after the snapshot was made.
        call_command("migrate", verbosity=0, interactive=False)
        return []

    def teardown_databases(self, old_config: List[Tuple[Any, str, bool]], **kwargs: Any) -> None:
        connections.close_all()
        self.snapshot.close()
