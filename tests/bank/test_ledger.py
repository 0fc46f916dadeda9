"""Booking: what is decided, what is written, and that each order counts once."""

from __future__ import annotations

import pytest

from protocol.errors import Code
from tests.bank.orders import SmallBank, balances, book_one, receipt_in, small_bank, transfer

pytestmark = pytest.mark.django_db


@pytest.fixture
def bank() -> SmallBank:
    return small_bank()


def test_a_transfer_moves_money(bank: SmallBank) -> None:
    outcome = book_one(bank.ada, transfer("account1", "account2", 100))
    receipt = receipt_in(outcome)
    assert outcome.code is None
    assert balances(["account1", "account2", "account3"]) == {
        "account1": 900,
        "account2": 1100,
        "account3": 1000,
    }
    assert [(line.account, line.balance) for line in receipt.balances] == [
        ("account1", 900),
        ("account2", 1100),
    ]


def test_funds(bank: SmallBank) -> None:
    outcome = book_one(bank.ada, transfer("account1", "account2", 1001))
    assert outcome.code is Code.INSUFFICIENT_FUNDS
