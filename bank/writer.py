"""What a decided batch writes, and the writer that is portable.

There is one algorithm (``bank.ledger``) and room for several writers behind this interface: they
differ in how fast they are, never in what they write. Entries are written before the balances,
because a trigger compares the two.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from functools import lru_cache
from itertools import chain
from typing import Any, Protocol

from django.db import connections
from django.db.models import Field, Model

from bank.compiled import is_plain
from bank.models import Entry, Order, Transfer

__all__ = ["EntryRow", "LedgerWriter", "OrderRow", "PortableWriter", "TransferRow", "WriteSet"]


@dataclass(frozen=True, slots=True)
class OrderRow:
    """A row of orders."""

    id: int
    person_id: int
    order_id: uuid.UUID
    evidence_hash: bytes
    evidence: bytes
    operation: str
    outcome: str
    code: str
    receipt: bytes
    receipt_signature: bytes
    received_at: datetime


@dataclass(frozen=True, slots=True)
class TransferRow:
    """A row of transfers."""

    id: int
    uuid: uuid.UUID
    order_id: int
    debit_account_id: int
    credit_account_id: int
    currency_id: str
    amount: int
    kind: str
    booked_at: datetime
    value_date: date | None


@dataclass(frozen=True, slots=True)
class EntryRow:
    """A row of entries."""

    account_id: int
    transfer_id: int
    amount: int
    balance_after: int


@dataclass(slots=True)
class WriteSet:
    """Everything that one batch writes; ``balances`` are final, by primary key of the account."""

    orders: list[OrderRow] = field(default_factory=list)
    transfers: list[TransferRow] = field(default_factory=list)
    entries: list[EntryRow] = field(default_factory=list)
    balances: dict[int, int] = field(default_factory=dict)


class LedgerWriter(Protocol):
    """Writes a batch inside the transaction that is open on ``using``."""

    def write(self, rows: WriteSet, using: str) -> None:
        """Insert orders, transfers and entries, then update the balances."""


class PortableWriter:
    """Writes with what every database understands."""

    def write(self, rows: WriteSet, using: str) -> None:
        """See :class:`LedgerWriter`."""
        _insert(Order, rows.orders, using)
        _insert(Transfer, rows.transfers, using)
        _insert(Entry, rows.entries, using)
        _update_balances(rows.balances, using)


@dataclass(frozen=True, slots=True)
class _Insertion:
    """How rows of one kind are written: the statement, and what their values need before."""

    head: str
    places: str
    fields: tuple[tuple[str, Field[Any, Any] | None], ...]
    """Each attribute with the field that prepares its values; None for those that need nothing."""


def _insert(
    model: type[Model], rows: Sequence[OrderRow | TransferRow | EntryRow], using: str
) -> None:
    """Insert rows with one statement.

    ``bulk_create`` makes an object of every row and puts a statement together for every batch,
    which for a batch of one takes longer than everything that the database does.
    """
    if not rows:
        return
    connection = connections[using]
    insertion = _insertion(model, tuple(rows[0].__slots__), connection.vendor)
    values = [
        [
            getattr(row, name)
            if field is None
            else field.get_db_prep_save(getattr(row, name), connection)
            for name, field in insertion.fields
        ]
        for row in rows
    ]
    with connection.cursor() as cursor:
        if connection.vendor == "sqlite":
            cursor.executemany(insertion.head + insertion.places, values)
        else:
            # One round trip, however many rows.
            places = ", ".join([insertion.places] * len(rows))
            cursor.execute(insertion.head + places, list(chain.from_iterable(values)))


@lru_cache
def _insertion(model: type[Model], names: tuple[str, ...], vendor: str) -> _Insertion:
    fields = {field.attname: field for field in model._meta.concrete_fields}
    columns = ", ".join(f'"{fields[name].column}"' for name in names)
    return _Insertion(
        head=f'INSERT INTO "{model._meta.db_table}" ({columns}) VALUES ',  # noqa: S608 - names of the model
        places="(" + ", ".join(["%s"] * len(names)) + ")",
        fields=tuple((name, None if is_plain(fields[name]) else fields[name]) for name in names),
    )


def _update_balances(balances: Mapping[int, int], using: str) -> None:
    """Set all balances in one statement.

    ``bulk_update`` writes the same as one CASE of a thousand branches, which takes several times
    longer; both databases name the columns of VALUES the same.
    """
    if not balances:
        return
    rows = ", ".join(["(CAST(%s AS bigint), CAST(%s AS bigint))"] * len(balances))
    with connections[using].cursor() as cursor:
        cursor.execute(
            "UPDATE bank_account SET balance = changed.column2 "  # noqa: S608 - only placeholders
            f"FROM (VALUES {rows}) AS changed WHERE bank_account.id = changed.column1",
            [value for pair in sorted(balances.items()) for value in pair],
        )
