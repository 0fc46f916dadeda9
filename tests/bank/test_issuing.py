"""Opening balances: each is booked once, under an id that follows from the account."""

from __future__ import annotations

import re

import pytest

from bank import issuing
from bank.incoming import OrderOutcome
from bank.issuing import issue_opening_balances, opening_order_id
from bank.models import Account, AccountStatus, Order
from bank.verification import verify_ledger
from protocol.errors import Code
from protocol.identifiers import UUID7_PATTERN
from tests.bank.orders import BANK_ID, balances, bank_key_file, small_bank

pytestmark = pytest.mark.django_db

NUMBERS = ["account1", "account2", "account3"]


@pytest.fixture(autouse=True)
def _bank(db: None) -> None:
    small_bank(opening=0)


def issue(*numbers: str, amount: str = "5") -> dict[str, Code | None]:
    pairs = [(number, amount) for number in numbers or NUMBERS]
    outcomes = issue_opening_balances(bank_key_file(), pairs)
    return {number: outcome.code for number, outcome in outcomes}


def set_status(number: str, status: AccountStatus) -> None:
    Account.objects.filter(number=number).update(status=status)


def test_ids_are_as_every_order_has_them_and_no_two_are_the_same() -> None:
    ids = [opening_order_id(number, refusals) for number in NUMBERS for refusals in range(3)]
    assert all(re.match(UUID7_PATTERN, order_id) for order_id in ids)
    assert len(set(ids)) == len(ids)
    assert ids[0] == opening_order_id("account1")


def test_what_was_issued_is_not_issued_again_whatever_the_amount() -> None:
    assert set(issue().values()) == {None}
    for amount in ("5", "7"):
        assert set(issue(amount=amount).values()) == {Code.ORDER_ID_CONFLICT}
    assert balances(NUMBERS) == dict.fromkeys(NUMBERS, 5)
    assert list(verify_ledger(BANK_ID)) == []


def test_a_run_that_was_killed_goes_on_where_it_was() -> None:
    issue("account1")
    ended = issue()
    assert ended.pop("account1") is Code.ORDER_ID_CONFLICT
    assert set(ended.values()) == {None}
    assert balances(NUMBERS) == dict.fromkeys(NUMBERS, 5)


def test_after_a_refusal_it_is_issued_under_the_next_id() -> None:
    set_status("account2", AccountStatus.FROZEN)
    for recorded in (1, 2):
        assert issue("account2") == {"account2": Code.ACCOUNT_FROZEN}
        assert Order.objects.count() == recorded
    set_status("account2", AccountStatus.OPEN)
    assert issue("account2") == {"account2": None}
    assert issue("account2") == {"account2": Code.ORDER_ID_CONFLICT}
    assert balances(["account2"]) == {"account2": 5}


def test_a_refusal_of_the_moment_before_is_told_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another run looked at the ids when this one did, and its order was refused."""
    set_status("account2", AccountStatus.FROZEN)
    refused: list[tuple[str, OrderOutcome]] = issue_opening_balances(
        bank_key_file(), [("account2", "5")]
    )
    monkeypatch.setattr(
        issuing, "_opening_ids", lambda person, numbers: {"account2": opening_order_id("account2")}
    )
    set_status("account2", AccountStatus.OPEN)
    assert issue_opening_balances(bank_key_file(), [("account2", "5")]) == refused
    assert balances(["account2"]) == {"account2": 0}
