"""What verification finds, and how far it is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

__all__ = ["Problem", "Tally"]


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong.

    :param table: the database table.
    :param row: the row's primary key, or what else names it; empty where it is the table itself.
    :param words: what is wrong.
    """

    table: str
    row: str
    words: str

    def __str__(self) -> str:
        where = f"{self.table} {self.row}" if self.row else self.table
        return f"{where}: {self.words}"


def _ignore(_: int) -> None:
    pass


@dataclass(slots=True)
class Tally:
    """How many rows of each table were checked.

    :param advance: is told how many rows were checked since the last time.
    """

    advance: Callable[[int], None] = _ignore
    rows: Counter[str] = field(default_factory=Counter)

    def checked(self, table: str) -> None:
        """Count one row."""
        self.rows[table] += 1
        self.advance(1)
