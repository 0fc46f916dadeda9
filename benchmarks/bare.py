"""What the machine gives at that hour: durable transfers by a database's driver alone.

No relay, no cryptography, no permissions, no receipts: one client that locks two balances, writes
an entry and both balances, and commits, one transfer after the other. Whoever compares two runs of
another benchmark can see from this whether the machine was the same.
"""

import sqlite3
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import psycopg

__all__ = ["bare_postgresql", "bare_sqlite"]

TRANSFERS: Final = 300
RUNS: Final = 5

_TABLES: Final = (
    "CREATE TABLE balance (id bigint PRIMARY KEY, amount bigint NOT NULL CHECK (amount >= 0))",
    "CREATE TABLE entry (debit bigint NOT NULL, credit bigint NOT NULL, amount bigint NOT NULL)",
    "INSERT INTO balance VALUES (1, 1000), (2, 1000)",
)
_ENTRY: Final = "INSERT INTO entry VALUES (1, 2, 1)"
_BALANCES: Final = "UPDATE balance SET amount = amount + CASE id WHEN 1 THEN -1 ELSE 1 END"
_TO_AND_FRO: Final = "UPDATE balance SET amount = amount + CASE id WHEN 1 THEN 1 ELSE -1 END"


def bare_postgresql(url: str) -> float:
    """Return transfers a second on an empty PostgreSQL database."""
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in _TABLES:
            connection.execute(statement)

        def transfer(update: str) -> None:
            with connection.transaction():
                connection.execute("SELECT amount FROM balance ORDER BY id FOR NO KEY UPDATE")
                connection.execute(_ENTRY)
                connection.execute(update)

        return _rate(transfer)


def bare_sqlite(path: Path) -> float:
    """Return transfers a second on a new SQLite file, with WAL and ``synchronous=FULL``."""
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        for statement in _TABLES:
            connection.execute(statement)

        def transfer(update: str) -> None:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("SELECT amount FROM balance ORDER BY id").fetchall()
            connection.execute(_ENTRY)
            connection.execute(update)
            connection.execute("COMMIT")

        return _rate(transfer)
    finally:
        connection.close()


def _rate(transfer: Callable[[str], None]) -> float:
    """Return the median rate of several runs."""
    rates = []
    for _ in range(RUNS):
        began = time.perf_counter()
        for number in range(TRANSFERS):
            transfer(_TO_AND_FRO if number % 2 else _BALANCES)
        rates.append(TRANSFERS / (time.perf_counter() - began))
    return statistics.median(rates)
