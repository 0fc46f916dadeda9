"""Statements of the hot path, given to the driver itself over Django's connection.

Django's cursor looks at each statement in a dozen ways (its thread, wrappers, placeholders), which
for a batch of one order takes longer than the database does. Connections and the translation of
errors stay Django's; and whoever watches a connection, as ``CaptureQueriesContext`` does, sees
these statements as well.

A :class:`Conversation` starts statements and fetches what they return. On SQLite each is done at
once. On PostgreSQL those that nobody needs a result of yet wait, and travel with the next one that
somebody does (:mod:`bank.pipeline`); so a transaction begins with its first statements, and
commits with its last.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, Final, Protocol

from django.db import DEFAULT_DB_ALIAS, DatabaseError, connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper

from bank.database_faults import Fault, fault_of, is_refusal
from bank.errors import OutcomeUnknownError
from bank.pipeline import BEGIN, COMMIT, Pipeline

__all__ = ["Conversation", "Cursor", "booking", "conversation", "keep_plans"]


class Cursor(Protocol):
    """A statement that was started."""

    def fetchall(self) -> list[tuple[Any, ...]]:
        """Return its rows, once."""


class Statements(Protocol):
    """Whoever carries statements to one kind of database."""

    def start(self, sql: str, parameters: Sequence[Any] = ()) -> Cursor:
        """Start a statement, with ``%s`` for each parameter and every other percent sign doubled.

        A failure is raised here, where a result is fetched, or by :meth:`finish`.
        """

    def start_many(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        """Start a statement that returns nothing once for each row of parameters."""

    def finish(self) -> None:
        """Wait until everything that was started is done."""


class Conversation:
    """Statements on one of Django's connections, inside a block of this module."""

    def __init__(self, connection: BaseDatabaseWrapper) -> None:
        self.connection: Final = connection
        self.vendor: Final[str] = connection.vendor
        self._statements: Final = _statements_for(connection)
        self.start: Final = self._statements.start
        self.start_many: Final = self._statements.start_many
        self.finish: Final = self._statements.finish


@contextmanager
def conversation(using: str) -> Iterator[Conversation]:
    """Hold a conversation within whatever transaction is open.

    Fetch inside the block; errors are Django's.
    """
    connection = connections[using]
    connection.ensure_connection()
    with connection.wrap_database_errors:
        talk = Conversation(connection)
        yield talk
        talk.finish()


@contextmanager
def booking(using: str) -> Iterator[Conversation]:
    """Hold a conversation in a transaction of its own, committed at the end of the block.

    :raises OutcomeUnknownError: the connection was lost while it committed; it is closed.
    """
    committing = False
    connection = connections[using]
    connection.ensure_connection()
    try:
        with _transaction(connection) as talk:
            yield talk
            committing = True
    except DatabaseError as error:
        if committing and fault_of(error) is Fault.DISCONNECTED and not is_refusal(error):
            connection.close()
            raise OutcomeUnknownError from error
        raise


@contextmanager
def _transaction(connection: BaseDatabaseWrapper) -> Iterator[Conversation]:
    """Do what Django's ``atomic`` does, without what only blocks inside of blocks need."""
    if _is_watched(connection) or connection.in_atomic_block:
        using = connection.alias
        with transaction.atomic(using=using, durable=True), conversation(using) as talk:
            yield talk
        return
    with connection.wrap_database_errors:
        talk = Conversation(connection)
        talk.start(_begin(connection))
        connection.autocommit = False  # so that Django knows of the transaction, too
        try:
            yield talk
            talk.start(COMMIT)
            talk.finish()
        except BaseException:
            _roll_back(connection)
            raise
        finally:
            connection.autocommit = True


def _begin(connection: BaseDatabaseWrapper) -> str:
    mode = getattr(connection, "transaction_mode", None)  # a setting that SQLite has
    return f"{BEGIN} {mode}" if mode else BEGIN


def _roll_back(connection: BaseDatabaseWrapper) -> None:
    driver = connection.connection
    if _is_piped(connection) and driver.closed:
        connection.close()
    else:
        driver.rollback()


def keep_plans(connection: BaseDatabaseWrapper, **_: object) -> None:
    """Let PostgreSQL plan what is prepared once, for tables of any size.

    A process that books all day connects this to ``connection_created``. Left to itself PostgreSQL
    takes a plan for the lists at hand to be cheaper than one for any lists, and plans five joins
    anew for every batch, which takes several times as long as running them. And a plan that was
    made while a table was short would go on reading all of it when it is long, by itself, to join
    it, or to keep a copy of it for that.
    """
    if connection.vendor == "postgresql" and connection.alias == DEFAULT_DB_ALIAS:
        with connection.cursor() as cursor:
            cursor.execute("SET plan_cache_mode = force_generic_plan")
            for costly in ("seqscan", "hashjoin", "mergejoin", "material"):
                cursor.execute(f"SET enable_{costly} = off")


def _statements_for(connection: BaseDatabaseWrapper) -> Statements:
    if _is_piped(connection):
        return Pipeline(connection.connection)
    return _Watched(connection) if _is_watched(connection) else _Direct(connection)


def _is_piped(connection: BaseDatabaseWrapper) -> bool:
    return connection.vendor == "postgresql" and not _is_watched(connection)


def _is_watched(connection: BaseDatabaseWrapper) -> bool:
    return bool(connection.queries_logged or connection.execute_wrappers)


class _Direct:
    """Statements given to SQLite's driver, each done at once."""

    def __init__(self, connection: BaseDatabaseWrapper) -> None:
        self._driver = connection.connection

    def start(self, sql: str, parameters: Sequence[Any] = ()) -> Cursor:
        found: Cursor = self._driver.execute(_question_marks(sql), parameters)
        return found

    def start_many(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        self._driver.executemany(_question_marks(sql), rows)

    def finish(self) -> None:
        """Nothing waits."""


class _Watched:
    """Statements given to Django's cursor, because somebody wants to see them."""

    def __init__(self, connection: BaseDatabaseWrapper) -> None:
        self._connection = connection

    def start(self, sql: str, parameters: Sequence[Any] = ()) -> Cursor:
        watched = self._connection.cursor()
        watched.execute(sql, parameters)
        return watched

    def start_many(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        with self._connection.cursor() as watched:
            watched.executemany(sql, rows)

    def finish(self) -> None:
        """Nothing waits."""


@lru_cache
def _question_marks(sql: str) -> str:
    """Return SQL with the placeholders of SQLite's driver."""
    return sql.replace("%s", "?").replace("%%", "%")
