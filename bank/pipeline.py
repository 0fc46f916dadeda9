"""Statements for PostgreSQL that wait until somebody needs a result, and then travel together.

A booking of one order is nine statements. Sent one by one they are nine trips to another process,
and the driver's own cursor takes Python longer over each than the database does. Here they are
given to libpq itself (``psycopg.pq``), in its pipeline mode: all that has been started goes out in
one message, and each is prepared once for a connection.

What is sent is what the driver would send: numbered parameters as text, results in binary, read by
the driver's own loaders. Errors are the driver's, and Django's once they leave the block.
"""

from __future__ import annotations

import importlib
import select
import uuid
from collections.abc import Sequence
from datetime import date
from functools import cache, lru_cache
from itertools import count
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakKeyDictionary

__all__ = ["Pipeline"]

BEGIN: Final = "BEGIN"
COMMIT: Final = "COMMIT"

_BINARY: Final = 1
_LOST: Final = "the connection to the database was lost"

_numbers: Final = count()
_names_by_driver: Final[WeakKeyDictionary[psycopg.Connection[Any], dict[str, bytes]]] = (
    WeakKeyDictionary()
)
"""What each connection has prepared: the name of every statement, by its text."""

if TYPE_CHECKING:
    import psycopg
else:

    class _Driver:
        """The driver, loaded when something of it is asked for.

        On SQLite that is never, and every command starts a fifth sooner.
        """

        def __getattr__(self, name):
            found = getattr(importlib.import_module("psycopg"), name)
            setattr(self, name, found)
            return found

    psycopg = _Driver()


