"""Booking: what is decided, what is written, and that each order counts once."""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Callable
from datetime import date

import msgspec
import pytest
from django.db import IntegrityError, OperationalError, connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from bank.incoming import IncomingOrder
from bank.ledger import book
from bank.models import (
    Account,
    AccountStatus,
    EmployeePermission,
    Entry,
    Order,
    PersonKey,
    PersonStatus,
    Transfer,
)
from bank.writer import PortableWriter, WriteSet
from protocol.banking import Deposit, Issue, Outcome
from protocol.encoding import b64u
from protocol.errors import Code
from tests.bank.orders import (
    BANK,
    SmallBank,
    balances,
    book_one,
    incoming,
    make_own_accounts,
    new_order_id,
    now_ms,
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


# --- What is refused ----------------------------------------------------------------------------


def journal() -> tuple[object, ...]:
    return (
        list(Transfer.objects.order_by("pk").values_list()),
        list(Entry.objects.order_by("pk").values_list()),
        balances(),
    )


class nothing_in_the_journal_changed:  # noqa: N801 - reads as a statement
    def __enter__(self) -> None:
        self.before = journal()

    def __exit__(self, *_: object) -> None:
        assert journal() == self.before


def euro_account(bank: SmallBank) -> None:
    make_account("euro3", bank.ben, currency=make_currency("EUR", 2))


def set_status(number: str, status: AccountStatus) -> Callable[[SmallBank], None]:
    def change(_: SmallBank) -> None:
        Account.objects.filter(number=number).update(status=status)

    return change


def closed_account(bank: SmallBank) -> None:
    make_account("closed", bank.ben, status=AccountStatus.CLOSED)


def limited(bank: SmallBank) -> None:
    Account.objects.filter(number="account2").update(order_limit=99)


def nothing(_: SmallBank) -> None:
    pass


def both(
    one: Callable[[SmallBank], None], other: Callable[[SmallBank], None]
) -> Callable[[SmallBank], None]:
    def change(bank: SmallBank) -> None:
        one(bank)
        other(bank)

    return change


REFUSALS: list[tuple[str, Callable[[SmallBank], None], msgspec.Struct, Code]] = [
    ("amount zero", nothing, transfer("account2", "account3", 0), Code.BAD_AMOUNT),
    ("amount negative", nothing, transfer("account2", "account3", "-5"), Code.BAD_AMOUNT),
    ("amount too precise", nothing, transfer("account2", "account3", "1.5"), Code.BAD_AMOUNT),
    ("amount too large", nothing, transfer("account2", "account3", 10**15 + 1), Code.BAD_AMOUNT),
    ("amount in other digits", nothing, transfer("account2", "account3", "٣"), Code.BAD_AMOUNT),
    ("unknown account", nothing, transfer("nowhere", "account3", 1), Code.ACCOUNT_UNAVAILABLE),
    ("another's account", nothing, transfer("account3", "account2", 1), Code.ACCOUNT_UNAVAILABLE),
    ("no deposit", nothing, Deposit("account2", "5"), Code.PERMISSION_DENIED),
    ("no deposit, not seen", nothing, Deposit("account3", "5"), Code.ACCOUNT_UNAVAILABLE),
    ("no issue", nothing, Issue("account2", "5"), Code.PERMISSION_DENIED),
    ("no issue, not seen", nothing, Issue("account3", "5"), Code.ACCOUNT_UNAVAILABLE),
    ("no destination", nothing, transfer("account2", "nowhere", 1), Code.DESTINATION_UNKNOWN),
    (
        "the bank's own account",
        nothing,
        transfer("account2", "cash-TWC", 1),
        Code.DESTINATION_UNKNOWN,
    ),
    ("same account", nothing, transfer("account2", "account2", 1), Code.SAME_ACCOUNT),
    ("two currencies", euro_account, transfer("account2", "euro3", 1), Code.CURRENCY_MISMATCH),
    (
        "another currency named",
        nothing,
        transfer("account2", "account3", 1, currency="EUR"),
        Code.CURRENCY_MISMATCH,
    ),
    (
        "debit frozen",
        set_status("account2", AccountStatus.FROZEN),
        transfer("account2", "account3", 1),
        Code.ACCOUNT_FROZEN,
    ),
    (
        "credit frozen",
        set_status("account3", AccountStatus.FROZEN),
        transfer("account2", "account3", 1),
        Code.ACCOUNT_FROZEN,
    ),
    ("credit closed", closed_account, transfer("account2", "closed", 1), Code.ACCOUNT_CLOSED),
    ("limit", limited, transfer("account2", "account3", 100), Code.LIMIT_EXCEEDED),
    ("overdraft", nothing, transfer("account2", "account3", 1001), Code.INSUFFICIENT_FUNDS),
    ("overdraft at the counter", nothing, withdraw("account2", 1001), Code.INSUFFICIENT_FUNDS),
    (
        "a value date that no calendar has",
        nothing,
        transfer("account2", "account3", 1, value_date=2**53 - 1),
        Code.BAD_ORDER,
    ),
]


@pytest.mark.parametrize(
    ("set_up", "order", "code"), [row[1:] for row in REFUSALS], ids=[row[0] for row in REFUSALS]
)
def test_a_refusal_is_named_stored_and_changes_nothing(
    bank: SmallBank, set_up: Callable[[SmallBank], None], order: msgspec.Struct, code: Code
) -> None:
    set_up(bank)
    given = order_of(bank.ada, order)
    with nothing_in_the_journal_changed():
        (outcome,) = book([given], BANK)
    receipt = receipt_in(outcome)
    assert outcome.code is code
    assert (receipt.outcome, receipt.code) == (Outcome.REFUSED, code)
    assert receipt.detail
    assert (receipt.transfers, receipt.balances) == ([], [])
    stored = Order.objects.get(order_id=given.order_id)
    assert (stored.outcome, stored.code) == ("refused", code.value)
    assert bytes(stored.evidence) == given.evidence
    assert outcome.receipt is not None
    assert bytes(stored.receipt) == outcome.receipt.raw


PRECEDENCE: list[tuple[Callable[[SmallBank], None], msgspec.Struct, Code]] = [
    # Each order breaks the rule that is named and one or more that come later.
    (nothing, transfer("nowhere", "nowhere", "x"), Code.BAD_AMOUNT),
    (nothing, transfer("account3", "nowhere", "1.5"), Code.ACCOUNT_UNAVAILABLE),
    (nothing, Deposit("account2", "1.5"), Code.BAD_AMOUNT),
    (nothing, Deposit("account2", "5", currency="EUR"), Code.PERMISSION_DENIED),
    (nothing, transfer("account2", "nowhere", 10**6, currency="EUR"), Code.DESTINATION_UNKNOWN),
    (nothing, transfer("account2", "account2", 10**6, currency="EUR"), Code.SAME_ACCOUNT),
    (
        set_status("account2", AccountStatus.FROZEN),
        transfer("account2", "account3", 10**6, currency="EUR"),
        Code.CURRENCY_MISMATCH,
    ),
    (
        both(closed_account, set_status("account2", AccountStatus.FROZEN)),
        transfer("account2", "closed", 10**6),
        Code.ACCOUNT_FROZEN,
    ),
    (
        both(closed_account, limited),
        transfer("account2", "closed", 10**6),
        Code.ACCOUNT_CLOSED,
    ),
    (limited, transfer("account2", "account3", 10**6), Code.LIMIT_EXCEEDED),
]


@pytest.mark.parametrize(
    ("set_up", "order", "code"), PRECEDENCE, ids=[str(r[2]) for r in PRECEDENCE]
)
def test_the_first_rule_in_the_published_order_is_named(
    bank: SmallBank, set_up: Callable[[SmallBank], None], order: msgspec.Struct, code: Code
) -> None:
    set_up(bank)
    with nothing_in_the_journal_changed():
        assert book_one(bank.ada, order).code is code


def test_a_permission_that_is_taken_away_counts_for_the_next_order(bank: SmallBank) -> None:
    EmployeePermission.objects.filter(employee__person=bank.ada, permission="transfer").delete()
    with nothing_in_the_journal_changed():
        assert book_one(bank.ada, transfer("account1", "account2", 1)).code is (
            Code.PERMISSION_DENIED
        )


def test_a_balance_can_not_leave_64_bits(bank: SmallBank, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bank.deciding.BALANCE_MAX", 1500)
    with nothing_in_the_journal_changed():
        assert book_one(bank.ada, transfer("account1", "account2", 501)).code is (
            Code.LIMIT_EXCEEDED
        )


def test_without_a_cash_account_nothing_is_withdrawn(bank: SmallBank) -> None:
    euro = make_currency("EUR", 2)
    make_account("euro2", bank.ada, currency=euro, credit_limit=1000)
    with nothing_in_the_journal_changed():
        assert book_one(bank.ada, withdraw("euro2", 1)).code is Code.DESTINATION_UNKNOWN


def test_an_order_that_says_nothing_is_refused_for_good(bank: SmallBank) -> None:
    class Nonsense(msgspec.Struct, tag_field="operation", tag="steal"):
        amount: str = "1"

    outcome = book_one(bank.ada, Nonsense())
    receipt = receipt_in(outcome)
    assert outcome.code is Code.BAD_ORDER
    assert receipt.operation == ""
    assert Order.objects.get(order_id=receipt.order_id).operation == ""


# --- Refusals without a record ------------------------------------------------------------------


def test_an_expired_order_is_a_certain_no_without_a_record(bank: SmallBank) -> None:
    expired = order_of(
        bank.ada, transfer("account1", "account2", 1), issued_at=now_ms() - 60_000, lifetime_ms=1
    )
    with nothing_changed():
        (outcome,) = book([expired], BANK)
    assert (outcome.code, outcome.receipt) == (Code.ORDER_EXPIRED, None)


def test_a_recorded_order_is_answered_after_its_expiry(bank: SmallBank) -> None:
    order = order_of(bank.ada, transfer("account1", "account2", 1))
    first = book([order], BANK)
    expired = dataclasses.replace(order, expires_at=1)
    with nothing_changed():
        assert book([expired], BANK) == first


def revoke(bank: SmallBank) -> None:
    bank.ada.keys.update(revoked_at=timezone.now(), revocation_reason="stolen")


def block(bank: SmallBank) -> None:
    type(bank.ada).objects.filter(pk=bank.ada.pk).update(status=PersonStatus.BLOCKED)


@pytest.mark.parametrize("change", [revoke, block])
def test_a_key_that_is_not_in_force_gives_no_orders(
    bank: SmallBank, change: Callable[[SmallBank], None]
) -> None:
    recorded = order_of(bank.ada, transfer("account1", "account2", 1))
    first = book([recorded], BANK)
    change(bank)
    with nothing_changed():
        (outcome,) = book([order_of(bank.ada, transfer("account1", "account2", 1))], BANK)
        assert (outcome.code, outcome.receipt) == (Code.KEY_REVOKED, None)
        # What was recorded before is answered as before.
        assert book([recorded], BANK) == first


def test_an_older_bundle_of_the_same_identity_counts(bank: SmallBank) -> None:
    key = bank.ada.keys.get()
    key.revoked_at, key.revocation_reason = timezone.now(), "rotated"
    key.save(update_fields=["revoked_at", "revocation_reason"])
    PersonKey.objects.create(
        person=bank.ada,
        identity_key=key.identity_key,
        fingerprint=key.fingerprint,
        bundle=key.bundle,
        generation=2,
    )
    assert book_one(bank.ada, transfer("account1", "account2", 1)).code is None


def test_the_same_id_with_other_bytes_is_a_conflict(bank: SmallBank) -> None:
    order_id = new_order_id()
    first = book_one(bank.ada, transfer("account1", "account2", 1), order_id=order_id)
    with nothing_changed():
        other = book_one(bank.ada, transfer("account1", "account2", 2), order_id=order_id)
    assert (other.code, other.receipt) == (Code.ORDER_ID_CONFLICT, None)
    assert first.code is None


def test_the_same_id_of_another_person_is_another_order(bank: SmallBank) -> None:
    order_id = new_order_id()
    book_one(bank.ada, transfer("account2", "account3", 1), order_id=order_id)
    assert book_one(bank.ben, transfer("account3", "account2", 1), order_id=order_id).code is None
    assert Order.objects.filter(order_id=order_id).count() == 2


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

    def write(self, rows: WriteSet, using: str) -> None:
        super().write(rows, using)
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


def test_the_issue_of_money_needs_the_banks_own_key(bank: SmallBank) -> None:
    """A teller with every permission at the bank can't make money."""
    insider = make_person("insider")
    make_employee(bank.bank_organization, insider, "view", "transfer", "withdraw", "deposit")
    with nothing_in_the_journal_changed():
        for account in ("account3", "cash-TWC", "issuance-TWC"):
            assert book_one(insider, Issue(account, "5")).code in {
                Code.ACCOUNT_UNAVAILABLE,
                Code.PERMISSION_DENIED,
            }
        for order in (
            transfer("issuance-TWC", "account3", 5),
            transfer("cash-TWC", "account3", 5),
            withdraw("issuance-TWC", 5),
        ):
            assert book_one(insider, order).code is Code.PERMISSION_DENIED


def test_an_order_edited_after_signing_keeps_its_own_hash(bank: SmallBank) -> None:
    """Whatever is booked, the evidence beside it is exactly what was signed."""
    signed = sign_order("ada", transfer("account1", "account2", 1))
    given = incoming(bank.ada, signed)
    book([given], BANK)
    stored = Order.objects.get(order_id=given.order_id)
    assert bytes(stored.evidence) == signed.evidence
    assert bytes(stored.evidence_hash) == signed.hash
