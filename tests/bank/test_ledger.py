"""Booking: what is decided, what is written, and that each order counts once."""

from __future__ import annotations

import uuid
from datetime import date

import pytest
from django.db import IntegrityError, OperationalError, connection
from django.test.utils import CaptureQueriesContext

from bank.incoming import IncomingOrder
from bank.ledger import book
from bank.models import (
    Account,
    Entry,
    Order,
    Transfer,
)
from bank.statements import Conversation
from bank.writer import PortableWriter, WriteSet
from protocol.banking import Deposit, Issue, Outcome
from protocol.encoding import b64u
from protocol.errors import Code
from tests.bank.journal import nothing_in_the_journal_changed
from tests.bank.orders import (
    BANK,
    SmallBank,
    balances,
    book_one,
    incoming,
    make_own_accounts,
    new_order_id,
    order_of,
    receipt_in,
    sign_order,
    small_bank,
    transfer,
    withdraw,
)
from tests.bank.parties import make_account, make_currency, make_employee, make_person
from tests.bank.unchanged import nothing_changed

pytestmark = pytest.mark.django_db


@pytest.fixture
def bank() -> SmallBank:
    return small_bank()


def zero_sum() -> bool:
    return sum(balances().values()) == 0


# --- What is accepted ---------------------------------------------------------------------------


def test_a_transfer_moves_money_and_leaves_a_journal_entry(bank: SmallBank) -> None:
    outcome = book_one(bank.ada, transfer("account1", "account2", 100, memo="rent"))
    receipt = receipt_in(outcome)
    assert outcome.code is None
    assert receipt.outcome is Outcome.ACCEPTED
    assert balances(["account1", "account2"]) == {"account1": 900, "account2": 1100}
    order = Order.objects.get(order_id=receipt.order_id)
    booked = Transfer.objects.get(order=order)
    assert (booked.debit_account.number, booked.credit_account.number) == ("account1", "account2")
    assert (booked.amount, booked.kind, booked.currency_id) == (100, "transfer", "TWC")
    assert booked.value_date is None
    assert booked.booked_at == order.received_at
    assert list(
        Entry.objects.filter(transfer=booked)
        .order_by("amount")
        .values_list("account__number", "amount", "balance_after")
    ) == [("account1", -100, 900), ("account2", 100, 1100)]
    assert order.sequence == booked.pk == receipt.sequence
    assert zero_sum()


def test_the_receipt_says_what_was_booked(bank: SmallBank) -> None:
    incoming_order = order_of(bank.ada, transfer("account1", "account3", 7))
    (outcome,) = book([incoming_order], BANK)
    receipt = receipt_in(outcome)
    booked = Transfer.objects.get(order__order_id=incoming_order.order_id)
    assert receipt.order_id == incoming_order.order_id
    assert receipt.person == "ada"
    assert receipt.bank_fingerprint == b64u(BANK.fingerprint)
    assert receipt.evidence_hash == b64u(incoming_order.evidence_hash)
    assert receipt.operation == "transfer"
    (line,) = receipt.transfers
    assert (line.id, line.sequence) == (str(booked.uuid), booked.pk)
    assert (line.debit_account, line.credit_account) == ("account1", "account3")
    assert (line.amount, line.currency, line.exponent) == (7, "TWC", 0)
    # Ada sees the club's account, not Ben's.
    assert [(balance.account, balance.balance) for balance in receipt.balances] == [
        ("account1", 993)
    ]


def test_a_withdrawal_goes_to_the_banks_cash(bank: SmallBank) -> None:
    receipt = receipt_in(book_one(bank.ben, withdraw("account1", 30)))
    assert receipt.transfers[0].kind == "withdrawal"
    assert balances(["account1", "cash-TWC"]) == {"account1": 970, "cash-TWC": 30}


def test_a_teller_deposits_to_any_account_and_does_not_see_it(bank: SmallBank) -> None:
    teller = make_person("teller")
    make_employee(bank.bank_organization, teller, "deposit")
    receipt = receipt_in(book_one(teller, Deposit("account3", "50")))
    assert receipt.transfers[0].kind == "deposit"
    assert receipt.balances == []
    assert balances(["account3", "cash-TWC"]) == {"account3": 1050, "cash-TWC": -50}


