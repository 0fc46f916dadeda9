"""What a refusal tells, and to whom."""

from __future__ import annotations

import pytest

from protocol.errors import Code
from tests.bank.orders import SmallBank, balances, book_one, receipt_in, small_bank, withdraw
from tests.bank.parties import make_employee, make_person

pytestmark = pytest.mark.django_db


@pytest.fixture
def bank() -> SmallBank:
    return small_bank()


def test_who_may_not_see_an_account_is_not_told_what_is_in_it(bank: SmallBank) -> None:
    cashier = make_person("cashier")
    make_employee(bank.club, cashier, "withdraw")
    before = balances()
    told = book_one(cashier, withdraw("account1", 1001))
    assert told.code is Code.INSUFFICIENT_FUNDS
    assert receipt_in(told).detail == "account1 has too little available"
    assert receipt_in(told).balances == []
    assert balances() == before


def test_who_may_see_an_account_is_told_what_is_in_it(bank: SmallBank) -> None:
    told = book_one(bank.ada, withdraw("account1", 1001))
    assert told.code is Code.INSUFFICIENT_FUNDS
    assert receipt_in(told).detail == "account1 has 1000 TWC available"
