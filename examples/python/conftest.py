"""What all examples share: a dataset that is built once, and used by every run after that."""

from __future__ import annotations

from pathlib import Path

import pytest

import ondemand


@pytest.fixture(scope="session")
def ondemand_dataset(ondemand_client: ondemand.Ondemand) -> str:
    return ondemand.dataset_from(Path(__file__).with_name("schema.sql"), od=ondemand_client)
