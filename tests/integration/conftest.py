"""Fixtures that start real processes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from pytest_django.plugin import DjangoDbBlocker

from relay.models import Client, Mail, StoredStatus
from tests.databases import DatabaseFactory, TestDatabases
from tests.integration.chain import Chain, running_chain
from tests.integration.processes import RunningServer, Start, servers

LEAVE_SECONDS_MAX: Final = 20.0


@pytest.fixture(scope="module")
def _module_databases(
    _session_factory: DatabaseFactory, django_db_blocker: DjangoDbBlocker
) -> Iterator[TestDatabases]:
    with django_db_blocker.unblock(), _session_factory.fresh() as databases:
        yield databases


@pytest.fixture(scope="module")
def _module_server(
    _module_databases: TestDatabases, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningServer]:
    bounds = {"ALLOWED_ORIGINS": ["https://bank.example"], "SWEEP_SECONDS": 0.3}
    with servers(_module_databases.environment, tmp_path_factory.mktemp("server")) as starter:
        yield starter(relay=bounds)


@pytest.fixture
def relay_server(_module_server: RunningServer) -> RunningServer:
    """A running server whose relay knows nobody; the tests of a module share the process."""
    deadline = time.monotonic() + LEAVE_SECONDS_MAX
    while _module_server.relay_connections:
        assert time.monotonic() < deadline, "a test left connections behind"
        time.sleep(0.01)
    for model in (Mail, StoredStatus, Client):
        model.objects.all().delete()
    return _module_server


@pytest.fixture
def start(fresh_databases: TestDatabases, tmp_path: Path) -> Iterator[Start]:
    """Start servers on this test's databases: `start(kind=, relay=, extra=)`."""
    with servers(fresh_databases.environment, tmp_path) as starter:
        yield starter


@pytest.fixture(scope="module")
def chain(
    _session_factory: DatabaseFactory,
    django_db_blocker: DjangoDbBlocker,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Chain]:
    """A relay, a bank and customers that the tests of one module share."""
    with (
        django_db_blocker.unblock(),
        _session_factory.fresh() as databases,
        running_chain(databases, tmp_path_factory.mktemp("chain")) as running,
    ):
        yield running