class Pipeline:
    """What was started on one connection and has not been sent yet.

    Nothing else may use the connection between :meth:`start` and the result; nothing needs closing.
    """

    def __init__(self, driver: psycopg.Connection[Any]) -> None:
        self._driver = driver
        self._libpq = driver.pgconn
        self._names = _names_by_driver.setdefault(driver, {})
        self._started: list[Started] = []

    def start(self, sql: str, parameters: Sequence[Any] = ()) -> Started:
        """Start a statement; it is sent with the next result that somebody asks for.

        :param sql: with ``%s`` for each parameter, and no other percent sign that isn't doubled.
        :raises psycopg.DataError: a parameter can't be said to PostgreSQL.
        """
        if not self._started and sql != BEGIN and self._must_begin():
            self._started.append(Started(self, BEGIN, ()))
        started = Started(self, sql, parameters)
        self._started.append(started)
        return started

    def start_many(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        """Start a statement that returns nothing once for each row of parameters."""
        for row in rows:
            self.start(sql, row)

    def finish(self) -> None:
        """Send whatever waits, and wait until all of it was done.

        :raises psycopg.Error: what the first statement that failed met; those after it were not
            done.
        """
        batch, self._started = self._started, []
        if not batch:
            return
        try:
            self._libpq.enter_pipeline_mode()
            for started in batch:
                self._send(started)
            self._libpq.pipeline_sync()
            failure = self._receive(batch)
            self._libpq.exit_pipeline_mode()
        except BaseException:
            # Nobody knows what is still under way: what comes next needs another connection.
            self._driver.close()
            raise
        if failure is not None:
            raise failure

    def _must_begin(self) -> bool:
        """Whether Django has begun a transaction and the driver not yet told the database."""
        idle = self._libpq.transaction_status == psycopg.pq.TransactionStatus.IDLE
        return idle and not self._driver.autocommit

    def _send(self, started: Started) -> None:
        sql = started.sql
        name = self._names.get(sql)
        if name is None:
            # Were it to fail, it is prepared again under another name: nothing is replaced.
            name = b"tellerwire_%d" % next(_numbers)
            self._libpq.send_prepare(name, _numbered(sql))
            started.prepares = name
            self._names[sql] = name
        self._libpq.send_query_prepared(name, started.parameters, result_format=_BINARY)

    def _receive(self, batch: list[Started]) -> psycopg.Error | None:
        """Take every result; return what the first statement that failed met."""
        failure: psycopg.Error | None = None
        for started in batch:
            for preparing in (True, False) if started.prepares else (False,):
                result = self._next_result()
                if result.status in _failures():
                    if preparing:
                        self._names.pop(started.sql, None)
                    if failure is None:
                        failure = psycopg.errors.error_from_result(result)
                elif not preparing:
                    started.result = result
        while self._next_result().status != psycopg.pq.ExecStatus.PIPELINE_SYNC:
            pass
        return failure

    def _next_result(self) -> psycopg.pq.abc.PGresult:
        """Wait for the next result; in between, libpq has None for the end of a statement."""
        libpq = self._libpq
        while True:
            while libpq.is_busy():
                self._wait()
            result = libpq.get_result()
            if result is not None:
                return result
            if libpq.status == psycopg.pq.ConnStatus.BAD:
                raise psycopg.OperationalError(_LOST)

    def _wait(self) -> None:
        """Write what is left to be written, and wait until there is something to read."""
        unwritten = self._libpq.flush()
        wanted = select.POLLIN | (select.POLLOUT if unwritten else 0)
        poll = select.poll()
        poll.register(self._libpq.socket, wanted)
        ((_, ready),) = poll.poll()
        if ready & ~select.POLLOUT:
            self._libpq.consume_input()

    def load(self, result: psycopg.pq.abc.PGresult) -> list[tuple[Any, ...]]:
        """Return the rows of a result, each value as the driver would give it."""
        transformer = psycopg.adapt.Transformer(self._driver)
        transformer.set_pgresult(result)
        return transformer.load_rows(0, result.ntuples, tuple)


class Started:
    """A statement that waits to be sent, or was."""

    __slots__ = ("_pipeline", "parameters", "prepares", "result", "sql")

    def __init__(self, pipeline: Pipeline, sql: str, parameters: Sequence[Any]) -> None:
        self._pipeline = pipeline
        self.sql = sql
        self.parameters: Final = [_as_text(value) for value in parameters]
        self.prepares: bytes | None = None
        self.result: psycopg.pq.abc.PGresult | None = None

    def fetchall(self) -> list[tuple[Any, ...]]:
        """Return its rows; the first one that is asked sends all that was started.

        :raises psycopg.Error: it, or one that was started before it, failed.
        """
        if self.result is None:
            self._pipeline.finish()
        assert self.result is not None  # otherwise finishing has failed
        return self._pipeline.load(self.result)


@cache
def _failures() -> frozenset[int]:
    """Return the states of a result that is none."""
    states = psycopg.pq.ExecStatus
    return frozenset({states.FATAL_ERROR, states.BAD_RESPONSE, states.PIPELINE_ABORTED})


@lru_cache
def _numbered(sql: str) -> bytes:
    """Return SQL with PostgreSQL's own placeholders."""
    first, *others = sql.split("%s")
    numbered = (f"${number}{part}" for number, part in enumerate(others, 1))
    return "".join([first, *numbered]).replace("%%", "%").encode()


def _as_text(value: Any) -> bytes | None:
    """Return a parameter as PostgreSQL reads it."""
    if value is None:
        return None
    text = _text(value).encode()
    if b"\0" in text:
        # libpq would end the value there, without a word.
        raise psycopg.DataError("a text for PostgreSQL can't contain NUL (0x00)")
    return text


def _text(value: Any) -> str:
    match value:
        case str():
            return value
        case bool():
            return "true" if value else "false"
        case int() | uuid.UUID():
            return str(value)
        case bytes():
            return f"\\x{value.hex()}"
        case psycopg.Binary():
            return _text(value.obj)
        case date():  # or datetime
            return value.isoformat()
        case list():
            return f"{{{','.join(map(_element, value))}}}"
    raise TypeError(f"no parameter of a statement: {type(value).__name__}")


def _element(value: Any) -> str:
    """Return an element of an array; in quotes nothing but quotes and backslashes is special."""
    text = _text(value)
    if not isinstance(value, str):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
