"""Which failures of the database are tried again, waited out, or blamed on an order."""

from __future__ import annotations

import pytest
from django.db import (
    DataError,
    IntegrityError,
    InterfaceError,
    InternalError,
    OperationalError,
)

from bank.database_faults import Fault, fault_of, first_words, is_refusal


def failure(kind: type[Exception], words: str = "", **facts: object) -> Exception:
    """An exception of Django's, caused by one of the driver's with these attributes."""
    error = kind(words)
    error.__cause__ = type("DriverError", (Exception,), facts)()
    return error


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        (failure(OperationalError, sqlstate="40P01"), Fault.CONTENDED),
        (failure(OperationalError, sqlstate="40001"), Fault.CONTENDED),
        (failure(IntegrityError, sqlstate="23505"), Fault.CONTENDED),
        (failure(OperationalError, sqlstate="55P03"), Fault.CONTENDED),
        (failure(IntegrityError, sqlstate="23514"), Fault.POISONED),
        (failure(IntegrityError, sqlstate="23001"), Fault.POISONED),
        (failure(DataError, sqlstate="22003"), Fault.POISONED),
        (failure(OperationalError, sqlstate="57P01"), Fault.DISCONNECTED),
        (failure(InternalError, sqlstate="25P03"), Fault.DISCONNECTED),
        (failure(InternalError, sqlstate="25P02"), Fault.POISONED),
        (failure(OperationalError, sqlstate=None), Fault.DISCONNECTED),
        (InterfaceError("closed"), Fault.DISCONNECTED),
        (failure(OperationalError, "database is locked", sqlite_errorcode=5), Fault.CONTENDED),
        (failure(OperationalError, "locked", sqlite_errorcode=517), Fault.CONTENDED),
        (failure(IntegrityError, "UNIQUE", sqlite_errorcode=2067), Fault.CONTENDED),
        (
            failure(
                IntegrityError,
                "bank_order: rows are never changed: a mistake is corrected by a reversal",
                sqlite_errorcode=1811,
            ),
            Fault.CONTENDED,
        ),
        (
            failure(IntegrityError, "only the ledger changes it", sqlite_errorcode=1811),
            Fault.POISONED,
        ),
        (failure(IntegrityError, "CHECK", sqlite_errorcode=275), Fault.POISONED),
        (failure(OperationalError, "disk is full", sqlite_errorcode=13), Fault.DISCONNECTED),
        (ZeroDivisionError(), Fault.POISONED),
    ],
)
def test_a_failure_means(error: Exception, fault: Fault) -> None:
    assert fault_of(error) is fault


@pytest.mark.parametrize(
    ("error", "refuses"),
    [
        (failure(OperationalError, "disk is full", sqlite_errorcode=13), True),
        (failure(OperationalError, "disk I/O error", sqlite_errorcode=10), False),
        (failure(OperationalError, sqlstate="53100"), True),
        (failure(OperationalError, sqlstate="53200"), True),
        (failure(OperationalError, sqlstate="57P01"), False),
        (failure(OperationalError, sqlstate="58030"), False),
        (failure(OperationalError, sqlstate=None), False),
        (InterfaceError("closed"), False),
    ],
)
def test_only_for_want_of_room_a_commit_is_certainly_refused(
    error: Exception,
    refuses: bool,
) -> None:
    assert is_refusal(error) is refuses


def test_a_row_that_the_database_quotes_is_not_among_its_first_words() -> None:
    error = IntegrityError('null value in column "a"\nDETAIL:  Failing row contains (secret).')
    assert first_words(error) == 'null value in column "a"'
