"""Statements of the hot path, given to the driver itself over Django's connection.

Django's cursor looks at each statement in a dozen ways (its thread, wrappers, placeholders), which
for a batch of one order takes longer than the database does. Connections, transactions and the
translation of errors stay Django's; and whoever watches a connection, as
``CaptureQueriesContext`` does, sees these statements as well.

On PostgreSQL statements are prepared, so each is planned once for a connection and not once for a
batch, and those of one block travel together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, Final, Protocol

import psycopg
from django.db import DEFAULT_DB_ALIAS, connections
from django.db.backends.base.base import BaseDatabaseWrapper

__all__ = ["Cursor", "alone", "keep_plans", "start", "start_many", "together"]

PREPARE_AFTER: Final = 5
"""The driver's own default; what :func:`start` runs is prepared the first time in any case."""


class Cursor(Protocol):
    """A statement that was started."""

    def fetchall(self) -> list[tuple[Any, ...]]:
        """Return its rows, once."""


@contextmanager
def alone(using: str) -> Iterator[BaseDatabaseWrapper]:
    """Run a statement, or several of which each needs the result of the one before.

    Fetch inside the block; errors are Django's.
    """
    connection = connections[using]
    connection.ensure_connection()
    with connection.wrap_database_errors, _preparing(connection):
        yield connection


@contextmanager
def together(using: str) -> Iterator[BaseDatabaseWrapper]:
    """Run several statements; on PostgreSQL all are sent before the first one is answered.

    Start all of them, then fetch, inside the block. Errors come, as Django's, where a result is
    fetched, or else at the end of the block.
    """
    with alone(using) as connection:
        if connection.vendor == "postgresql":
            with connection.connection.pipeline():
                yield connection
        else:
            yield connection


@contextmanager
def _preparing(connection: BaseDatabaseWrapper) -> Iterator[None]:
    """Allow to prepare, for the length of a block.

    Django forbids it, and rightly for its own cursor: the driver would remember every text, and
    all values are part of those.
    """
    if connection.vendor != "postgresql":
        yield
        return
    driver = connection.connection
    driver.prepare_threshold = PREPARE_AFTER
    try:
        yield
    finally:
        driver.prepare_threshold = None


def start(connection: BaseDatabaseWrapper, sql: str, parameters: Sequence[Any] = ()) -> Cursor:
    """Start a statement, inside a block of :func:`alone` or :func:`together`.

    :param sql: with ``%s`` for each parameter, and no other percent sign that isn't doubled.
    """
    if _is_watched(connection):
        watched = connection.cursor()
        watched.execute(sql, parameters)
        return watched
    if connection.vendor == "postgresql":
        # Not Django's own cursor: that one writes the parameters into the text.
        return psycopg.Cursor(connection.connection).execute(sql, parameters, prepare=True)
    found: Cursor = connection.connection.execute(_question_marks(sql), parameters)
    return found


def start_many(connection: BaseDatabaseWrapper, sql: str, rows: Sequence[Sequence[Any]]) -> None:
    """Run a statement that returns nothing once for each row of parameters."""
    if _is_watched(connection):
        with connection.cursor() as watched:
            watched.executemany(sql, rows)
    elif connection.vendor == "postgresql":
        with psycopg.Cursor(connection.connection) as cursor:
            cursor.executemany(sql, rows)
    else:
        connection.connection.executemany(_question_marks(sql), rows)


def keep_plans(connection: BaseDatabaseWrapper, **_: object) -> None:
    """Let PostgreSQL plan what is prepared once, for tables of any size.

    A process that books all day connects this to ``connection_created``. Left to itself PostgreSQL
    takes a plan for the lists at hand to be cheaper than one for any lists, and plans five joins
    anew for every batch, which takes several times as long as running them. And a plan that was
    made while a table was short would go on reading all of it when it is long.
    """
    if connection.vendor == "postgresql" and connection.alias == DEFAULT_DB_ALIAS:
        with connection.cursor() as cursor:
            cursor.execute("SET plan_cache_mode = force_generic_plan")
            cursor.execute("SET enable_seqscan = off")


def _is_watched(connection: BaseDatabaseWrapper) -> bool:
    return bool(connection.queries_logged or connection.execute_wrappers)


@lru_cache
def _question_marks(sql: str) -> str:
    """Return SQL with the placeholders of SQLite's driver."""
    return sql.replace("%s", "?").replace("%%", "%")
