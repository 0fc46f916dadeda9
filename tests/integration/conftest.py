"""Fixtures that start real processes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.databases import TestDatabases
from tests.integration.chain import Chain, running_chain
from tests.integration.processes import RunningServer, servers, start
from tests.integration.shared_relay import forget_clients

__all__ = ["start"]


@pytest.fixture(scope="module")
def _module_server(
    module_databases: TestDatabases, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningServer]:
    bounds = {"ALLOWED_ORIGINS": ["https://bank.example"], "SWEEP_SECONDS": 0.3}
    with servers(module_databases.environment, tmp_path_factory.mktemp("server")) as starter:
        yield starter(relay=bounds)


@pytest.fixture
def relay_server(_module_server: RunningServer) -> RunningServer:
    """A running server whose relay knows nobody; the tests of a module share the process."""
    forget_clients(_module_server)
    return _module_server


@pytest.fixture(scope="module")
def chain(
    module_databases: TestDatabases, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Chain]:
    """A relay, a bank and customers that the tests of one module share."""
    with running_chain(module_databases, tmp_path_factory.mktemp("chain")) as running:
        yield running
