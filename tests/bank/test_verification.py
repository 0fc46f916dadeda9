"""`verify_ledger` passes on a healthy ledger, and names the row whatever was done to it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import timedelta

import msgspec
import pytest
from django.db import connection
from django.db.models import F
from django.utils import timezone

from bank.models import Account, Entry, Order, PersonKey, Transfer
from bank.verification import Tally, verify_ledger
from protocol.banking import Receipt, sign_receipt
from protocol.encoding import unb64u
from tests.bank.guards import drop_guards, without_constraints
from tests.bank.orders import (
    BANK,
    BANK_ID,
    SmallBank,
    book_one,
    busy_bank,
    sign_order,
    transfer,
)
from tests.bank.parties import bundle_object, identity_of, make_account, signed_bundle

pytestmark = pytest.mark.django_db


@pytest.fixture
def bank() -> SmallBank:
    return busy_bank()


def problems() -> list[str]:
    return [str(problem) for problem in verify_ledger(BANK_ID)]


def test_a_healthy_ledger_passes(bank: SmallBank) -> None:
    tally = Tally()
    assert [str(problem) for problem in verify_ledger(BANK_ID, tally=tally)] == []
    assert tally.rows == {
        "bank_account": 5,
        "bank_order": 9,
        "bank_transfer": 6,
        "bank_entry": 12,
    }


def test_an_empty_ledger_passes() -> None:
    assert problems() == []


# --- Tampering ----------------------------------------------------------------------------------


def newest_entry() -> Entry:
    return Entry.objects.filter(amount__lt=0).order_by("-transfer_id")[0]


def a_transfer() -> Transfer:
    return Transfer.objects.get(kind="withdrawal")


def an_order() -> Order:
    return Order.objects.get(operation="withdraw")


def tamper_entry_amount() -> str:
    entry = newest_entry()
    Entry.objects.filter(pk=entry.pk).update(amount=entry.amount + 1)
    return f"bank_entry {entry.pk}: has amount {entry.amount + 1}, which its transfer doesn't say"


def tamper_balance_after() -> str:
    entry = Entry.objects.filter(account__number="account2").order_by("transfer_id")[0]
    Entry.objects.filter(pk=entry.pk).update(balance_after=7)
    return f"bank_entry {entry.pk}: has balance_after 7; it should be 1000"


def tamper_balance() -> str:
    account = Account.objects.get(number="account2")
    Account.objects.filter(pk=account.pk).update(balance=10**6)
    return f"bank_account {account.pk}: has balance 1000000; its entries make 1010"


def tamper_held() -> str:
    account = Account.objects.get(number="account2")
    Account.objects.filter(pk=account.pk).update(held=500)
    return f"bank_account {account.pk}: has 500 on hold, which nothing put there"


def both_balances_so_that_the_sum_stays() -> str:
    Account.objects.filter(number="account2").update(balance=F("balance") + 5)
    account = Account.objects.get(number="account3")
    Account.objects.filter(pk=account.pk).update(balance=F("balance") - 5)
    return f"bank_account {account.pk}: has balance 985; its entries make 990"


def tamper_entry_deleted() -> str:
    entry = newest_entry()
    delete("bank_entry", f"account_id = {entry.account_id} AND transfer_id = {entry.transfer_id}")
    return f"bank_transfer {entry.transfer_id}: its debit entry says None"


def money_from_nowhere() -> str:
    Entry.objects.create(
        account=Account.objects.get(number="account3"),
        transfer=a_transfer(),
        amount=5,
        balance_after=5,
    )
    row = (Account.objects.get(number="account3").pk, a_transfer().pk)
    return f"bank_entry {row}: has amount 5, which its transfer doesn't say"


def tamper_transfer_amount() -> str:
    booked = a_transfer()
    Transfer.objects.filter(pk=booked.pk).update(amount=1)
    return f"bank_transfer {booked.pk}: amount is 1; signed was 100"


def whole_transfer_changed_consistently() -> str:
    """Entries and balances made to fit the forged amount: only the signature tells."""
    booked = a_transfer()
    Transfer.objects.filter(pk=booked.pk).update(amount=1)
    for account, amount in ((booked.debit_account, -1), (booked.credit_account, 1)):
        entry = Entry.objects.filter(account=account, transfer=booked)
        difference = amount - entry.get().amount
        entry.update(amount=amount)
        later = Entry.objects.filter(account=account, transfer_id__gte=booked.pk)
        later.update(balance_after=F("balance_after") + difference)
        Account.objects.filter(pk=account.pk).update(balance=F("balance") + difference)
    return f"bank_transfer {booked.pk}: amount is 1; signed was 100"


def tamper_transfer_account() -> str:
    booked = a_transfer()
    other = Account.objects.get(number="account3")
    Transfer.objects.filter(pk=booked.pk).update(debit_account=other)
    return f"bank_transfer {booked.pk}: debit_number is account3; signed was account2"


def tamper_transfer_kind() -> str:
    Transfer.objects.filter(pk=a_transfer().pk).update(kind="deposit")
    return f"bank_transfer {a_transfer_id()}: kind is deposit; signed was withdrawal"


def a_transfer_id() -> int:
    return Transfer.objects.get(order=an_order()).pk


def tamper_value_date() -> str:
    booked = Transfer.objects.get(value_date__isnull=False)
    Transfer.objects.filter(pk=booked.pk).update(value_date="2020-01-01")
    return f"bank_transfer {booked.pk}: value_date is 2020-01-01; signed was 2026-01-01"


def tamper_booking_time() -> str:
    booked = a_transfer()
    Transfer.objects.filter(pk=booked.pk).update(booked_at=booked.booked_at - timedelta(days=1))
    return f"bank_transfer {booked.pk}: was booked at another time than its order"


def transfer_deleted_with_its_entries() -> str:
    booked, order = a_transfer(), an_order()
    delete("bank_entry", f"transfer_id = {booked.pk}")
    delete("bank_transfer", f"id = {booked.pk}")
    return f"bank_order {order.pk}: was accepted, but there is no transfer"


def order_deleted() -> str:
    booked, order = a_transfer(), an_order()
    delete("bank_order", f"id = {order.pk}")
    return f"bank_transfer {booked.pk}: stands behind order {order.pk}, which does not exist"


def transfer_of_a_refused_order() -> str:
    booked = a_transfer()
    refused = Order.objects.get(code="insufficient_funds")
    Transfer.objects.filter(pk=booked.pk).update(order=refused)
    return f"bank_transfer {booked.pk}: stands behind the refused order {refused.pk}"


def tamper_evidence() -> str:
    order = an_order()
    evidence = bytes(order.evidence).replace(b'"100"', b'"900"')
    assert evidence != bytes(order.evidence)
    Order.objects.filter(pk=order.pk).update(evidence=evidence)
    return f"bank_order {order.pk}: evidence: evidence_hash is not its hash"


def evidence_with_its_hash() -> str:
    order = an_order()
    evidence = bytes(order.evidence).replace(b'"100"', b'"900"')
    Order.objects.filter(pk=order.pk).update(
        evidence=evidence, evidence_hash=hashlib.sha256(evidence).digest()
    )
    return f"bank_order {order.pk}: evidence: no key that was in force for this person signed it"


def evidence_of_another_order() -> str:
    order = an_order()
    signed = sign_order("ada", transfer("account1", "account2", 1))
    Order.objects.filter(pk=order.pk).update(evidence=signed.evidence, evidence_hash=signed.hash)
    return f"bank_order {order.pk}: evidence: order_id is not the signed one"


def order_given_to_somebody_else() -> str:
    order = an_order()
    ben = Order.objects.filter(person__client_id="ben")[0].person
    Order.objects.filter(pk=order.pk).update(person=ben)
    return f"bank_order {order.pk}: evidence: no key that was in force for this person signed it"


def tamper_receipt() -> str:
    order = an_order()
    receipt = bytes(order.receipt).replace(b'"amount":100', b'"amount":900')
    assert receipt != bytes(order.receipt)
    Order.objects.filter(pk=order.pk).update(receipt=receipt)
    return f"bank_order {order.pk}: receipt: no key of the bank signed it"


def receipt_signed_by_the_bank_about_something_else() -> str:
    order = an_order()
    says = msgspec.json.decode(bytes(order.receipt), type=Receipt)
    signed = sign_receipt(BANK.key, msgspec.structs.replace(says, transfers=[]))
    Order.objects.filter(pk=order.pk).update(
        receipt=signed.raw, receipt_signature=unb64u(signed.signature)
    )
    return f"bank_order {order.pk}: receipt: says other transfers"


def receipt_with_another_balance() -> str:
    order = an_order()
    says = msgspec.json.decode(bytes(order.receipt), type=Receipt)
    (line,) = says.balances
    forged = msgspec.structs.replace(says, balances=[msgspec.structs.replace(line, balance=1)])
    signed = sign_receipt(BANK.key, forged)
    Order.objects.filter(pk=order.pk).update(
        receipt=signed.raw, receipt_signature=unb64u(signed.signature)
    )
    return f"bank_order {order.pk}: receipt: says that account2 has 1"


def refusal_turned_round() -> str:
    order = Order.objects.get(code="insufficient_funds")
    Order.objects.filter(pk=order.pk).update(outcome="accepted", code="")
    return f"bank_order {order.pk}: was accepted, but there is no transfer"


def refusal_renamed() -> str:
    order = Order.objects.get(code="insufficient_funds")
    Order.objects.filter(pk=order.pk).update(code="limit_exceeded")
    return f"bank_order {order.pk}: receipt: says code 'insufficient_funds'"


def operation_renamed() -> str:
    order = an_order()
    Order.objects.filter(pk=order.pk).update(operation="transfer")
    return f"bank_order {order.pk}: operation is not the signed one, 'withdraw'"


def key_replaced() -> str:
    key = PersonKey.objects.get(person__client_id="ada")
    other = identity_of("ada", 2).public
    PersonKey.objects.filter(pk=key.pk).update(identity_key=other)
    return (
        f"bank_order {an_order().pk}: evidence: no key that was in force for this person signed it"
    )


def key_revoked_before_the_order() -> str:
    PersonKey.objects.filter(person__client_id="ada").update(
        revoked_at=timezone.now() - timedelta(hours=1)
    )
    return (
        f"bank_order {an_order().pk}: evidence: no key that was in force for this person signed it"
    )


def trigger_dropped() -> str:
    return "trigger bank_entry_no_update: is missing or switched off"


def delete(table: str, condition: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(f"DELETE FROM {table} WHERE {condition}")


TAMPERINGS = [
    tamper_entry_amount,
    tamper_balance_after,
    tamper_balance,
    tamper_held,
    both_balances_so_that_the_sum_stays,
    tamper_entry_deleted,
    money_from_nowhere,
    tamper_transfer_amount,
    whole_transfer_changed_consistently,
    tamper_transfer_account,
    tamper_transfer_kind,
    tamper_value_date,
    tamper_booking_time,
    transfer_deleted_with_its_entries,
    order_deleted,
    transfer_of_a_refused_order,
    tamper_evidence,
    evidence_with_its_hash,
    evidence_of_another_order,
    order_given_to_somebody_else,
    tamper_receipt,
    receipt_signed_by_the_bank_about_something_else,
    receipt_with_another_balance,
    refusal_turned_round,
    refusal_renamed,
    operation_renamed,
    key_replaced,
    key_revoked_before_the_order,
    trigger_dropped,
]


@pytest.mark.parametrize("tamper", TAMPERINGS)
def test_what_was_tampered_with_is_named(bank: SmallBank, tamper: Callable[[], str]) -> None:
    drop_guards()
    expected = tamper()
    found = problems()
    assert any(line.startswith(expected) for line in found), found


def bens_key() -> PersonKey:
    return PersonKey.objects.get(person__client_id="ben")


KEY_CHANGES: dict[str, tuple[dict[str, object], str]] = {
    "identity key": (
        {"identity_key": identity_of("ben", 2).public},
        "identity_key is not that of its bundle",
    ),
    "fingerprint": ({"fingerprint": "0" * 32}, "fingerprint is not that of its bundle"),
    "generation": ({"generation": 9}, "generation is not that of its bundle"),
    "no bundle": ({"bundle": {}}, "its bundle is broken: "),
    "a bundle of noise": (
        {"bundle": {"bundle": "x", "signature": "y", "previous_signature": None}},
        "its bundle is broken: ",
    ),
    "somebody else's bundle": (
        {"bundle": bundle_object(signed_bundle("ada"))},
        "person is not that of its bundle",
    ),
}


@pytest.mark.parametrize(("changes", "words"), KEY_CHANGES.values(), ids=KEY_CHANGES)
def test_a_key_that_does_not_fit_its_bundle_is_named(
    bank: SmallBank, changes: dict[str, object], words: str
) -> None:
    drop_guards()
    PersonKey.objects.filter(pk=bens_key().pk).update(**changes)
    expected = f"bank_personkey {bens_key().pk}: {words}"
    assert any(line.startswith(expected) for line in problems()), problems()


def test_a_reference_to_nothing_is_named(bank: SmallBank) -> None:
    drop_guards()
    entry = newest_entry()
    Entry.objects.filter(pk=entry.pk).update(account_id=999_999)
    found = problems()
    row = (999_999, entry.transfer_id)
    assert f"bank_entry {row}: account leads to bank_account 999999, which does not exist" in found
    assert f"bank_entry {row}: is of an account that does not exist" in found


def test_a_row_that_breaks_a_constraint_is_named(bank: SmallBank) -> None:
    drop_guards()
    account = Account.objects.get(number="account3")
    with without_constraints("bank_account"):
        Account.objects.filter(pk=account.pk).update(balance=-5)
    found = problems()
    assert (
        f"bank_account {account.pk}: breaks bank_account_not_overdrawn: "
        "The account would be overdrawn." in found
    )
    if connection.vendor == "postgresql":
        assert "bank_account: the constraint bank_account_not_overdrawn is missing" in found


def test_two_rows_that_are_one_are_named(bank: SmallBank) -> None:
    """As after a dropped index: the same order twice."""
    drop_guards()
    order = an_order()
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute("ALTER TABLE bank_order DROP CONSTRAINT bank_order_once")
        else:
            # SQLite keeps the constraint in the table, so the table is copied without it.
            cursor.execute("ALTER TABLE bank_order RENAME TO bank_order_old")
            cursor.execute("CREATE TABLE bank_order AS SELECT * FROM bank_order_old")
    order.pk += 1000
    order.save(force_insert=True)
    assert any("2 rows break bank_order_once" in line for line in problems())


def test_an_order_that_was_booked_after_its_expiry_is_named(bank: SmallBank) -> None:
    drop_guards()
    order = an_order()
    Order.objects.filter(pk=order.pk).update(received_at=order.received_at + timedelta(days=2))
    assert f"bank_order {order.pk}: evidence: had expired when it was booked" in problems()


def test_orders_signed_with_earlier_keys_stay_good(bank: SmallBank) -> None:
    PersonKey.objects.filter(person=bank.ada).update(
        revoked_at=timezone.now(), revocation_reason="rotated"
    )
    assert problems() == []


def test_verification_writes_nothing_and_can_run_twice(bank: SmallBank) -> None:
    make_account("fresh", bank.ada)
    assert problems() == problems() == []
    book_one(bank.ada, transfer("account2", "fresh", 1))
    assert problems() == []
