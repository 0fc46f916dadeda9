"""What a log says of an error: where it happened and which rule was broken, nothing of a row.

PostgreSQL puts the values of a row into an error's DETAIL ("Failing row contains (…)"), and in some
errors into the message itself. A log is read by more people than the database, and kept longer. So
of a database's error are written: its type, its code (SQLSTATE, or SQLite's name), the message
where that consists of names of the schema, the table, the column and the constraint.
"""

from __future__ import annotations

import logging
import sqlite3
import sys
import textwrap
import traceback
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Final

from django.db import Error as DjangoDatabaseError
from structlog.typing import EventDict, WrappedLogger

__all__ = ["InOneLine", "cut_details", "format_exception"]

ExceptionInfo = tuple[type[BaseException], BaseException, TracebackType | None]

DETAIL: Final = "\nDETAIL:"
_DATA_EXCEPTIONS: Final = "22"
"""The class of SQLSTATEs whose messages quote values, as in `invalid input syntax … "…"`."""


def format_exception(exc_info: ExceptionInfo) -> str:
    """Return the traceback as Python writes it, but for what database errors would tell."""
    return "".join(_lines(exc_info[1], set())).rstrip("\n")


def cut_details(_logger: WrappedLogger, _name: str, event: EventDict) -> EventDict:
    """Cut DETAIL, and what follows it, off texts that somebody has made from an error himself.

    Errors given as values are described as in a traceback. What :func:`format_exception` has
    written is left as it is.
    """
    for key, value in event.items():
        if isinstance(value, BaseException):
            event[key] = _last_line(value)
        elif isinstance(value, str) and key != "exception":
            event[key] = _without_detail(value)
    return event


class InOneLine(logging.Filter):
    """Tells the error itself in the place of its traceback.

    For a library that tells every second that a server is away: where that happened is no news.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Return that the line is written."""
        error = record.exc_info[1] if record.exc_info else None
        if error is not None:
            words = f"{record.getMessage().rstrip(':')}: {_last_line(error)}"
            record.msg, record.args, record.exc_info = words, (), None
        return True


def _lines(error: BaseException, seen: set[int]) -> Iterator[str]:
    """Yield the traceback of an error after those of the errors that led to it (PEP 3134)."""
    seen.add(id(error))
    earlier, joint = error.__cause__, "The above exception was the direct cause of the following"
    if earlier is None and not error.__suppress_context__:
        earlier, joint = error.__context__, "During handling of the above exception, another"
    if earlier is not None and id(earlier) not in seen:
        yield from _lines(earlier, seen)
        ending = "exception occurred:" if error.__cause__ is None else "exception:"
        yield f"\n{joint} {ending}\n\n"
    if error.__traceback__ is not None:
        yield "Traceback (most recent call last):\n"
        yield from traceback.format_tb(error.__traceback__)
    yield _last_line(error) + "\n"
    if isinstance(error, BaseExceptionGroup):
        for number, one in enumerate(error.exceptions, start=1):
            yield f"  +-- {number} of {len(error.exceptions)}\n"
            yield textwrap.indent("".join(_lines(one, seen)), "  | ")


def _last_line(error: BaseException) -> str:
    """Return an error's type and message."""
    if not _is_of_a_database(error):
        return _without_detail("".join(traceback.format_exception_only(error)).rstrip("\n"))
    words = "; ".join(_facts(error))
    name = f"{type(error).__module__}.{type(error).__qualname__}"
    return f"{name}: {words}" if words else name


def _is_of_a_database(error: BaseException) -> bool:
    return isinstance(error, (DjangoDatabaseError, sqlite3.Error)) or _is_of_postgresql(error)


def _is_of_postgresql(error: BaseException) -> bool:
    # Who has such an error has loaded the driver. Others would wait a quarter of a second for it.
    return isinstance(error, getattr(sys.modules.get("psycopg"), "Error", ()))


def _speaks_of_statements_alone(error: BaseException) -> bool:
    """Whether it is an error of the drivers themselves, of connections or of how they are used."""
    if isinstance(error, (sqlite3.InterfaceError, sqlite3.ProgrammingError)):
        return True
    if not _is_of_postgresql(error):
        return False
    driver = sys.modules["psycopg"]
    return isinstance(
        error, (driver.InterfaceError, driver.OperationalError, driver.ProgrammingError)
    )


def _facts(error: BaseException) -> Iterator[str]:
    """Yield what may be said of a database's error."""
    cause = error.__cause__
    if isinstance(error, DjangoDatabaseError) and cause is not None and _is_of_a_database(cause):
        # Django gives the driver's error its own type, and the driver's words.
        yield from _facts(cause)
    elif (diagnosis := _diagnosis(error)) is not None:
        yield from _facts_of_postgresql(diagnosis)
    elif isinstance(error, sqlite3.Error) and hasattr(error, "sqlite_errorname"):
        yield from (error.sqlite_errorname, _first_line(error))
    elif isinstance(error, DjangoDatabaseError) or _speaks_of_statements_alone(error):
        yield _first_line(error)


def _diagnosis(error: BaseException) -> Any:
    """Return what PostgreSQL itself said of an error; None if it was not the one who spoke."""
    diagnosis: Any = getattr(error, "diag", None) if _is_of_postgresql(error) else None
    return diagnosis if diagnosis is not None and diagnosis.sqlstate is not None else None


def _facts_of_postgresql(diagnosis: Any) -> Iterator[str]:
    yield diagnosis.sqlstate
    if diagnosis.message_primary and not diagnosis.sqlstate.startswith(_DATA_EXCEPTIONS):
        yield diagnosis.message_primary
    for meaning, name in (
        ("table", diagnosis.table_name),
        ("column", diagnosis.column_name),
        ("constraint", diagnosis.constraint_name),
    ):
        if name:
            yield f"{meaning} {name}"


def _without_detail(text: str) -> str:
    return text.partition(DETAIL)[0]


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0]
