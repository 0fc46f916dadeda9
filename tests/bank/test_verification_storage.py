"""Whatever is put into whatever column: `verify_ledger` names the row, and never breaks off."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
from django.conf import settings
from django.db import connection, models, transaction

from bank.ledger import book
from bank.models import Account, Currency, Entry, Order, Person, PersonKey, Transfer
from tests.bank.guards import drop_guards, without_constraints
from tests.bank.orders import BANK, order_of, small_bank, transfer
from tests.bank.verifying import verify

pytestmark = pytest.mark.django_db

LEDGER: list[type[models.Model]] = [Order, Transfer, Entry, Account, Currency, Person, PersonKey]

NO_TEXT = "CAST(x'FF' AS TEXT)"
WRONG: dict[type[models.Field], list[str]] = {
    # SQLite itself holds these apart: they are the rows' own numbers.
    models.AutoField: [],
    models.BooleanField: ["'x'", "7", "x'00'"],
    models.IntegerField: ["'x'", "7.5", "x'00'", NO_TEXT],
    models.BinaryField: ["'x'", "7"],
    models.UUIDField: ["'x'", "7", "x'00'", NO_TEXT, "hex(zeroblob(15)) || 'GG'"],
    models.DateTimeField: [
        *("'x'", "7", "x'00'", NO_TEXT, "'2026-02-30 12:00:00'", "'2026-01-01 25:00:00'"),
        *("'0000-01-01 00:00:00'", "'2026-01-01 00:00:00.x'", "'now'"),
    ],
    models.DateField: ["'x'", "7", "x'00'", NO_TEXT, "'2026-02-30'", "'2026-01-01 12:00:00'"],
    models.JSONField: ["'x'", "x'00'", NO_TEXT],
    models.CharField: ["x'00'", NO_TEXT, "CAST(x'780078' AS TEXT)"],
}
"""In SQL, for SQLite, by kind of column."""
IN_NO_CALENDAR = ["'infinity'", "'-infinity'", "'4713-01-01 BC'", "'20000-01-01'"]
"""For PostgreSQL, which holds kinds apart by itself."""
ODD: dict[type[models.Field], list[object]] = {
    models.AutoField: [2**62],
    models.BooleanField: [True, False],
    models.PositiveSmallIntegerField: [0, 32767],
    models.IntegerField: [0, -1, 2**62],
    models.BinaryField: [b"", b"\0", bytes(32), b"\xff" * 32, bytes(64), b"\xff" * 500],
    models.UUIDField: ["00000000000000000000000000000000"],
    models.DateTimeField: ["0001-01-02 00:00:00+00:00", "9999-12-30 00:00:00+00:00"],
    models.DateField: ["0001-01-02", "9999-12-30"],
    models.JSONField: [{}, [], "x", 7],
    models.CharField: ["", "x", "\u20ac", "refused", "transfer"],
}
"""Of the right kind, and nothing that a program would write."""


def kind_of(column: models.Field, kinds: dict[type[models.Field], list]) -> list:
    target = column.target_field if isinstance(column, models.ForeignKey) else column
    is_key = isinstance(target, models.AutoField) and isinstance(column, models.AutoField)
    for kind, values in kinds.items():
        if kind is models.AutoField and not is_key:
            continue
        if isinstance(target, kind):
            return values
    raise AssertionError(column)


def wrong_values(column: models.Field) -> list[str]:
    if settings.TEST_DATABASE == "sqlite":
        return kind_of(column, WRONG)
    times = IN_NO_CALENDAR if isinstance(column, models.DateField) else []
    return times if column.null or column.primary_key or is_in_key(column) else [*times, "NULL"]


def odd_values(column: models.Field) -> list[object]:
    """PostgreSQL reads back what it took, so there one is enough to see that the rest does, too."""
    values = kind_of(column, ODD)
    return values if settings.TEST_DATABASE == "sqlite" else values[-1:]


def is_in_key(column: models.Field) -> bool:
    return column in column.model._meta.pk_fields


@pytest.fixture(autouse=True)
def without_guards() -> None:
    bank = small_bank()
    order = transfer("account2", "account3", 1, value_date=1_767_268_800_000)
    assert book([order_of(bank.ada, order)], BANK)[0].code is None
    drop_guards()


@contextmanager
def undone() -> Iterator[None]:
    """Undo what is done, before anybody looks for references that lead nowhere."""
    with transaction.atomic():
        if connection.vendor == "postgresql":
            with connection.cursor() as cursor:
                cursor.execute("SET CONSTRAINTS ALL DEFERRED")
        yield
        transaction.set_rollback(True)


def spoil(column: models.Field, value: str, parameters: Sequence[Any] = ()) -> str:
    """Put a value, in SQL, into a column of one row; return how the row is named."""
    table = column.model._meta.db_table
    place = "ctid" if connection.vendor == "postgresql" else "rowid"
    key = ", ".join(str(part.column) for part in column.model._meta.pk_fields)
    with connection.cursor() as cursor, without_constraints(table):
        if connection.vendor == "postgresql" and value == "NULL":
            cursor.execute(f"ALTER TABLE {table} ALTER COLUMN {column.column} DROP NOT NULL")
        cursor.execute(f"SELECT {place}, {key} FROM {table} LIMIT 1")
        row, *named = cursor.fetchall()[0]
        cursor.execute(
            f"UPDATE {table} SET {column.column} = {value} WHERE {place} = %s",
            [*parameters, row],
        )
    return str(named[0]) if len(named) == 1 else str(tuple(named))


@pytest.mark.parametrize("value_date", ["0001-01-01", "9999-12-31"])
def test_the_ends_of_the_calendar_are_dates(value_date: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute("UPDATE bank_transfer SET value_date = %s", [value_date])
    assert not re.search("value_date is not", verify()[1])


@pytest.mark.parametrize("model", LEDGER)
def test_a_value_of_a_wrong_kind_is_named(model: type[models.Model]) -> None:
    table = model._meta.db_table
    for column in model._meta.concrete_fields:
        for value in wrong_values(column):
            with undone():
                row = spoil(column, value)
                status, said = verify()
            assert status == 1
            found = re.search(rf"^{table} (.+): {column.column} is not ", said, re.MULTILINE)
            assert found is not None, (column, value, said)
            assert is_in_key(column) or found[1] == row


@pytest.mark.parametrize("model", LEDGER)
def test_an_odd_value_never_breaks_the_verification_off(model: type[models.Model]) -> None:
    for column in model._meta.concrete_fields:
        for value in odd_values(column):
            with undone():
                spoil(column, "%s", [column.get_db_prep_value(value, connection)])
                status, _ = verify()
            assert status in {0, 1}
