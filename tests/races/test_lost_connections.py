"""The database goes away in the middle of a booking."""

from __future__ import annotations

import pytest
from django.db import connection, connections

from bank.errors import LedgerUnavailableError, OutcomeUnknownError
from bank.ledger import book
from bank.models import Order
from bank.writer import PortableWriter, WriteSet
from tests.bank.orders import BANK, SmallBank, balances, order_of, small_bank, transfer
from tests.bank.unchanged import nothing_changed
from tests.databases import TestDatabases
from tests.races.threads import in_threads


@pytest.fixture
def bank(postgres_databases: TestDatabases) -> SmallBank:
    return small_bank()


def end_backend(pid: int) -> None:
    def end() -> None:
        with connections["default"].cursor() as cursor:
            cursor.execute("SELECT pg_terminate_backend(%s, 5000)", [pid])

    in_threads([end])


def own_pid() -> int:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        return int(cursor.fetchone()[0])


class CutOff(PortableWriter):
    """Loses the connection before or after writing, a number of times."""

    def __init__(self, *, after: bool, times: int = 1) -> None:
        self.after = after
        self.times = times

    def write(self, rows: WriteSet, using: str) -> None:
        if self.after:
            super().write(rows, using)
        if self.times:
            self.times -= 1
            end_backend(own_pid())
        if not self.after:
            super().write(rows, using)


def test_cut_off_before_the_commit_the_batch_is_booked_over_a_new_connection(
    bank: SmallBank,
) -> None:
    order = order_of(bank.ada, transfer("account1", "account2", 100))
    (outcome,) = book([order], BANK, writer=CutOff(after=False))
    assert outcome.code is None
    assert balances(["account1"]) == {"account1": 900}


def test_cut_off_in_the_commit_the_outcome_is_unknown_and_the_retry_finds_out(
    bank: SmallBank,
) -> None:
    order = order_of(bank.ada, transfer("account1", "account2", 100))
    with pytest.raises(OutcomeUnknownError):
        book([order], BANK, writer=CutOff(after=True))
    (outcome,) = book([order], BANK)
    assert outcome.code is None
    assert balances(["account1"]) == {"account1": 900}
    assert Order.objects.filter(order_id=order.order_id).count() == 1


def test_without_a_database_nothing_is_recorded_and_the_error_says_so(bank: SmallBank) -> None:
    order = order_of(bank.ada, transfer("account1", "account2", 100))
    with nothing_changed(), pytest.raises(LedgerUnavailableError):
        book([order], BANK, writer=CutOff(after=False, times=100))
