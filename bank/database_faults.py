"""What a failed database statement means for the orders in its transaction."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from django.db import InterfaceError, OperationalError

__all__ = ["Fault", "fault_of", "first_words", "is_refusal"]


class Fault(StrEnum):
    """What to do about a failure."""

    CONTENDED = "contended"
    """Somebody else was at the same rows; the same orders again will do."""
    DISCONNECTED = "disconnected"
    """The database can't be reached or doesn't work; nothing can be booked now."""
    POISONED = "poisoned"
    """One of the orders can't be booked, ever: find out which one."""


# PostgreSQL's SQLSTATEs: serialization failure, deadlock, unique violation, lock not available.
_CONTENDED_STATES: Final = frozenset({"40001", "40P01", "23505", "55P03"})
# PostgreSQL has ended a connection whose process said nothing in the middle of a transaction.
_DISCONNECTED_STATES: Final = frozenset({"25P03"})
# PostgreSQL's class "insufficient resources": its disk is full, or its memory.
_RESOURCES_STATES: Final = "53"
# SQLite's primary result codes: the disk is full; busy, locked.
_FULL_SQLITE: Final = 13
_CONTENDED_SQLITE: Final = frozenset({5, 6})
_SQLITE_CONSTRAINT_UNIQUE: Final = frozenset({2067, 1555})
# The guards against REPLACE turn a duplicate into a trigger's refusal, with these words.
_SQLITE_CONSTRAINT_TRIGGER: Final = 1811
_DUPLICATE_WORDS: Final = "rows are never changed"


def fault_of(error: Exception) -> Fault:
    """Return what a failure means; anything but a database's error is a poisoned order."""
    cause = error.__cause__
    state = getattr(cause, "sqlstate", None)
    if state in _CONTENDED_STATES:
        return Fault.CONTENDED
    if state in _DISCONNECTED_STATES:
        return Fault.DISCONNECTED
    code = getattr(cause, "sqlite_errorcode", None)
    if code is not None:
        if code & 0xFF in _CONTENDED_SQLITE or code in _SQLITE_CONSTRAINT_UNIQUE:
            return Fault.CONTENDED
        if code == _SQLITE_CONSTRAINT_TRIGGER and _DUPLICATE_WORDS in str(error):
            return Fault.CONTENDED
    if isinstance(error, (OperationalError, InterfaceError)):
        return Fault.DISCONNECTED
    return Fault.POISONED


def is_refusal(error: Exception) -> bool:
    """Return whether the database itself said that it has not committed, for want of room.

    Of other failures in the middle of a commit it isn't known what they left behind.
    """
    cause = error.__cause__
    code = getattr(cause, "sqlite_errorcode", None)
    if code is not None:
        return code & 0xFF == _FULL_SQLITE
    return str(getattr(cause, "sqlstate", None)).startswith(_RESOURCES_STATES)


def first_words(error: Exception) -> str:
    """Return the first line of what a database says; the next ones may quote a row."""
    return str(error).partition("\n")[0]
