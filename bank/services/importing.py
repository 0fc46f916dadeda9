"""Bringing a file of persons, organizations, accounts and permissions into the books."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum

from django.db import transaction

from bank.audit import Actor
from bank.errors import ChangeFault, ChangeRefusedError
from bank.models import Account, Currency, Employee, Organization, Person, PersonKey, Role
from bank.permissions_file import FileOrganization, FilePerson, PermissionsFile
from bank.services.accounts import create_currency, ensure_bank_accounts, open_account
from bank.services.employees import hire_employee, set_employee_grants
from bank.services.keys import enrol_key, key_in_force, rotate_key
from bank.services.organizations import create_organization, rename_organization
from bank.services.persons import register_nameless, register_person, rename_person
from bank.services.roles import create_role, set_role_permissions
from protocol.bundles import Bundle
from protocol.identifiers import CURRENCY_PATTERN
from protocol.limits import CURRENCY_CODE_CHARS_MAX

__all__ = ["Change", "ImportReport", "choose_currency", "import_permissions"]


class Change(StrEnum):
    """What became of one thing that the file names."""

    CREATED = "created"
    CHANGED = "changed"
    UNCHANGED = "unchanged"


@dataclass(slots=True)
class ImportReport:
    """What an import did.

    :param lines: for each thing its kind, its name and what became of it, in the file's order.
    :param accounts: every account that the file names.
    :param new_accounts: those of them that were opened.
    """

    lines: list[tuple[str, str, Change]] = field(default_factory=list)
    accounts: list[Account] = field(default_factory=list)
    new_accounts: list[Account] = field(default_factory=list)

    def count(self, change: Change) -> int:
        """Return how many things ended so."""
        return sum(1 for *_, one in self.lines if one is change)


def choose_currency(actor: Actor, code: str | None, exponent: int | None) -> Currency:
    """Return the currency in which accounts are opened; a new one gets the bank's own accounts.

    :param code: ``None`` for the only currency that there is.
    :param exponent: decimal places of a currency that may be new.
    :raises ChangeRefusedError: it is not clear which one, it has other decimal places, or the code
        can't be one.
    """
    if code is None:
        existing = list(Currency.objects.all()[:2])
        if not existing:
            raise ChangeRefusedError(
                ChangeFault.NOT_FOUND,
                "There is no currency yet; make one with --currency and --exponent.",
            )
        if len(existing) > 1:
            raise ChangeRefusedError(
                ChangeFault.NOT_FOUND,
                "There are several currencies; say which one with --currency.",
            )
        return existing[0]
    if not re.match(CURRENCY_PATTERN, code):
        raise ChangeRefusedError(
            ChangeFault.BAD_VALUE,
            f"--currency: {code!r} is no code of a currency: 3 to {CURRENCY_CODE_CHARS_MAX} "
            "capital letters and digits, beginning with a letter.",
        )
    currency = Currency.objects.filter(code=code).first()
    if currency is not None:
        if exponent not in (None, currency.exponent):
            raise ChangeRefusedError(
                ChangeFault.ALREADY_EXISTS,
                f"The currency {code} has {currency.exponent} decimal places, not {exponent}.",
            )
        return currency
    if exponent is None:
        raise ChangeRefusedError(
            ChangeFault.NOT_FOUND,
            f"There is no currency {code}; to make it, say with --exponent how many decimal places "
            "it has.",
        )
    with transaction.atomic(), _at(f"currency {code}"):
        currency = create_currency(actor, code, exponent, code)
        bank = Organization.objects.filter(is_bank=True).first()
        if bank is not None:
            ensure_bank_accounts(actor, bank, currency)
    return currency


def import_permissions(actor: Actor, content: PermissionsFile, currency: Currency) -> ImportReport:
    """Bring everything that a file says into the books, or nothing.

    What is there and says the same stays as it is, so a file may be imported again. What the file
    doesn't name is left alone; who and what it names gets exactly the permissions of the file.

    :raises ChangeRefusedError: with the path in the file in front of the words.
    """
    with transaction.atomic():
        importer = _Importer(actor, currency)
        for person in content.persons:
            importer.person(person)
        for organization in content.organizations:
            importer.organization(organization)
    return importer.report


class _Importer:
    """One import: what it has done so far."""

    def __init__(self, actor: Actor, currency: Currency) -> None:
        self._actor = actor
        self._currency = currency
        self.report = ImportReport()

    def person(self, wanted: FilePerson) -> None:
        path = f"persons.{wanted.client_id}"
        with _at(path):
            person = self._person(wanted)
        if wanted.bundle is not None:
            with _at(f"{path}.public_key"):
                self._key(person, wanted.bundle)
        self._account(wanted.account, person, path)

    def organization(self, wanted: FileOrganization) -> None:
        path = f"organizations.{wanted.code}"
        with _at(path):
            organization = self._organization(wanted)
        roles = {}
        for name, permissions in wanted.roles.items():
            with _at(f"{path}.roles.{name}"):
                roles[name] = self._role(organization, name, set(permissions))
        for employee in wanted.employees:
            with _at(f"{path}.employees.{employee.client_id}"):
                self._employee(
                    organization,
                    Person.objects.get(client_id=employee.client_id),
                    set(employee.permissions),
                    {roles[name] for name in employee.roles},
                )
        self._account(wanted.account, organization, path)

    def _person(self, wanted: FilePerson) -> Person:
        person = Person.objects.filter(client_id=wanted.client_id).first()
        if person is None:
            if wanted.name is None:
                person = register_nameless(self._actor, wanted.client_id)
            else:
                person = register_person(self._actor, wanted.client_id, *wanted.name)
            self._note("person", wanted.client_id, Change.CREATED)
            return person
        change = Change.UNCHANGED
        if wanted.name not in (None, (person.first_name, person.last_name)):
            rename_person(self._actor, person, *wanted.name)
            change = Change.CHANGED
        self._note("person", wanted.client_id, change)
        return person

    def _key(self, person: Person, bundle: Bundle) -> None:
        current = key_in_force(person)
        if current is None:
            enrol_key(self._actor, person, bundle.signed)
            change = Change.CREATED
        elif _is_older(bundle, current):
            # The person has rotated since the file was written; the identity is the same.
            change = Change.UNCHANGED
        else:
            kept = rotate_key(self._actor, person, bundle.signed)
            change = Change.UNCHANGED if kept == current else Change.CHANGED
        self._note("key", person.client_id, change)

    def _account(self, number: str, owner: Person | Organization, path: str) -> None:
        with _at(f"{path}.account"):
            account = Account.objects.filter(number=number).first()
            change = Change.UNCHANGED
            if account is None:
                account = open_account(self._actor, number, owner, self._currency)
                self.report.new_accounts.append(account)
                change = Change.CREATED
            elif account.owner != owner:
                raise ChangeRefusedError(
                    ChangeFault.ALREADY_EXISTS,
                    f"account {number} exists and belongs to {account.owner}.",
                )
            elif account.currency != self._currency:
                raise ChangeRefusedError(
                    ChangeFault.ALREADY_EXISTS,
                    f"account {number} exists with the currency {account.currency}.",
                )
            self.report.accounts.append(account)
            self._note("account", number, change)

    def _organization(self, wanted: FileOrganization) -> Organization:
        organization = Organization.objects.filter(code=wanted.code).first()
        change = Change.UNCHANGED
        if organization is None:
            name = wanted.name or wanted.code
            organization = create_organization(self._actor, wanted.code, name)
            change = Change.CREATED
        elif wanted.name not in (None, organization.name):
            rename_organization(self._actor, organization, wanted.name)
            change = Change.CHANGED
        self._note("organization", wanted.code, change)
        return organization

    def _role(self, organization: Organization, name: str, permissions: set[str]) -> Role:
        role = Role.objects.filter(organization=organization, name=name).first()
        change = Change.UNCHANGED
        if role is None:
            role = create_role(self._actor, organization, name, permissions)
            change = Change.CREATED
        elif set(role.permissions.values_list("permission", flat=True)) != permissions:
            set_role_permissions(self._actor, role, permissions)
            change = Change.CHANGED
        self._note("role", f"{organization.code}/{name}", change)
        return role

    def _employee(
        self, organization: Organization, person: Person, permissions: set[str], roles: set[Role]
    ) -> None:
        employee = Employee.objects.filter(organization=organization, person=person).first()
        change = Change.UNCHANGED
        if employee is None:
            hire_employee(self._actor, organization, person, permissions=permissions, roles=roles)
            change = Change.CREATED
        elif (
            set(employee.permissions.values_list("permission", flat=True)) != permissions
            or set(employee.roles.all()) != roles
        ):
            set_employee_grants(self._actor, employee, permissions, roles)
            change = Change.CHANGED
        self._note("employee", f"{organization.code}/{person.client_id}", change)

    def _note(self, kind: str, name: str, change: Change) -> None:
        self.report.lines.append((kind, name, change))


def _is_older(bundle: Bundle, current: PersonKey) -> bool:
    same_identity = bytes(current.identity_key) == bundle.identity_key
    return same_identity and bundle.generation < current.generation


@contextmanager
def _at(path: str) -> Iterator[None]:
    """Put the place in the file in front of whatever is refused in the block."""
    try:
        yield
    except ChangeRefusedError as error:
        raise ChangeRefusedError(error.fault, f"{path}: {error.words}") from error
