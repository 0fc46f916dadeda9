"""A bank with customers for tests of the whole chain: keys that really open and sign.

Ada owns ``account2`` and does everything for the club's ``account1``; Ben owns ``account3`` and may
see the club's account and withdraw from it; Carl owns ``account4`` and works for nobody; Tess is a
teller of the bank and has no account. Each customer's account is opened with 1000.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bank.audit import Actor
from bank.issuing import issue_opening_balances
from bank.models import Account, AccountStatus, Organization, Person
from bank.services.installation import NewCurrency, ensure_bank
from bank.services.keys import enrol_key
from bank.services.persons import register_person
from protocol.keyfile import Cost, KeyFile, encrypt_key_file, new_key_file
from tests.bank.parties import make_account, make_currency, make_employee, make_organization
from tests.relay.peer import now_ms

BANK_ID = "bank"
PASSPHRASE = "a passphrase for tests"
CHEAPEST = Cost(memory_kib=19 * 1024, passes=1, lanes=1)
OPENING = 1000
ACTOR = Actor("test:customers")

ACCOUNTS = ("account1", "account2", "account3", "account4")
TOTAL = OPENING * 8
"""What all customers' accounts hold together."""


@dataclass(frozen=True)
class Customers:
    """The keys of everybody, the bank's too, by client id."""

    keys: Mapping[str, KeyFile]

    @property
    def bank(self) -> KeyFile:
        return self.keys[BANK_ID]

    def __getitem__(self, client_id: str) -> KeyFile:
        return self.keys[client_id]


def key_file_of(client_id: str) -> KeyFile:
    """A new key file of somebody whose name follows from the id."""
    return new_key_file(
        client_id, client_id.capitalize(), "Test", now=now_ms(), random_bytes=os.urandom
    )


def write_bank_key(key_file: KeyFile, folder: Path) -> dict[str, str]:
    """Write the bank's key file; return what a bank's process needs in its environment."""
    key, passphrase = folder / "bank.key", folder / "passphrase"
    key.write_bytes(encrypt_key_file(key_file, PASSPHRASE, os.urandom, CHEAPEST))
    passphrase.write_text(PASSPHRASE + "\n", encoding="utf-8")
    return {
        "TELLERWIRE_BANK_KEY_FILE": str(key),
        "TELLERWIRE_BANK_PASSPHRASE_FILE": str(passphrase),
    }


def enrol(key_file: KeyFile) -> None:
    """Register a person and enrol the key."""
    person = register_person(ACTOR, key_file.client_id, key_file.first_name, key_file.last_name)
    enrol_key(ACTOR, person, key_file.signed_bundle)


def fill_bank() -> Customers:
    """Make the bank and its customers in the databases that Django is led to."""
    keys = {name: key_file_of(name) for name in (BANK_ID, "ada", "ben", "carl", "tess")}
    ensure_bank(
        ACTOR,
        keys[BANK_ID].bundle,
        organization_code="the-bank",
        organization_name="The Bank",
        currencies=[NewCurrency("TWC", 0, "Credits"), NewCurrency("EUX", 2, "Test euros")],
    )
    for name in ("ada", "ben", "carl", "tess"):
        enrol(keys[name])
    _employ()
    _open_accounts(keys[BANK_ID])
    return Customers(keys)


def _employ() -> None:
    club = make_organization("club")
    persons = {person.client_id: person for person in Person.objects.all()}
    make_employee(club, persons["ada"], "view", "transfer", "withdraw")
    make_employee(club, persons["ben"], "view", "withdraw")
    make_employee(Organization.objects.get(is_bank=True), persons["tess"], "deposit")


def _open_accounts(bank: KeyFile) -> None:
    persons = {person.client_id: person for person in Person.objects.all()}
    ada = persons["ada"]
    make_account("account1", Organization.objects.get(code="club"))
    for number, owner in (("account2", ada), ("account3", persons["ben"])):
        make_account(number, owner)
    make_account("account4", persons["carl"])
    make_account("frozen", ada)
    make_account("closed", ada)
    make_account("limited", ada, order_limit=10)
    make_account("euros", ada, currency=make_currency("EUX", 2))
    numbers = [*ACCOUNTS, "frozen", "limited"]
    amounts = [*((number, str(OPENING)) for number in numbers), ("euros", "10.00")]
    for number, outcome in issue_opening_balances(bank, amounts):
        assert outcome.code is None, (number, outcome)
    for status in (AccountStatus.FROZEN, AccountStatus.CLOSED):
        Account.objects.filter(number=status.value).update(status=status)
