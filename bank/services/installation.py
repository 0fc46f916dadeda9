"""Setting up the bank itself: its organization, its own person, its currencies and accounts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from django.db import transaction

from bank.audit import Actor
from bank.errors import ChangeFault, ChangeRefusedError
from bank.models import Currency, Employee, Organization, Permission, Person
from bank.services.accounts import create_currency, ensure_bank_accounts
from bank.services.employees import hire_employee
from bank.services.keys import enrol_key, key_in_force
from bank.services.organizations import ensure_bank_organization
from bank.services.persons import register_person
from protocol.bundles import Bundle

__all__ = ["NewCurrency", "ensure_bank"]


@dataclass(frozen=True, slots=True)
class NewCurrency:
    """A currency that the bank shall have."""

    code: str
    exponent: int
    name: str


def ensure_bank(
    actor: Actor,
    bundle: Bundle,
    *,
    organization_code: str,
    organization_name: str,
    currencies: Sequence[NewCurrency],
) -> Organization:
    """Make everything that the bank needs and doesn't have yet; what is there stays as it is.

    The bank's own person bears the id and the name of its bundle, whose key is enrolled, and may
    deposit: opening balances are that person's orders.

    :raises ChangeRefusedError: something is there and different: another key is in force, or a
        currency has another exponent. Nothing was changed then.
    """
    with transaction.atomic():
        organization = ensure_bank_organization(actor, organization_code, organization_name)
        person = _ensure_person(actor, bundle)
        if not Employee.objects.filter(organization=organization, person=person).exists():
            hire_employee(actor, organization, person, permissions=[Permission.DEPOSIT])
        for wanted in currencies:
            ensure_bank_accounts(actor, organization, _ensure_currency(actor, wanted))
    return organization


def _ensure_person(actor: Actor, bundle: Bundle) -> Person:
    person = Person.objects.filter(client_id=bundle.id).first()
    if person is None:
        person = register_person(actor, bundle.id, bundle.first_name, bundle.last_name)
    current = key_in_force(person)
    # A newer bundle of the same identity is the same bank: its prekeys are rotated daily.
    if current is None or bytes(current.identity_key) != bundle.identity_key:
        enrol_key(actor, person, bundle.signed)
    return person


def _ensure_currency(actor: Actor, wanted: NewCurrency) -> Currency:
    currency = Currency.objects.filter(code=wanted.code).first()
    if currency is None:
        return create_currency(actor, wanted.code, wanted.exponent, wanted.name)
    if currency.exponent != wanted.exponent:
        raise ChangeRefusedError(
            ChangeFault.ALREADY_EXISTS,
            f"The currency {wanted.code} exists with {currency.exponent} decimal places.",
        )
    return currency
