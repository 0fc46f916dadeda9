"""The database goes away in the middle of a booking."""

from __future__ import annotations

import psycopg
import pytest
from django.db import connection, connections

from bank.errors import LedgerUnavailableError, OutcomeUnknownError
from bank.ledger import ATTEMPTS_MAX, book
from bank.models import Order
from bank.pipeline import COMMIT, Pipeline, Started
from bank.statements import Conversation
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
    """Loses the connection before it writes, a number of times."""

    def __init__(self, times: int = 1) -> None:
        self.times = times

    def write(self, rows: WriteSet, talk: Conversation) -> None:
        if self.times:
            self.times -= 1
            end_backend(own_pid())
        super().write(rows, talk)


def lose_what_comes_after_commits(monkeypatch: pytest.MonkeyPatch, times: int) -> list[bool]:
    """Let the database commit and say so to nobody, a number of times; return a list of those."""
    lost: list[bool] = []
    receive = Pipeline._receive

    def lose(self: Pipeline, batch: list[Started]) -> psycopg.Error | None:
        failure = receive(self, batch)
        if failure is None and batch[-1].sql == COMMIT and len(lost) < times:
            lost.append(True)
            raise psycopg.OperationalError("lost")
        return failure

    monkeypatch.setattr(Pipeline, "_receive", lose)
    return lost


def test_cut_off_before_the_commit_the_batch_is_booked_over_a_new_connection(
    bank: SmallBank,
) -> None:
    order = order_of(bank.ada, transfer("account1", "account2", 100))
    (outcome,) = book([order], BANK, writer=CutOff())
    assert outcome.code is None
    assert balances(["account1"]) == {"account1": 900}


def test_cut_off_in_the_commit_the_bank_finds_out(
    bank: SmallBank, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = lose_what_comes_after_commits(monkeypatch, 1)
    orders = [order_of(bank.ada, transfer("account1", "account2", 100)) for _ in range(3)]
    outcomes = book(orders, BANK)
    assert lost
    assert [outcome.code for outcome in outcomes] == [None] * 3
    assert balances(["account1"]) == {"account1": 700}
    assert book(orders, BANK) == outcomes
    assert Order.objects.filter(order_id__in=[order.order_id for order in orders]).count() == 3


def test_cut_off_in_every_commit_the_outcome_is_unknown_and_the_retry_finds_out(
    bank: SmallBank, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even of what the second try found recorded nothing is said that could be wrong."""
    order = order_of(bank.ada, transfer("account1", "account2", 100))
    with monkeypatch.context() as patched:
        lose_what_comes_after_commits(patched, ATTEMPTS_MAX)
        with pytest.raises(OutcomeUnknownError):
            book([order], BANK)
    (outcome,) = book([order], BANK)
    assert outcome.code is None
    assert balances(["account1"]) == {"account1": 900}
    assert Order.objects.filter(order_id=order.order_id).count() == 1


def test_without_a_database_nothing_is_recorded_and_nothing_is_claimed(bank: SmallBank) -> None:
    """What was written travelled with the commit: whether it arrived is not known."""
    order = order_of(bank.ada, transfer("account1", "account2", 100))
    with nothing_changed(), pytest.raises(OutcomeUnknownError):
        book([order], BANK, writer=CutOff(times=100))


def test_a_database_that_cant_be_reached_is_said_to_be_unavailable(
    bank: SmallBank, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(self: Pipeline, batch: list[Started]) -> psycopg.Error | None:
        raise psycopg.OperationalError("lost")

    order = order_of(bank.ada, transfer("account1", "account2", 100))
    with nothing_changed(), monkeypatch.context() as patched:
        patched.setattr(Pipeline, "_receive", unreachable)
        with pytest.raises(LedgerUnavailableError):
            book([order], BANK)
