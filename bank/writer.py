"""What a decided batch writes, and who writes it.

There is one algorithm (``bank.ledger``) and two writers behind one interface: they differ in how
fast they are, never in what they write. Entries are written before the balances,
because a trigger compares the two.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any, Final, Protocol

import msgspec
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import Field, ForeignKey, Model

from bank.compiled import is_plain
from bank.models import Entry, Order, Transfer
from bank.statements import Conversation

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
    """Writes a batch inside the transaction that a conversation is in."""

    def write(self, rows: WriteSet, talk: Conversation) -> None:
        """Start to insert orders, transfers and entries, then to update the balances."""


class PortableWriter:
    """Writes with what every database understands: a statement for each table, once for a row."""

    def write(self, rows: WriteSet, talk: Conversation) -> None:
        """See :class:`LedgerWriter`."""
        tables: tuple[tuple[_Table, Sequence[_Row]], ...] = (
            (_ORDERS, rows.orders),
            (_TRANSFERS, rows.transfers),
            (_ENTRIES, rows.entries),
        )
        for table, written in tables:
            if written:
                talk.start_many(table.insertion_of_one, table.values(written, talk.connection))
        if rows.balances:
            changed = [(balance, account) for account, balance in sorted(rows.balances.items())]
            talk.start_many(_SET_BALANCE, changed)


class PostgresWriter:
    """Writes everything with one statement, whose text is always the same: it is planned once.

    The rows of each table travel as one JSON text, which costs a fraction of a parameter for every
    value. Triggers fire at the end of the statement, as they do after several.
    """

    def write(self, rows: WriteSet, talk: Conversation) -> None:
        """See :class:`LedgerWriter`."""
        if not rows.orders:
            return
        balances = [{"id": account, "balance": after} for account, after in rows.balances.items()]
        tables = (rows.orders, rows.transfers, rows.entries, balances)
        talk.start(_WRITE_ALL, [msgspec.json.encode(table).decode() for table in tables])


def writer_for(vendor: str) -> LedgerWriter:
    """Return the fastest writer for a database (``connection.vendor``)."""
    return PostgresWriter() if vendor == "postgresql" else PortableWriter()


_Row = OrderRow | TransferRow | EntryRow


class _Table:
    """One table of the journal, and how rows get into it.

    ``bulk_create`` makes an object of every row and puts a statement together for every batch,
    which for a batch of one takes longer than everything that the database does.
    """

    def __init__(self, model: type[Model], row: type[_Row]) -> None:
        by_name = {field.attname: field for field in model._meta.concrete_fields}
        self._fields: list[Field[Any, Any]] = [by_name[name] for name in row.__slots__]
        columns = ", ".join(f'"{field.column}"' for field in self._fields)
        head = f'INSERT INTO "{model._meta.db_table}" ({columns}) '
        self.insertion_of_one: Final = f"{head}VALUES ({', '.join(['%s'] * len(self._fields))})"
        """SQL with a parameter for each value of a row."""
        self.insertion_of_json: Final = head + self._selection_from_json()
        """PostgreSQL's SQL with one parameter: an array of rows as JSON, bytes as base64."""
        # Each attribute with the field that prepares its values; None for those that need nothing.
        self._prepared: Final = [
            (field.attname, None if is_plain(field) else field) for field in self._fields
        ]

    def _selection_from_json(self) -> str:
        values, columns = [], []
        for column in self._fields:
            stored = _JSON_COLUMNS[_stored_type(column)]
            name = f'"{column.attname}"'
            values.append(f"decode({name}, 'base64')" if stored == "bytea" else name)
            columns.append(f"{name} {'text' if stored == 'bytea' else stored}")
        recordset = f"json_to_recordset(%s::json) AS given({', '.join(columns)})"
        return f"SELECT {', '.join(values)} FROM {recordset}"  # noqa: S608 - names of the model

    def values(self, rows: Sequence[_Row], connection: BaseDatabaseWrapper) -> list[list[Any]]:
        """Return the rows as the database's driver takes them."""
        return [
            [
                getattr(row, name)
                if column is None
                else column.get_db_prep_save(getattr(row, name), connection)
                for name, column in self._prepared
            ]
            for row in rows
        ]


_JSON_COLUMNS: Final = {
    "BigAutoField": "bigint",
    "BigIntegerField": "bigint",
    "BinaryField": "bytea",
    # Not varchar(n): the column says what is too long; a cast would cut it off without a word.
    "CharField": "text",
    "DateField": "date",
    "DateTimeField": "timestamptz",
    "UUIDField": "uuid",
}


def _stored_type(column: Field[Any, Any]) -> str:
    """Return the kind of a column, for a foreign key that of the key it refers to."""
    target = column.target_field if isinstance(column, ForeignKey) else column
    return str(target.get_internal_type())


_ORDERS: Final = _Table(Order, OrderRow)
_TRANSFERS: Final = _Table(Transfer, TransferRow)
_ENTRIES: Final = _Table(Entry, EntryRow)
_SET_BALANCE: Final = "UPDATE bank_account SET balance = %s WHERE id = %s"
_WRITE_ALL: Final = (
    f"WITH orders AS ({_ORDERS.insertion_of_json}), "  # noqa: S608 - names of the models
    f"transfers AS ({_TRANSFERS.insertion_of_json}), "
    f"entries AS ({_ENTRIES.insertion_of_json}) "
    "UPDATE bank_account SET balance = changed.balance "
    "FROM json_to_recordset(%s::json) AS changed(id bigint, balance bigint) "
    "WHERE bank_account.id = changed.id"
)
