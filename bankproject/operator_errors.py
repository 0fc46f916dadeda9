"""What an operator is told, in a sentence instead of a traceback, when a command can't run.

That is about what stands around a command: settings and databases. What a command itself refuses
it says itself.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from django.core.exceptions import ImproperlyConfigured
from django.core.serializers.base import DeserializationError
from django.db import Error, InterfaceError, OperationalError

__all__ = ["told_in_words"]

# PostgreSQL's SQLSTATEs: undefined table, undefined column.
_UNMIGRATED_STATES: Final = frozenset({"42P01", "42703"})
_UNMIGRATED_SQLITE: Final = ("no such table", "no such column", "has no column")


@contextmanager
def told_in_words(arguments: Sequence[str] = ()) -> Iterator[None]:
    """Run a command; where settings or a database stop it, say so and exit with status 1.

    :param arguments: the command line behind the program's name. With ``--traceback``, which every
        command of Django takes, the error is raised as it is.
    """
    try:
        yield
    except (ImproperlyConfigured, Error, DeserializationError) as error:
        if "--traceback" in arguments:
            raise
        words = str(error) if isinstance(error, ImproperlyConfigured) else _of_a_database(error)
        if list(arguments[:1]) == ["loaddata"]:
            words += (
                "\nNothing was loaded. The demo bank, or another whole bank, goes into an empty "
                "database that is migrated."
            )
        sys.exit(words)


def _of_a_database(error: Exception) -> str:
    """Return what a database said, without the lines that may quote a row, and what to do."""
    said = str(error).partition("\n")[0].rstrip(".")
    if _is_unmigrated(error):
        return (
            f"Tables are missing in the database: {said}. Run `manage.py migrate`, and for the "
            "relay's database `manage.py migrate --database relay`."
        )
    if isinstance(error, (OperationalError, InterfaceError)):
        return (
            f"The database does not answer: {said}. See that it runs, and that "
            "TELLERWIRE_DATABASE_URL (the bank's) or TELLERWIRE_RELAY_DATABASE_URL leads to it."
        )
    return f"The database refused it: {said}. --traceback shows where."


def _is_unmigrated(error: Exception) -> bool:
    state = getattr(error.__cause__, "sqlstate", None)
    return state in _UNMIGRATED_STATES or any(words in str(error) for words in _UNMIGRATED_SQLITE)
