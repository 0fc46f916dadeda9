"""Makes the bank's database slow, absent or broken for a while, under a bank that runs."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path

import psycopg
from psycopg import sql

from tests.databases import TestDatabases


@contextmanager
def writers_wait(databases: TestDatabases) -> Iterator[None]:
    """Hold what every booking has to lock."""
    if databases.vendor == "postgresql":
        with psycopg.connect(databases.default_url) as holder:
            holder.execute("SELECT id FROM bank_account ORDER BY id FOR UPDATE")
            yield
        return
    file = sqlite_file(databases)
    # Whoever enters and whoever leaves may be different threads.
    with closing(sqlite3.connect(file, isolation_level=None, check_same_thread=False)) as holder:
        holder.execute("BEGIN IMMEDIATE")
        yield
        holder.execute("ROLLBACK")


@contextmanager
def database_away(databases: TestDatabases) -> Iterator[None]:
    """Let nobody connect, and end the connections that PostgreSQL has.

    A file that is open stays open under SQLite, so there it has to go before the bank's threads
    open theirs: before the first order and the first question.
    """
    if databases.vendor == "postgresql":
        with _refusing_connections(databases):
            yield
        return
    path = sqlite_file(databases)
    away = path.with_name(path.name + ".away")
    path.rename(away)
    path.mkdir()
    try:
        yield
    finally:
        path.rmdir()
        away.rename(path)


@contextmanager
def _refusing_connections(databases: TestDatabases) -> Iterator[None]:
    server, _, name = databases.default_url.rpartition("/")
    allow = "ALTER DATABASE {} ALLOW_CONNECTIONS {}"
    with psycopg.connect(f"{server}/postgres", autocommit=True) as administrator:
        administrator.execute(sql.SQL(allow).format(sql.Identifier(name), sql.SQL("false")))
        administrator.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name]
        )
        try:
            yield
        finally:
            administrator.execute(sql.SQL(allow).format(sql.Identifier(name), sql.SQL("true")))


@contextmanager
def withdrawals_break(databases: TestDatabases) -> Iterator[None]:
    """Let the database fail on every withdrawal, in a way that is no refusal of the ledger's."""
    with owner_connection(databases) as owner:
        for statement in _BREAK[databases.vendor]:
            owner.execute(statement)
        try:
            yield
        finally:
            for statement in _MEND[databases.vendor]:
                owner.execute(statement)


def owner_connection(
    databases: TestDatabases,
) -> AbstractContextManager[psycopg.Connection | sqlite3.Connection]:
    """A connection of its own to the bank's database, by whoever owns the tables."""
    if databases.vendor == "postgresql":
        return psycopg.connect(databases.default_url, autocommit=True)
    return closing(sqlite3.connect(sqlite_file(databases), isolation_level=None))


def sqlite_file(databases: TestDatabases) -> Path:
    return Path(databases.default_url.removeprefix("sqlite:///"))


_BREAK = {
    "postgresql": [
        "CREATE FUNCTION broken_disk() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION USING ERRCODE = 'data_corrupted'; END $$",
        "CREATE TRIGGER broken BEFORE INSERT ON bank_order FOR EACH ROW "
        "WHEN (NEW.operation = 'withdraw') EXECUTE FUNCTION broken_disk()",
    ],
    "sqlite": [
        "CREATE TABLE broken_disk (number INTEGER PRIMARY KEY)",
        "CREATE TRIGGER broken BEFORE INSERT ON bank_order WHEN NEW.operation = 'withdraw' "
        "BEGIN INSERT INTO broken_disk VALUES ('this is no number'); END",
    ],
}
_MEND = {
    "postgresql": ["DROP TRIGGER broken ON bank_order", "DROP FUNCTION broken_disk"],
    "sqlite": ["DROP TRIGGER broken", "DROP TABLE broken_disk"],
}
