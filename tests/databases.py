"""Databases for tests: migrated once for each session, then copied for whoever needs a fresh one.

The ledger's triggers refuse DELETE and TRUNCATE, so Django's flush between transactional tests
can't work, and no test may weaken the triggers. A copy takes milliseconds instead: a PostgreSQL
template, or a copied SQLite file.
"""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar
from weakref import WeakSet

import psycopg
from asgiref.local import Local
from django.core.management import call_command
from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.signals import connection_created
from psycopg import sql

from bankproject import environment
from tests.servers import PostgresServer

ALIASES: Final = ("default", "relay")
TEMPLATE_NAME: Final = "template"
SHARED_NAME: Final = "shared"

Filling = TypeVar("Filling")


@dataclass(frozen=True)
class TestDatabases:
    """One pair of databases: the bank's (`default`) and the relay's (`relay`)."""

    __test__ = False

    vendor: str
    default_url: str
    relay_url: str
    data_folder: Path
    environment: dict[str, str] = field(init=False)
    """What a process needs in its environment to work on this pair, on any port of its own."""

    def __post_init__(self) -> None:
        """Derive the environment from the addresses."""
        variables = {
            "DJANGO_SETTINGS_MODULE": "bankproject.settings.development",
            "TELLERWIRE_DEBUG": "false",
            "TELLERWIRE_DATA_DIR": str(self.data_folder),
            "TELLERWIRE_DATABASE_URL": self.default_url,
            "TELLERWIRE_RELAY_DATABASE_URL": self.relay_url,
        }
        object.__setattr__(self, "environment", variables)

    def settings(self) -> dict[str, dict[str, Any]]:
        """Return Django's settings of both aliases."""
        urls = {"default": self.default_url, "relay": self.relay_url}
        return {
            alias: environment.database_from_url("TEST_DATABASE", url)
            for alias, url in urls.items()
        }


class DatabaseStore(Protocol):
    """Where pairs of databases are made, copied from the template, and dropped."""

    def make_template(self) -> None:
        """Migrate the template that copies are made from."""

    def copy(self, name: str, source: str = TEMPLATE_NAME) -> TestDatabases:
        """Return a new pair with the content of another one, to which nobody is connected."""

    def drop(self, name: str) -> None:
        """Remove the pair."""


class SqliteStore:
    """Pairs of SQLite files in one folder."""

    def __init__(self, folder: Path) -> None:
        """Keep the files in `folder`."""
        self._folder = folder

    def make_template(self) -> None:
        """Migrate two new files; closing their last connection folds the WAL into them."""
        _migrate(self._pair(TEMPLATE_NAME))

    def copy(self, name: str, source: str = TEMPLATE_NAME) -> TestDatabases:
        """Copy the files."""
        for alias in ALIASES:
            shutil.copyfile(self._file(source, alias), self._file(name, alias))
        return self._pair(name)

    def drop(self, name: str) -> None:
        """Remove the files and what SQLite put beside them."""
        for alias in ALIASES:
            path = self._file(name, alias)
            for suffix in ("", "-wal", "-shm", "-journal"):
                path.with_name(path.name + suffix).unlink(missing_ok=True)

    def _pair(self, name: str) -> TestDatabases:
        urls = {alias: f"sqlite:///{self._file(name, alias)}" for alias in ALIASES}
        return TestDatabases("sqlite", urls["default"], urls["relay"], self._folder)

    def _file(self, name: str, alias: str) -> Path:
        return self._folder / f"{name}-{alias}.sqlite3"


