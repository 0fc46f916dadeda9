"""Both writers write the same, and neither shortens what doesn't fit."""

from __future__ import annotations

import dataclasses
import os
import uuid
from datetime import UTC, date, datetime
from typing import Any

import pytest
from django.db import DatabaseError, connection, transaction

from bank.models import Account, Entry, Order, Transfer
from bank.statements import conversation
from bank.writer import (
    EntryRow,
    LedgerWriter,
    OrderRow,
    PortableWriter,
    TransferRow,
    WriteSet,
    writer_for,
)
from tests.bank.orders import SmallBank, small_bank

NOW = datetime(2026, 11, 23, 1, 2, 3, 456_000, tzinfo=UTC)
FIRST = 1_000_001
TABLES = (Order, Transfer, Entry)


@pytest.fixture
def bank(fresh_databases: None) -> SmallBank:
    return small_bank()


def write_set(bank: SmallBank, count: int) -> WriteSet:
    """Transfers of 1 to and fro, and one order that was refused."""
    rows = WriteSet()
    accounts = {account.number: account for account in Account.objects.all()}
    one, two = accounts["account1"], accounts["account2"]
    balances = {one.pk: one.balance, two.pk: two.balance}
    for number in range(FIRST, FIRST + count):
        debit, credit = (one, two) if number % 2 else (two, one)
        rows.orders.append(order_row(bank, number))
        rows.transfers.append(
            TransferRow(
                id=number,
                uuid=uuid.uuid4(),
                order_id=number,
                debit_account_id=debit.pk,
                credit_account_id=credit.pk,
                currency_id=debit.currency_id,
                amount=1,
                kind="transfer",
                booked_at=NOW,
                value_date=date(2026, 12, 24) if number % 3 else None,
            )
        )
        for account, amount in ((debit, -1), (credit, 1)):
            balances[account.pk] += amount
            rows.entries.append(EntryRow(account.pk, number, amount, balances[account.pk]))
    rows.balances.update(balances)
    refused = order_row(bank, FIRST + count)
    rows.orders.append(
        dataclasses.replace(refused, outcome="refused", code="insufficient_funds", operation="")
    )
    return rows


def order_row(bank: SmallBank, number: int) -> OrderRow:
    return OrderRow(
        id=number,
        person_id=bank.ada.pk,
        order_id=uuid.uuid4(),
        evidence_hash=os.urandom(32),
        evidence=bytes(range(256)) + b"'\\\"%s{}",
        operation="transfer",
        outcome="accepted",
        code="",
        receipt='{"detail":"Ärlig \\u0001 100 %"}'.encode(),
        receipt_signature=os.urandom(64),
        received_at=NOW,
    )


def contents() -> list[list[tuple[Any, ...]]]:
    journal = [
        [
            tuple(bytes(value) if isinstance(value, memoryview) else value for value in row)
            for row in table._default_manager.order_by(*order).values_list()
        ]
        for table, order in zip(TABLES, (("pk",), ("pk",), ("transfer", "account")), strict=True)
    ]
    return [*journal, list(Account.objects.order_by("pk").values_list("pk", "balance"))]


def write(writer: LedgerWriter, rows: WriteSet) -> None:
    with conversation("default") as talk:
        writer.write(rows, talk)


def written_by(writer: LedgerWriter, rows: WriteSet) -> list[list[tuple[Any, ...]]]:
    """Write, look, and leave everything as it was."""
    with transaction.atomic():
        write(writer, rows)
        found = contents()
        transaction.set_rollback(True)
    return found


@pytest.mark.parametrize("count", [0, 1, 2, 50])
def test_both_writers_write_the_same(bank: SmallBank, count: int) -> None:
    before = contents()
    rows = write_set(bank, count)
    portable = written_by(PortableWriter(), rows)
    assert portable == written_by(writer_for(connection.vendor), rows)
    assert [len(table) for table in portable] == [
        len(before[0]) + count + 1,
        len(before[1]) + count,
        len(before[2]) + 2 * count,
        len(before[3]),
    ]
    assert contents() == before


def test_nothing_to_write_is_nothing(bank: SmallBank) -> None:
    before = contents()
    for writer in (PortableWriter(), writer_for(connection.vendor)):
        assert written_by(writer, WriteSet()) == before


@pytest.mark.parametrize("portable", [True, False])
@pytest.mark.parametrize("name", ["operation", "outcome", "code"])
def test_what_is_too_long_is_refused(bank: SmallBank, name: str, portable: bool) -> None:
    writer = PortableWriter() if portable else writer_for(connection.vendor)
    rows = WriteSet()
    too_long: dict[str, Any] = {name: "x" * 100}
    rows.orders.append(dataclasses.replace(order_row(bank, FIRST), **too_long))
    before = contents()
    # A text that was cut off would break another rule: it has to be this one.
    words = "too long" if connection.vendor == "postgresql" else "CHECK constraint failed"
    with pytest.raises(DatabaseError, match=words), transaction.atomic():
        write(writer, rows)
    assert contents() == before


@pytest.mark.parametrize("portable", [True, False])
def test_a_balance_that_is_not_the_journals_is_refused(bank: SmallBank, portable: bool) -> None:
    """The trigger that compares them fires for both."""
    writer = PortableWriter() if portable else writer_for(connection.vendor)
    rows = write_set(bank, 2)
    for account in rows.balances:
        rows.balances[account] += 1
    before = contents()
    with pytest.raises(DatabaseError, match="newest entry"), transaction.atomic():
        write(writer, rows)
    assert contents() == before
