"""Orders of the bank itself: money comes into being by an order that the bank's own key signs.

They are booked like everybody's, by the group commit, so behind an opening balance stands the same
kind of evidence as behind every other transfer.

The id of an opening balance's order follows from the account's number. An order is booked once, so
an opening balance is, too, however many programs issue it at the same time. A refusal is recorded
and final; where there is one, the next id of the account is taken.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from bank.errors import BankSetupError
from bank.incoming import BankIdentity, IncomingOrder, OrderOutcome
from bank.ledger import book
from bank.models import Order, OrderResult, Person, PersonKey
from bank.receipts import stored_receipt
from protocol.banking import ORDER_PURPOSE, Issue
from protocol.errors import Code
from protocol.identifiers import uuid7
from protocol.keyfile import KeyFile
from protocol.keys import RandomBytes, format_fingerprint
from protocol.sealing import REPLY_KEY_BYTES, Envelope, SignedMessage, compose, verify_evidence

__all__ = [
    "book_issues",
    "check_bank_enrolled",
    "issue_opening_balances",
    "opening_order_id",
    "sign_issue",
]

ISSUE_LIFETIME_MS: Final = 600_000
BATCH_ORDERS: Final = 500
OPENING_ID_MS: Final = 0
"""The time in the id of an opening balance's order: the same whenever it is issued."""


def check_bank_enrolled(key_file: KeyFile) -> Person:
    """Return the bank's own row among the persons, if this is the key that is enrolled there.

    :raises BankSetupError: there is no such person, or another key is in force.
    """
    person = Person.objects.filter(client_id=key_file.client_id).first()
    if person is None:
        raise BankSetupError(
            f"the database knows no person {key_file.client_id!r}; run `manage.py init_bank`"
        )
    key = PersonKey.objects.filter(person=person, revoked_at__isnull=True).first()
    if key is None:
        raise BankSetupError(
            f"{person} has no enrolled key in force; run `manage.py init_bank`, or `manage.py "
            "enrol` for a new key"
        )
    if bytes(key.identity_key) != key_file.identity.public:
        enrolled = format_fingerprint(bytes.fromhex(key.fingerprint))
        raise BankSetupError(
            f"the key file has the fingerprint {format_fingerprint(key_file.fingerprint)}, but "
            f"enrolled for {key_file.client_id} is {enrolled}; use that key file, or enrol this "
            "key with `manage.py enrol`"
        )
    return person


def opening_order_id(account: str, refusals: int = 0) -> str:
    """Return the id under which the opening balance of an account is ordered.

    :param refusals: how many orders for it are recorded as refused.
    """
    text = f"opening {account} {refusals}".encode()
    return uuid7(OPENING_ID_MS, hashlib.sha256(text).digest()[:10])


def sign_issue(
    key_file: KeyFile,
    account: str,
    amount: str,
    *,
    now: int,
    random_bytes: RandomBytes,
    memo: str,
    order_id: str | None = None,
) -> SignedMessage:
    """Sign the order to issue an amount to an account.

    :param amount: decimal text, as everywhere in orders.
    :param now: milliseconds since the epoch.
    :param order_id: a new one by default.
    """
    envelope = Envelope(
        id=order_id or uuid7(now, random_bytes(10)),
        re=None,
        sender=key_file.client_id,
        sender_fingerprint=key_file.fingerprint,
        recipient=key_file.client_id,
        recipient_fingerprint=key_file.fingerprint,
    )
    return compose(
        key_file.identity,
        envelope,
        purpose=ORDER_PURPOSE,
        content=Issue(account, amount, memo=memo),
        issued_at=now,
        expires_at=now + ISSUE_LIFETIME_MS,
        reply_key=random_bytes(REPLY_KEY_BYTES),
    )


def book_issues(
    key_file: KeyFile, orders: Sequence[SignedMessage], *, using: str = "default"
) -> Iterator[OrderOutcome]:
    """Book signed orders of the bank, in batches; yield their outcomes in the same order.

    :raises BankSetupError: the bank's key is not enrolled.
    :raises LedgerError: the database failed.
    """
    person = check_bank_enrolled(key_file)
    bank = BankIdentity(key_file.client_id, key_file.identity)
    key = key_file.identity.public
    for start in range(0, len(orders), BATCH_ORDERS):
        batch = [
            IncomingOrder.from_message(
                person.pk, key, signed, verify_evidence(signed.evidence, key)
            )
            for signed in orders[start : start + BATCH_ORDERS]
        ]
        yield from book(batch, bank, using=using)


def issue_opening_balances(
    key_file: KeyFile,
    amounts: Sequence[tuple[str, str]],
    *,
    memo: str = "Opening balance",
    random_bytes: RandomBytes = os.urandom,
) -> list[tuple[str, OrderOutcome]]:
    """Issue an opening balance to each account once, and return how each order ended.

    Whose opening balance is booked already, by this program or another one, gets
    ``order_id_conflict``: the order's id is the same, its bytes, with the times, are others.

    :param amounts: pairs of account number and decimal text.
    :raises BankSetupError: the bank's key is not enrolled.
    :raises LedgerError: the database failed; see :func:`bank.ledger.book`.
    """
    person = check_bank_enrolled(key_file)
    now = time.time_ns() // 1_000_000
    ids = _opening_ids(person, [number for number, _ in amounts])
    orders = [
        sign_issue(
            key_file,
            number,
            amount,
            now=now,
            random_bytes=random_bytes,
            memo=memo,
            order_id=ids[number],
        )
        for number, amount in amounts
    ]
    outcomes = book_issues(key_file, orders)
    return [
        (number, _as_recorded(person, ids[number], outcome))
        for (number, _), outcome in zip(amounts, outcomes, strict=True)
    ]


def _opening_ids(person: Person, numbers: Iterable[str]) -> dict[str, str]:
    """Return for each account the first id under which no refusal is recorded."""
    chosen: dict[str, str] = {}
    candidates = {number: opening_order_id(number) for number in numbers}
    refusals = 0
    while candidates:
        chosen |= candidates
        refusals += 1
        refused = Order.objects.filter(
            person=person, order_id__in=candidates.values(), outcome=OrderResult.REFUSED
        )
        known = {str(order_id) for order_id in refused.values_list("order_id", flat=True)}
        candidates = {
            number: opening_order_id(number, refusals)
            for number, order_id in candidates.items()
            if order_id in known
        }
    return chosen


def _as_recorded(person: Person, order_id: str, outcome: OrderOutcome) -> OrderOutcome:
    """Return the refusal that another program got under this id a moment ago, if it got one."""
    if outcome.code is not Code.ORDER_ID_CONFLICT:
        return outcome
    recorded = Order.objects.get(person=person, order_id=order_id)
    if recorded.outcome == OrderResult.ACCEPTED:
        return outcome
    receipt = stored_receipt(bytes(recorded.receipt), bytes(recorded.receipt_signature))
    return OrderOutcome(Code(recorded.code), receipt)