def test_the_bank_itself_issues_money(bank: SmallBank) -> None:
    receipt = receipt_in(book_one(bank.bank_person, Issue("account2", "5")))
    assert receipt.transfers[0].kind == "opening"
    assert balances(["account2", "issuance-TWC"]) == {"account2": 1005, "issuance-TWC": -3005}
    assert zero_sum()


def test_the_value_date_is_kept_beside_the_booking_time(bank: SmallBank) -> None:
    noon = 1_767_268_800_000
    book_one(bank.ada, transfer("account2", "account3", 1, value_date=noon))
    assert Transfer.objects.order_by("-pk")[0].value_date == date(2026, 1, 1)


def test_decimal_amounts_are_read_with_the_accounts_exponent(bank: SmallBank) -> None:
    make_own_accounts(bank, "EUR", 2)
    euro = make_currency("EUR", 2)
    make_account("euro2", bank.ada, currency=euro)
    make_account("euro3", bank.ben, currency=euro)
    book_one(bank.bank_person, Issue("euro2", "20"))
    receipt = receipt_in(book_one(bank.ada, transfer("euro2", "euro3", "12.5", currency="EUR")))
    assert receipt.transfers[0].amount == 1250
    assert receipt.transfers[0].exponent == 2
    assert balances(["euro2", "euro3"]) == {"euro2": 750, "euro3": 1250}


def test_a_credit_limit_can_be_used_up_and_no_further(bank: SmallBank) -> None:
    Account.objects.filter(number="account2").update(credit_limit=50)
    assert book_one(bank.ada, transfer("account2", "account3", 1050)).code is None
    with nothing_in_the_journal_changed():
        outcome = book_one(bank.ada, transfer("account2", "account3", 1))
    assert outcome.code is Code.INSUFFICIENT_FUNDS
    assert balances(["account2"]) == {"account2": -50}


def test_what_is_held_can_not_be_spent(bank: SmallBank) -> None:
    Account.objects.filter(number="account2").update(held=400)
    assert book_one(bank.ada, transfer("account2", "account3", 601)).code is not None
    outcome = book_one(bank.ada, transfer("account2", "account3", 600))
    assert receipt_in(outcome).balances[0].available == 0


# --- Exactly once -------------------------------------------------------------------------------


@pytest.mark.parametrize("amount", [100, 5000])
def test_the_same_bytes_get_the_same_receipt_and_count_once(bank: SmallBank, amount: int) -> None:
    order = order_of(bank.ada, transfer("account1", "account2", amount))
    first = book([order], BANK)
    with nothing_changed():
        assert book([order], BANK) == first
        assert book([order, order], BANK) == first * 2


def test_a_refusal_stays_a_refusal_when_the_money_has_come(bank: SmallBank) -> None:
    order = order_of(bank.ada, transfer("account2", "account3", 1500))
    refused = book([order], BANK)
    book_one(bank.bank_person, Issue("account2", "1000"))
    with nothing_changed():
        assert book([order], BANK) == refused


def test_repeats_and_conflicts_within_one_batch(bank: SmallBank) -> None:
    order_id = new_order_id()
    order = order_of(bank.ada, transfer("account1", "account2", 10), order_id=order_id)
    other = order_of(bank.ada, transfer("account1", "account2", 20), order_id=order_id)
    first, again, conflict = book([order, order, other], BANK)
    assert first.code is None
    assert again == first
    assert (conflict.code, conflict.receipt) == (Code.ORDER_ID_CONFLICT, None)
    assert balances(["account1"]) == {"account1": 990}


def test_later_orders_of_a_batch_see_what_earlier_ones_did(bank: SmallBank) -> None:
    orders = [
        order_of(bank.ada, transfer("account2", "account3", 1000)),
        order_of(bank.ada, transfer("account2", "account3", 1)),
        order_of(bank.ben, transfer("account3", "account2", 2000)),
        order_of(bank.ada, transfer("account2", "account3", 2000)),
        order_of(bank.ada, transfer("account2", "account3", 1)),
    ]
    codes = [outcome.code for outcome in book(orders, BANK)]
    broke = Code.INSUFFICIENT_FUNDS
    assert codes == [None, broke, None, None, broke]
    assert balances(["account2", "account3"]) == {"account2": 0, "account3": 2000}
    chain = Entry.objects.filter(account__number="account2").order_by("transfer_id")
    assert list(chain.values_list("balance_after", flat=True)) == [1000, 0, 2000, 0]


