"""The database has no room for a commit: it says so itself, so nothing is unknown."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any

import psycopg
import pytest
from django.db import connection

from bank.errors import LedgerUnavailableError, OutcomeUnknownError
from bank.ledger import book
from bank.pipeline import COMMIT, Pipeline, Started
from bank.statements import Cursor, _Direct
from tests.bank.orders import BANK, SmallBank, balances, order_of, small_bank, transfer
from tests.bank.unchanged import nothing_changed
from tests.databases import TestDatabases

FULL, IO_ERROR = 13, 10


@pytest.fixture
def bank(fresh_databases: TestDatabases) -> SmallBank:
    return small_bank()


def fail_commits(patched: pytest.MonkeyPatch, *, for_want_of_room: bool) -> None:
    """Let the database fail in each commit, with an error of its own."""
    if connection.vendor == "sqlite":
        error = sqlite3.OperationalError("it failed")
        error.sqlite_errorcode = FULL if for_want_of_room else IO_ERROR

        start = _Direct.start

        def fail_to_commit(self: _Direct, sql: str, parameters: Sequence[Any] = ()) -> Cursor:
            if sql == COMMIT:
                raise error
            return start(self, sql, parameters)

        patched.setattr(_Direct, "start", fail_to_commit)
        return
    receive, send = Pipeline._receive, Pipeline._send
    state = psycopg.errors.DiskFull if for_want_of_room else psycopg.errors.IoError

    def roll_back(self: Pipeline, started: Started) -> None:
        if started.sql == COMMIT:
            started.sql = "ROLLBACK"
        send(self, started)

    def fail(self: Pipeline, batch: list[Started]) -> psycopg.Error | None:
        failure = receive(self, batch)
        return state() if batch[-1].sql == "ROLLBACK" else failure

    patched.setattr(Pipeline, "_send", roll_back)
    patched.setattr(Pipeline, "_receive", fail)


@pytest.mark.parametrize(
    ("for_want_of_room", "failure"),
    [(True, LedgerUnavailableError), (False, OutcomeUnknownError)],
    ids=["full", "control: another failure"],
)
def test_what_a_full_database_refuses_is_a_certain_no(
    bank: SmallBank,
    monkeypatch: pytest.MonkeyPatch,
    for_want_of_room: bool,
    failure: type[Exception],
) -> None:
    order = order_of(bank.ada, transfer("account1", "account2", 100))
    with nothing_changed(), monkeypatch.context() as patched:
        fail_commits(patched, for_want_of_room=for_want_of_room)
        with pytest.raises(failure):
            book([order], BANK)
    (outcome,) = book([order], BANK)
    assert outcome.code is None
    assert balances(["account1"]) == {"account1": 900}
