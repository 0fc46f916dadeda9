"""The ledger's sequence and the database's clock.

Orders and transfers are numbered by one sequence. Numbers are drawn while the accounts are locked:
what happens later to the same account has a higher number. Numbers may be missing where a
transaction was rolled back, or an order turned out to be recorded already.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime

from bank.statements import Conversation, Cursor

__all__ = ["Drawing", "Numbers", "draw_numbers", "milliseconds", "value_date_ms", "value_date_of"]

# The sequence that PostgreSQL keeps for the primary key of orders; `loaddata` sets it, too. By its
# name, which a kept plan holds on to: looking it up takes longer than drawing a number.
_POSTGRESQL_DRAW = (
    "SELECT clock_timestamp(), nextval('bank_order_id_seq') FROM generate_series(1, %s)"
)
# The writer is alone on SQLite. An order's transfers never have numbers above the next order's,
# so asking both tables is needed only for the last order.
_SQLITE_DRAW = (
    "SELECT strftime('%%Y-%%m-%%d %%H:%%M:%%f', 'now'), "
    "MAX(COALESCE((SELECT MAX(id) FROM bank_order), 0), "
    "COALESCE((SELECT MAX(id) FROM bank_transfer), 0))"
)


@dataclass(frozen=True, slots=True)
class Numbers:
    """Numbers of the sequence, rising, and the time at which they were drawn (whole ms)."""

    now: datetime
    numbers: list[int]

    @property
    def now_ms(self) -> int:
        """The time as milliseconds since the epoch."""
        return milliseconds(self.now)


def milliseconds(moment: datetime) -> int:
    """Return whole milliseconds since the epoch, without the rounding of floating point."""
    difference = moment - datetime(1970, 1, 1, tzinfo=UTC)
    return (difference.days * 86_400 + difference.seconds) * 1000 + difference.microseconds // 1000


def value_date_of(moment_ms: int) -> date:
    """Return the date (UTC) in which a time lies, in milliseconds since the epoch."""
    return datetime.fromtimestamp(moment_ms // 1000, UTC).date()


def value_date_ms(value_date: date) -> int:
    """Return the beginning of a date (UTC) as milliseconds since the epoch."""
    return (value_date - date(1970, 1, 1)).days * 86_400_000


@dataclass(frozen=True, slots=True)
class Drawing:
    """Numbers that are being drawn."""

    _cursor: Cursor
    _count: int
    _vendor: str

    def result(self) -> Numbers:
        """Return the numbers; call it once, inside the block in which they were asked for."""
        rows = self._cursor.fetchall()
        if self._vendor == "postgresql":
            now, numbers = rows[0][0], sorted(number for _, number in rows)
        else:
            ((text, highest),) = rows
            now = datetime.fromisoformat(text).replace(tzinfo=UTC)
            numbers = list(range(highest + 1, highest + 1 + self._count))
        # Whole milliseconds, so that a receipt and the row beside it name the same time.
        return Numbers(now.replace(microsecond=now.microsecond // 1000 * 1000), numbers)


def draw_numbers(talk: Conversation, count: int) -> Drawing:
    """Begin to draw ``count`` (at least 1) numbers; call it after the accounts were locked."""
    if talk.vendor == "postgresql":
        return Drawing(talk.start(_POSTGRESQL_DRAW, [count]), count, talk.vendor)
    return Drawing(talk.start(_SQLITE_DRAW), count, talk.vendor)
