"""Two programs that issue opening balances at the same time: the money comes into being once."""

from __future__ import annotations

import os

import pytest
from django.db import connection

from bank import issuing
from bank.incoming import OrderOutcome
from bank.issuing import issue_opening_balances
from bank.verification import verify_ledger
from protocol.errors import Code
from protocol.identifiers import uuid7
from tests.bank.orders import BANK_ID, SmallBank, balances, bank_key_file, now_ms, small_bank
from tests.databases import TestDatabases
from tests.races.threads import in_threads

NUMBERS = ["account1", "account2", "account3"]


@pytest.fixture
def bank(postgres_databases: TestDatabases) -> SmallBank:
    assert connection.vendor == "postgresql"
    return small_bank(opening=0)


def issue() -> list[tuple[str, OrderOutcome]]:
    return issue_opening_balances(bank_key_file(), [(number, "5") for number in NUMBERS])


def issue_twice_at_once() -> list[set[Code | None]]:
    """Nothing is booked when either begins; return with which codes each one's orders ended."""
    return [{outcome.code for _, outcome in ended} for ended in in_threads([issue, issue])]


def test_of_two_at_once_one_issues_and_the_other_is_told(bank: SmallBank) -> None:
    ended = issue_twice_at_once()
    assert {None} in ended
    assert {Code.ORDER_ID_CONFLICT} in ended
    assert balances(NUMBERS) == dict.fromkeys(NUMBERS, 5)
    assert list(verify_ledger(BANK_ID)) == []


def test_control_with_ids_of_their_own_both_issue(
    bank: SmallBank, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(issuing, "opening_order_id", lambda *_: uuid7(now_ms(), os.urandom(10)))
    assert issue_twice_at_once() == [{None}, {None}]
    assert balances(NUMBERS) == dict.fromkeys(NUMBERS, 10)