class PostgresqlStore:
    """Pairs of databases of one PostgreSQL server."""

    def __init__(self, server: PostgresServer, folder: Path) -> None:
        """Use `server`, and `folder` for what processes keep in files."""
        self._server = server
        self._folder = folder

    def make_template(self) -> None:
        """Migrate two new databases."""
        making = sql.SQL("CREATE DATABASE {}")
        self._execute(making.format(_name(TEMPLATE_NAME, alias)) for alias in ALIASES)
        _migrate(self._pair(TEMPLATE_NAME))

    def copy(self, name: str, source: str = TEMPLATE_NAME) -> TestDatabases:
        """Let the server copy its databases, file by file: twice as quick as page by page."""
        copying = sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY FILE_COPY")
        self._execute(copying.format(_name(name, alias), _name(source, alias)) for alias in ALIASES)
        return self._pair(name)

    def drop(self, name: str) -> None:
        """Drop both, and end the connections that processes of the test may have left."""
        dropping = sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)")
        self._execute(dropping.format(_name(name, alias)) for alias in ALIASES)

    def _pair(self, name: str) -> TestDatabases:
        urls = {alias: self._server.url(f"{name}_{alias}") for alias in ALIASES}
        return TestDatabases("postgresql", urls["default"], urls["relay"], self._folder)

    def _execute(self, statements: Iterable[sql.Composed]) -> None:
        with psycopg.connect(self._server.url(), autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement)


class DatabaseFactory:
    """Makes pairs of one vendor, each with a name of its own."""

    def __init__(self, store: DatabaseStore) -> None:
        """Migrate the store's template; the caller lets Django reach databases meanwhile."""
        self._store = store
        self._numbers = itertools.count(1)
        store.make_template()

    @contextmanager
    def fresh(self, source: str = TEMPLATE_NAME) -> Iterator[TestDatabases]:
        """Lead this process, every thread of it, to a new pair, and drop the pair afterwards.

        :param source: what the pair is a copy of, as :meth:`filled` has named it.
        """
        name = self._new_name()
        databases = self._store.copy(name, source)
        try:
            with led_to(databases):
                yield databases
        finally:
            self._store.drop(name)

    @contextmanager
    def filled(self, fill: Callable[[], Filling]) -> Iterator[tuple[str, Filling]]:
        """Give the name of a pair that is filled once, for :meth:`fresh`, and what filled it."""
        name = self._new_name()
        databases = self._store.copy(name)
        try:
            with led_to(databases):
                filling = fill()
            yield name, filling
        finally:
            self._store.drop(name)

    def _new_name(self) -> str:
        return f"{SHARED_NAME}_{next(self._numbers)}"


@contextmanager
def led_to(databases: TestDatabases) -> Iterator[None]:
    """Let Django's connections, those of other threads too, reach `databases` for a while.

    Connections are kept for each thread in `connections`; they are set aside as a whole, so that
    every thread makes new ones, and put back afterwards. What was opened meanwhile, in whichever
    thread, is closed: an open connection would keep a copy from being dropped.
    """
    opened: WeakSet[BaseDatabaseWrapper] = WeakSet()

    def remember(connection: BaseDatabaseWrapper, **_: object) -> None:
        opened.add(connection)

    handler: Any = connections  # the stubs leave out where Django keeps each thread's connections
    kept_settings, kept_connections = handler.settings, handler._connections
    handler.settings = handler.configure_settings(databases.settings())
    handler._connections = Local(handler.thread_critical)
    connection_created.connect(remember)
    try:
        yield
    finally:
        connection_created.disconnect(remember)
        for wrapper in list(opened):
            _close(wrapper)
        handler.settings = kept_settings
        handler._connections = kept_connections


def _close(wrapper: BaseDatabaseWrapper) -> None:
    wrapper.inc_thread_sharing()
    try:
        wrapper.in_atomic_block = False  # a thread that died inside one can't leave it any more
        wrapper.close()
    finally:
        wrapper.dec_thread_sharing()


def _migrate(databases: TestDatabases) -> None:
    with led_to(databases):
        for alias in ALIASES:
            call_command("migrate", database=alias, verbosity=0, interactive=False)


def _name(name: str, alias: str) -> sql.Identifier:
    return sql.Identifier(f"{name}_{alias}")
