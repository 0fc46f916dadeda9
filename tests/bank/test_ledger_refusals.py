"""Refusals: their names, their precedence, which are stored, and that no money moves."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import msgspec
import pytest
from django.utils import timezone

from bank.ledger import book
from bank.models import (
    Account,
    AccountStatus,
    EmployeePermission,
    Order,
    PersonKey,
    PersonStatus,
)
from bank.verification import verify_ledger
from protocol.banking import Deposit, Issue, Outcome
from protocol.errors import Code
from tests.bank.journal import nothing_in_the_journal_changed
from tests.bank.orders import (
    BANK,
    BANK_ID,
    SmallBank,
    book_one,
    new_order_id,
    now_ms,
    order_of,
    receipt_in,
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


# --- What is refused ----------------------------------------------------------------------------


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


def release(bank: SmallBank) -> None:
    type(bank.ada).objects.filter(pk=bank.ada.pk).update(status=PersonStatus.ACTIVE)


def test_a_key_that_is_not_in_force_gives_no_orders(bank: SmallBank) -> None:
    recorded = order_of(bank.ada, transfer("account1", "account2", 1))
    first = book([recorded], BANK)
    revoke(bank)
    with nothing_changed():
        (outcome,) = book([order_of(bank.ada, transfer("account1", "account2", 1))], BANK)
        assert (outcome.code, outcome.receipt) == (Code.KEY_REVOKED, None)
        # What was recorded before is answered as before.
        assert book([recorded], BANK) == first


def test_what_a_blocked_person_ordered_stays_refused_after_the_release(bank: SmallBank) -> None:
    recorded = order_of(bank.ada, transfer("account1", "account2", 1))
    booked = book([recorded], BANK)
    block(bank)
    order = order_of(bank.ada, transfer("account1", "account2", 2))
    with nothing_in_the_journal_changed():
        (refusal,) = book([order], BANK)
        receipt = receipt_in(refusal)
        assert (receipt.outcome, receipt.code) == (Outcome.REFUSED, Code.KEY_REVOKED)
        assert refusal.code is Code.KEY_REVOKED
        assert book([recorded], BANK) == booked
        release(bank)
        assert book([order], BANK) == [refusal]
    assert book_one(bank.ada, transfer("account1", "account2", 2)).code is None
    assert list(verify_ledger(BANK_ID)) == []


def test_the_key_of_a_blocked_person_that_was_revoked_needs_no_record(bank: SmallBank) -> None:
    block(bank)
    revoke(bank)
    with nothing_changed():
        outcome = book_one(bank.ada, transfer("account1", "account2", 1))
    assert (outcome.code, outcome.receipt) == (Code.KEY_REVOKED, None)


def test_an_order_of_a_blocked_person_that_expired_needs_no_record(bank: SmallBank) -> None:
    block(bank)
    order = order_of(
        bank.ada, transfer("account1", "account2", 1), issued_at=now_ms() - 60_000, lifetime_ms=1
    )
    with nothing_changed():
        assert book([order], BANK)[0].code is Code.ORDER_EXPIRED


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
