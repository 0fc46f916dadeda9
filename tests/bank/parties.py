"""Rows that tests of the bank start from: persons with real keys, organizations, accounts."""

from __future__ import annotations

import hashlib
from functools import cache

import msgspec

from bank.models import (
    Account,
    AccountKind,
    Currency,
    Employee,
    EmployeePermission,
    Entry,
    Organization,
    Person,
    PersonKey,
    Role,
    RolePermission,
)
from protocol.bundles import Bundle, SignedBundle, make_bundle, open_bundle
from protocol.keys import EncryptionKey, IdentityKey, Prekey, Suite

VALID_FROM_MS = 1_700_000_000_000
VALID_TO_MS = VALID_FROM_MS + 19 * 365 * 86_400_000


def identity_of(client_id: str, version: int = 1) -> IdentityKey:
    """The same identity for the same id and version, in every run."""
    return IdentityKey(hashlib.sha256(f"identity {client_id} {version}".encode()).digest())


@cache
def _encryption_key(client_id: str) -> EncryptionKey:
    secret = hashlib.sha256(f"prekey {client_id}".encode()).digest()
    return Prekey(Suite.CLASSIC, secret, VALID_FROM_MS).public


def signed_bundle(
    client_id: str,
    *,
    generation: int = 1,
    version: int = 1,
    first_name: str | None = None,
    last_name: str = "Test",
    previous: IdentityKey | None = None,
) -> SignedBundle:
    """A bundle of the person's identity of that version, signed by ``previous`` where given."""
    return make_bundle(
        identity_of(client_id, version),
        client_id=client_id,
        first_name=first_name or client_id.capitalize(),
        last_name=last_name,
        generation=generation,
        encryption_keys=[_encryption_key(client_id)],
        valid_from=VALID_FROM_MS,
        valid_to=VALID_TO_MS,
        previous=previous,
    )


def bundle_object(signed: SignedBundle) -> dict[str, object]:
    """The bundle as the JSON object that files and rows hold."""
    return dict(msgspec.to_builtins(signed))


def make_person(client_id: str, *, with_key: bool = True) -> Person:
    person = Person.objects.create(
        client_id=client_id, first_name=client_id.capitalize(), last_name="Test"
    )
    if with_key:
        make_key(person, open_bundle(signed_bundle(client_id)))
    return person


def make_key(person: Person, bundle: Bundle) -> PersonKey:
    return PersonKey.objects.create(
        person=person,
        identity_key=bundle.identity_key,
        fingerprint=bundle.fingerprint.hex(),
        bundle=bundle_object(bundle.signed),
        generation=bundle.generation,
    )


def make_currency(code: str = "TWC", exponent: int = 0) -> Currency:
    return Currency.objects.get_or_create(
        code=code, defaults={"exponent": exponent, "name": f"{code} credits"}
    )[0]


def make_organization(code: str, *, is_bank: bool = False) -> Organization:
    return Organization.objects.create(code=code, name=code.capitalize(), is_bank=is_bank)


def make_account(number: str, owner: Person | Organization, **fields: object) -> Account:
    owner_field = "owner_person" if isinstance(owner, Person) else "owner_organization"
    values = {"kind": AccountKind.CUSTOMER, "currency": make_currency(), **fields}
    return Account.objects.create(number=number, **{owner_field: owner}, **values)


def make_employee(
    organization: Organization, person: Person, *permissions: str, **fields: object
) -> Employee:
    employee = Employee.objects.create(organization=organization, person=person, **fields)
    for permission in permissions:
        EmployeePermission.objects.create(employee=employee, permission=permission)
    return employee


def make_role(organization: Organization, name: str, *permissions: str) -> Role:
    role = Role.objects.create(organization=organization, name=name)
    for permission in permissions:
        RolePermission.objects.create(role=role, permission=permission)
    return role


def give(account: Account, amount: int, *, held: int = 0) -> None:
    """Let an account hold an amount, by the one entry that the guards of the balance look at.

    For tests of what surrounds the ledger: there is no order and no transfer behind it.
    """
    Entry.objects.create(
        account=account, transfer_id=account.pk, amount=amount, balance_after=amount
    )
    Account.objects.filter(pk=account.pk).update(balance=amount, held=held)
    account.refresh_from_db()