def test_sequences_rise_in_the_order_of_booking(bank: SmallBank) -> None:
    orders = [order_of(bank.ada, transfer("account1", "account2", 1)) for _ in range(5)]
    first = [receipt_in(outcome).sequence for outcome in book(orders, BANK)]
    later = receipt_in(book_one(bank.ada, transfer("account1", "account2", 1))).sequence
    assert first == sorted(set(first))
    assert later > first[-1]


def test_an_empty_batch_is_nothing(bank: SmallBank) -> None:
    with CaptureQueriesContext(connection) as captured:
        assert book([], BANK) == []
    assert len(captured) == 0


def test_the_number_of_queries_does_not_grow_with_the_batch(bank: SmallBank) -> None:
    def queries_for(count: int) -> int:
        orders = [order_of(bank.ada, transfer("account1", "account2", 1)) for _ in range(count)]
        orders += [order_of(bank.ben, withdraw("account3", 1)) for _ in range(count)]
        with CaptureQueriesContext(connection) as captured:
            assert all(outcome.code is None for outcome in book(orders, BANK))
        return len(captured)

    # Few enough rows that SQLite's limit on parameters doesn't split an insertion.
    assert queries_for(1) == queries_for(20)


# --- When the database fails --------------------------------------------------------------------


class Sabotage(PortableWriter):
    """Fails on certain orders, or a number of times."""

    def __init__(self, poisoned: set[str], times: int = 10**6, error: Exception | None = None):
        self.poisoned = {uuid.UUID(order_id) for order_id in poisoned}
        self.times = times
        self.error = error or IntegrityError("sabotage")

    def write(self, rows: WriteSet, talk: Conversation) -> None:
        super().write(rows, talk)
        if self.times and any(row.order_id in self.poisoned for row in rows.orders):
            self.times -= 1
            raise self.error


def batch_of(bank: SmallBank, count: int) -> list[IncomingOrder]:
    return [order_of(bank.ada, transfer("account1", "account2", 1)) for _ in range(count)]


def test_one_poisoned_order_fails_alone(bank: SmallBank) -> None:
    orders = batch_of(bank, 9)
    outcomes = book(orders, BANK, writer=Sabotage({orders[4].order_id}))
    codes = [outcome.code for outcome in outcomes]
    assert codes == [None] * 4 + [Code.INTERNAL] + [None] * 4
    assert outcomes[4].receipt is None
    assert not Order.objects.filter(order_id=orders[4].order_id).exists()
    assert balances(["account1"]) == {"account1": 992}
    assert book([orders[4]], BANK)[0].code is None


def test_a_bug_that_one_order_meets_fails_it_alone(bank: SmallBank) -> None:
    orders = batch_of(bank, 4)
    sabotage = Sabotage({orders[0].order_id}, error=ZeroDivisionError())
    codes = [outcome.code for outcome in book(orders, BANK, writer=sabotage)]
    assert codes == [Code.INTERNAL, None, None, None]


def contention() -> OperationalError:
    error = OperationalError("contended")
    error.__cause__ = type("Cause", (Exception,), {"sqlstate": "40P01"})()
    return error


def test_a_deadlock_is_tried_again_as_a_whole(bank: SmallBank) -> None:
    orders = batch_of(bank, 3)
    sabotage = Sabotage({orders[0].order_id}, times=2, error=contention())
    outcomes = book(orders, BANK, writer=sabotage)
    assert [outcome.code for outcome in outcomes] == [None, None, None]
    assert sabotage.times == 0
    assert len({receipt_in(outcome).booked_at for outcome in outcomes}) == 1


def test_lasting_contention_leaves_no_trace(bank: SmallBank) -> None:
    orders = batch_of(bank, 1)
    with nothing_changed():
        (outcome,) = book(orders, BANK, writer=Sabotage({orders[0].order_id}, error=contention()))
    assert (outcome.code, outcome.receipt) == (Code.BUSY, None)


def test_an_order_edited_after_signing_keeps_its_own_hash(bank: SmallBank) -> None:
    """Whatever is booked, the evidence beside it is exactly what was signed."""
    signed = sign_order("ada", transfer("account1", "account2", 1))
    given = incoming(bank.ada, signed)
    book([given], BANK)
    stored = Order.objects.get(order_id=given.order_id)
    assert bytes(stored.evidence) == signed.evidence
    assert bytes(stored.evidence_hash) == signed.hash
