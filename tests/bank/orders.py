"""Signed orders for tests, and a small bank to give them to."""

from __future__ import annotations

import hashlib
import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from bank.incoming import BankIdentity, IncomingOrder, OrderOutcome
from bank.ledger import book
from bank.models import Account, AccountKind, Currency, Organization, Person
from protocol.banking import ORDER_PURPOSE, Issue, Receipt, Transfer, Withdraw, open_receipt
from protocol.bundles import open_bundle
from protocol.identifiers import uuid7
from protocol.keyfile import KeyFile
from protocol.keys import fingerprint
from protocol.sealing import Envelope, Inner, SignedMessage, compose
from tests.bank.parties import (
    identity_of,
    make_account,
    make_currency,
    make_employee,
    make_organization,
    make_person,
    signed_bundle,
)

BANK_ID = "bank"
BANK = BankIdentity(BANK_ID, identity_of(BANK_ID))
DAY_MS = 86_400_000

_counter = itertools.count()


def bank_key_file() -> KeyFile:
    """The opened key file of :func:`small_bank`'s own person."""
    bundle = open_bundle(signed_bundle(BANK_ID))
    return KeyFile(BANK.key, (), bundle, demo=True, created_at=bundle.valid_from)


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def new_order_id() -> str:
    return uuid7(now_ms(), next(_counter).to_bytes(10, "big"))


def sign_order(
    client_id: str,
    order: msgspec.Struct,
    *,
    order_id: str | None = None,
    version: int = 1,
    lifetime_ms: int = DAY_MS,
    issued_at: int | None = None,
) -> SignedMessage:
    """An order, signed by the person's identity of that version."""
    identity = identity_of(client_id, version)
    envelope = Envelope(
        id=order_id or new_order_id(),
        re=None,
        sender=client_id,
        sender_fingerprint=fingerprint(client_id, identity.public),
        recipient=BANK_ID,
        recipient_fingerprint=BANK.fingerprint,
    )
    issued = now_ms() if issued_at is None else issued_at
    return compose(
        identity,
        envelope,
        purpose=ORDER_PURPOSE,
        content=order,
        issued_at=issued,
        expires_at=issued + lifetime_ms,
        reply_key=hashlib.sha256(envelope.id.encode()).digest(),
    )


def incoming(person: Person, signed: SignedMessage, *, version: int = 1) -> IncomingOrder:
    inner = msgspec.json.decode(signed.inner, type=Inner)
    key = identity_of(person.client_id, version).public
    return IncomingOrder.from_message(person.pk, key, signed, inner)


def order_of(
    person: Person,
    order: msgspec.Struct,
    *,
    order_id: str | None = None,
    version: int = 1,
    lifetime_ms: int = DAY_MS,
    issued_at: int | None = None,
) -> IncomingOrder:
    """An incoming order of that person."""
    signed = sign_order(
        person.client_id,
        order,
        order_id=order_id,
        version=version,
        lifetime_ms=lifetime_ms,
        issued_at=issued_at,
    )
    return incoming(person, signed, version=version)


def transfer(source: str, destination: str, amount: int | str, **fields: Any) -> Transfer:
    return Transfer(source, destination, str(amount), **fields)


def withdraw(account: str, amount: int | str, **fields: Any) -> Withdraw:
    return Withdraw(account, str(amount), **fields)


def receipt_in(outcome: OrderOutcome) -> Receipt:
    """The receipt, with its signature checked."""
    assert outcome.receipt is not None
    return open_receipt(outcome.receipt, BANK.key.public)


def book_one(person: Person, order: msgspec.Struct, *, order_id: str | None = None) -> OrderOutcome:
    (outcome,) = book([order_of(person, order, order_id=order_id)], BANK)
    return outcome


def balances(numbers: Sequence[str] | None = None) -> dict[str, int]:
    accounts = Account.objects.order_by("number")
    if numbers is not None:
        accounts = accounts.filter(number__in=numbers)
    return dict(accounts.values_list("number", "balance"))


@dataclass
class SmallBank:
    """Ada (`account2`), Ben (`account3`) and a club (`account1`), each with 1000, and the bank."""

    bank_person: Person
    bank_organization: Organization
    ada: Person
    ben: Person
    club: Organization
    currency: Currency
    accounts: dict[str, Account] = field(default_factory=dict)


def small_bank(opening: int = 1000) -> SmallBank:
    bank_organization = make_organization("the-bank", is_bank=True)
    bank_person = make_person(BANK_ID)
    make_employee(bank_organization, bank_person, "deposit")
    ada, ben, club = make_person("ada"), make_person("ben"), make_organization("club")
    make_employee(club, ada, "view", "transfer", "withdraw")
    make_employee(club, ben, "view", "withdraw")
    bank = SmallBank(bank_person, bank_organization, ada, ben, club, make_currency())
    make_own_accounts(bank, "TWC")
    for number, owner in (("account1", club), ("account2", ada), ("account3", ben)):
        bank.accounts[number] = make_account(number, owner)
    if opening:
        numbers = list(bank.accounts)
        orders = [order_of(bank_person, Issue(number, str(opening))) for number in numbers]
        assert all(outcome.code is None for outcome in book(orders, BANK))
    return bank


def make_own_accounts(bank: SmallBank, code: str, exponent: int = 0) -> None:
    """The bank's cash and issuance accounts of a currency."""
    for kind in (AccountKind.CASH, AccountKind.ISSUANCE):
        make_account(
            f"{kind.value}-{code}",
            bank.bank_organization,
            kind=kind,
            unlimited=True,
            currency=make_currency(code, exponent),
        )
