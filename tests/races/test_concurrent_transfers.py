"""Concurrent transfers on PostgreSQL: money is neither made nor lost, and the locks are why."""

from __future__ import annotations

import random
import threading
import time
from dataclasses import dataclass, field

import pytest
from django.db import connection

from bank.ledger import book
from bank.models import Account
from bank.statements import Conversation
from bank.verification import verify_ledger
from bank.writer import PortableWriter, WriteSet
from protocol.banking import Issue
from protocol.errors import Code
from tests.bank.orders import BANK, BANK_ID, SmallBank, balances, order_of, small_bank, transfer
from tests.bank.parties import make_account
from tests.databases import TestDatabases
from tests.races.threads import MeetingWriter, in_threads, switch_locks_off

ACCOUNTS = [f"race{number}" for number in range(8)]
THREADS = 8
ORDERS_PER_THREAD = 15
OPENING = 100


@pytest.fixture
def bank(postgres_databases: TestDatabases) -> SmallBank:
    assert connection.vendor == "postgresql"
    bank = small_bank(opening=0)
    for number in ACCOUNTS:
        make_account(number, bank.ada)
    issues = [order_of(bank.bank_person, Issue(number, str(OPENING))) for number in ACCOUNTS]
    assert {outcome.code for outcome in book(issues, BANK)} == {None}
    return bank


class SlowWriter(PortableWriter):
    """Gives others the time to come in between, which they must not."""

    def write(self, rows: WriteSet, talk: Conversation) -> None:
        time.sleep(0.002)
        super().write(rows, talk)


@dataclass
class Race:
    """What eight threads did, and what was seen meanwhile."""

    totals: set[int] = field(default_factory=set)
    lowest: int = 0
    codes: set[Code | None] = field(default_factory=set)
    problems: list[str] = field(default_factory=list)


def run_race(bank: SmallBank) -> Race:
    race = Race()
    over = threading.Event()

    def move(seed: int) -> None:
        pick = random.Random(seed)
        for _ in range(ORDERS_PER_THREAD):
            source, destination = pick.sample(ACCOUNTS, 2)
            order = order_of(bank.ada, transfer(source, destination, pick.randint(1, 80)))
            (outcome,) = book([order], BANK, writer=SlowWriter())
            race.codes.add(outcome.code)

    def read() -> None:
        while not over.is_set():
            found = balances(ACCOUNTS)
            race.totals.add(sum(found.values()))
            race.lowest = min(race.lowest, *found.values())

    def move_all() -> None:
        try:
            in_threads([lambda seed=seed: move(seed) for seed in range(THREADS)])  # type: ignore[misc]  # bound now
        finally:
            over.set()

    in_threads([read, move_all])
    race.totals.add(sum(balances(ACCOUNTS).values()))
    race.problems = [str(problem) for problem in verify_ledger(BANK_ID)]
    return race


def test_the_total_is_constant_in_every_read_and_no_balance_is_negative(bank: SmallBank) -> None:
    race = run_race(bank)
    assert race.totals == {OPENING * len(ACCOUNTS)}
    assert race.lowest >= 0
    assert race.codes <= {None, Code.INSUFFICIENT_FUNDS}
    assert None in race.codes
    assert race.problems == []


def test_control_without_locks_the_same_race_goes_wrong(
    bank: SmallBank, monkeypatch: pytest.MonkeyPatch
) -> None:
    switch_locks_off(monkeypatch)
    race = run_race(bank)
    assert race.problems or race.totals != {OPENING * len(ACCOUNTS)} or Code.INTERNAL in race.codes


# The same with two orders, step by step: both want to spend what only one of them can.


def spend_twice(bank: SmallBank) -> tuple[MeetingWriter, list[Code | None]]:
    writer = MeetingWriter(2)
    orders = [order_of(bank.ada, transfer("race0", number, 60)) for number in ("race1", "race2")]
    outcomes = in_threads(
        [lambda order=order: book([order], BANK, writer=writer)[0] for order in orders]  # type: ignore[misc]  # bound now
    )
    return writer, [outcome.code for outcome in outcomes]


def test_money_is_spent_once(bank: SmallBank) -> None:
    writer, codes = spend_twice(bank)
    assert not writer.met
    assert set(codes) == {None, Code.INSUFFICIENT_FUNDS}
    assert Account.objects.get(number="race0").balance == 40
    assert sum(balances(ACCOUNTS).values()) == OPENING * len(ACCOUNTS)


def test_control_without_locks_money_is_spent_twice(
    bank: SmallBank, monkeypatch: pytest.MonkeyPatch
) -> None:
    switch_locks_off(monkeypatch)
    writer, codes = spend_twice(bank)
    assert writer.met
    assert codes == [None, None]
    assert sum(balances(ACCOUNTS).values()) == OPENING * len(ACCOUNTS) + 60
    assert list(verify_ledger(BANK_ID)) != []
