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
from typing import Any, Protocol

import psycopg
from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper

__all__ = ["Cursor", "start", "start_many", "together"]


class Cursor(Protocol):
    """A statement that was started."""

    def fetchall(self) -> list[tuple[Any, ...]]:
        """Return its rows, once."""


@contextmanager
def together(using: str) -> Iterator[BaseDatabaseWrapper]:
    """Run statements; on PostgreSQL all are sent before the first one is answered.

    Start all of them, then fetch, inside the block. Errors come, as Django's, where a result is
    fetched, or else at the end of the block.
    """
    connection = connections[using]
    connection.ensure_connection()
    with connection.wrap_database_errors:
        if connection.vendor == "postgresql":
            with connection.connection.pipeline():
                yield connection
        else:
            yield connection


def start(connection: BaseDatabaseWrapper, sql: str, parameters: Sequence[Any] = ()) -> Cursor:
    """Start a statement, inside a block of :func:`together`.

    :param sql: with ``%s`` for each parameter, and no other percent sign that isn't doubled.
    """
    if _is_watched(connection):
        watched: Cursor = connection.cursor()
        watched.execute(sql, parameters)  # type: ignore[attr-defined]  # only rows matter otherwise
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


def _is_watched(connection: BaseDatabaseWrapper) -> bool:
    return bool(connection.queries_logged or connection.execute_wrappers)


@lru_cache
def _question_marks(sql: str) -> str:
    """Return SQL with the placeholders of SQLite's driver."""
    return sql.replace("%s", "?").replace("%%", "%")
