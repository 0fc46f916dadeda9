"""Fixtures that every test may use: real databases, and a real Redis.

The vendor is chosen by TELLERWIRE_TEST_DATABASE (`sqlite`, the default, or `postgresql`). A server
that can't be started is an error; nothing is skipped.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest
from django.conf import settings
from pytest_django.plugin import DjangoDbBlocker

from tests.databases import DatabaseFactory, PostgresqlStore, SqliteStore, TestDatabases
from tests.servers import PostgresServer, RedisServer

FLUSHING_FIXTURES = {
    "transactional_db",
    "live_server",
    "django_db_reset_sequences",
    "django_db_serialized_rollback",
}
SLOW_FOLDERS = ("faults", "bankproject", "integration", "attacks")
"""Those whose tests start processes: run first, so that no worker has one left at the end."""


def pytest_configure() -> None:
    """Let Ctrl-C mean something in what tests start, though they may run in the background.

    A shell starts what it puts there with SIGINT ignored, and all that starts from it inherits it.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put slow tests first; refuse those after which Django would empty the ledger's tables."""
    items.sort(key=lambda item: item.path.parent.name not in SLOW_FOLDERS)  # which is stable
    for item in items:
        mark = item.get_closest_marker("django_db")
        flushes = mark is not None and mark.kwargs.get("transaction", False)
        if flushes or FLUSHING_FIXTURES & set(getattr(item, "fixturenames", ())):
            raise pytest.UsageError(
                f"{item.nodeid}: a flush can't empty the ledger; use `fresh_databases`."
            )


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A running PostgreSQL, whichever vendor the session is for."""
    with PostgresServer() as server:
        yield server


@pytest.fixture(scope="session")
def postgres_url(postgres_server: PostgresServer) -> str:
    """The URL of that server's maintenance database, with a superuser's rights."""
    return postgres_server.url()


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """The URL of a running Redis."""
    with RedisServer() as server:
        yield server.url


@pytest.fixture(scope="session")
def _postgresql_factory(
    postgres_server: PostgresServer,
    django_test_environment: None,
    django_db_blocker: DjangoDbBlocker,
    tmp_path_factory: pytest.TempPathFactory,
) -> DatabaseFactory:
    with django_db_blocker.unblock():
        return DatabaseFactory(PostgresqlStore(postgres_server, tmp_path_factory.mktemp("data")))


@pytest.fixture(scope="session")
def _sqlite_factory(
    django_test_environment: None,
    django_db_blocker: DjangoDbBlocker,
    tmp_path_factory: pytest.TempPathFactory,
) -> DatabaseFactory:
    with django_db_blocker.unblock():
        return DatabaseFactory(SqliteStore(tmp_path_factory.mktemp("databases")))


@pytest.fixture(scope="session")
def database_vendor() -> str:
    """The vendor that this session's tests run on: `sqlite` or `postgresql`."""
    vendor: str = settings.TEST_DATABASE
    return vendor


@pytest.fixture(scope="session")
def database_factory(request: pytest.FixtureRequest, database_vendor: str) -> DatabaseFactory:
    """What makes pairs of databases of the session's vendor."""
    factory: DatabaseFactory = request.getfixturevalue(f"_{database_vendor}_factory")
    return factory


@pytest.fixture(scope="session")
def django_db_setup(database_factory: DatabaseFactory) -> Iterator[None]:
    """Give the tests that roll back (`django_db`) one pair for the session.

    It takes the place of pytest-django's fixture of that name, which would migrate once more.
    """
    with database_factory.fresh():
        yield


@pytest.fixture
def fresh_databases(
    request: pytest.FixtureRequest,
    database_factory: DatabaseFactory,
    django_db_blocker: DjangoDbBlocker,
) -> Iterator[TestDatabases]:
    """A pair of the session's vendor for this test alone: it may commit, from any thread.

    Processes reach the same pair with `fresh_databases.environment` in their environment.
    """
    yield from _fresh(request, database_factory, django_db_blocker)


@pytest.fixture(scope="module")
def module_databases(
    database_factory: DatabaseFactory, django_db_blocker: DjangoDbBlocker
) -> Iterator[TestDatabases]:
    """A pair of databases that the tests of one module share."""
    with django_db_blocker.unblock(), database_factory.fresh() as databases:
        yield databases


@pytest.fixture
def postgres_databases(
    request: pytest.FixtureRequest,
    _postgresql_factory: DatabaseFactory,
    django_db_blocker: DjangoDbBlocker,
) -> Iterator[TestDatabases]:
    """The same on PostgreSQL, whichever vendor the session is for: races are about its locks."""
    yield from _fresh(request, _postgresql_factory, django_db_blocker)


def _fresh(
    request: pytest.FixtureRequest, factory: DatabaseFactory, blocker: DjangoDbBlocker
) -> Iterator[TestDatabases]:
    if "db" in request.fixturenames or request.node.get_closest_marker("django_db"):
        raise pytest.UsageError("a test with a pair of its own can't also roll back another one")
    with blocker.unblock(), factory.fresh() as databases:
        yield databases
