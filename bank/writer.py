"""What a decided batch writes, and who writes it.

There is one algorithm (``bank.ledger``) and two writers behind one interface: they differ in how
fast they are, never in what they write. Entries are written before the balances,
because a trigger compares the two.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from functools import lru_cache
from typing import Any, Final, Protocol

from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import Field, ForeignKey, Model

from bank.compiled import is_plain
from bank.models import Entry, Order, Transfer
from bank.statements import start, start_many, together

__all__ = [
    "EntryRow",
    "LedgerWriter",
    "OrderRow",
    "PortableWriter",
    "PostgresWriter",
    "TransferRow",
    "WriteSet",
    "writer_for",
]


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
    """Writes with what every database understands: a statement for each table, once for a row."""

    def write(self, rows: WriteSet, using: str) -> None:
        """See :class:`LedgerWriter`."""
        with together(using) as connection:
            for model, table in _tables(rows):
                columns = _columns(model, tuple(table[0].__slots__), connection.vendor)
                start_many(connection, columns.insertion, columns.values(table, connection))
            if rows.balances:
                changed = [(balance, account) for account, balance in sorted(rows.balances.items())]
                start_many(connection, _SET_BALANCE, changed)


class PostgresWriter:
    """Writes with one statement for each table, however many rows, all in one trip.

    A column travels as an array, so the text of a statement is always the same, and PostgreSQL
    keeps its plan.
    """

    def write(self, rows: WriteSet, using: str) -> None:
        """See :class:`LedgerWriter`."""
        with together(using) as connection:
            for model, table in _tables(rows):
                columns = _columns(model, tuple(table[0].__slots__), connection.vendor)
                values = zip(*columns.values(table, connection), strict=True)
                start(connection, columns.insertion_of_arrays, [list(column) for column in values])
            if rows.balances:
                accounts, balances = zip(*sorted(rows.balances.items()), strict=True)
                start(connection, _SET_BALANCES, [list(accounts), list(balances)])


def writer_for(vendor: str) -> LedgerWriter:
    """Return the fastest writer for a database (``connection.vendor``)."""
    return PostgresWriter() if vendor == "postgresql" else PortableWriter()


_Row = OrderRow | TransferRow | EntryRow

_SET_BALANCE: Final = "UPDATE bank_account SET balance = %s WHERE id = %s"
_SET_BALANCES: Final = (
    "UPDATE bank_account SET balance = changed.balance "
    "FROM unnest(%s::bigint[], %s::bigint[]) AS changed(id, balance) "
    "WHERE bank_account.id = changed.id"
)


def _tables(rows: WriteSet) -> Iterator[tuple[type[Model], Sequence[_Row]]]:
    """Yield what is inserted, table by table, in the order in which they refer to each other."""
    tables: tuple[tuple[type[Model], Sequence[_Row]], ...] = (
        (Order, rows.orders),
        (Transfer, rows.transfers),
        (Entry, rows.entries),
    )
    return ((model, table) for model, table in tables if table)


@dataclass(frozen=True, slots=True)
class _Columns:
    """The columns of one table that are written.

    ``bulk_create`` makes an object of every row and puts a statement together for every batch,
    which for a batch of one takes longer than everything that the database does.
    """

    names: tuple[str, ...]
    """The attributes of the rows."""
    fields: tuple[Field[Any, Any] | None, ...]
    """The field that prepares an attribute's values; None for those that need nothing."""
    insertion: str
    insertion_of_arrays: str

    def values(self, rows: Sequence[_Row], connection: BaseDatabaseWrapper) -> list[list[Any]]:
        """Return the rows as the database's driver takes them."""
        return [
            [
                getattr(row, name)
                if field is None
                else field.get_db_prep_save(getattr(row, name), connection)
                for name, field in zip(self.names, self.fields, strict=True)
            ]
            for row in rows
        ]


@lru_cache
def _columns(model: type[Model], names: tuple[str, ...], vendor: str) -> _Columns:
    by_name = {field.attname: field for field in model._meta.concrete_fields}
    fields = [by_name[name] for name in names]
    into = ", ".join(f'"{field.column}"' for field in fields)
    places = ", ".join(["%s"] * len(fields))
    arrays = ", ".join(f"%s::{_ARRAYS[_stored_type(field)]}[]" for field in fields)
    head = f'INSERT INTO "{model._meta.db_table}" ({into})'
    return _Columns(
        names=names,
        # PostgreSQL's driver takes every type as it is.
        fields=tuple(
            None if vendor == "postgresql" or is_plain(field) else field for field in fields
        ),
        insertion=f"{head} VALUES ({places})",
        insertion_of_arrays=f"{head} SELECT * FROM unnest({arrays})",  # noqa: S608 - names of the model
    )


_ARRAYS: Final = {
    "BigAutoField": "bigint",
    "BigIntegerField": "bigint",
    "BinaryField": "bytea",
    # Not varchar: a cast to that cuts off what is too long, instead of refusing it.
    "CharField": "text",
    "DateField": "date",
    "DateTimeField": "timestamptz",
    "UUIDField": "uuid",
}


def _stored_type(field: Field[Any, Any]) -> str:
    """Return the kind of column, for a foreign key that of the key it refers to."""
    return (
        field.target_field.get_internal_type()
        if isinstance(field, ForeignKey)
        else field.get_internal_type()
    )
