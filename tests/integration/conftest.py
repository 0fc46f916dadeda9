"""Fixtures that start real processes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.databases import TestDatabases
from tests.integration.processes import Start, servers


@pytest.fixture
def start(fresh_databases: TestDatabases, tmp_path: Path) -> Iterator[Start]:
    """Start servers on this test's databases: `start(kind=, relay=, extra=)`."""
    with servers(fresh_databases.environment, tmp_path) as starter:
        yield starter
