"""Every invariant of parties, grants, accounts and the audit trail holds in the database itself."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from django.apps import apps
from django.db import IntegrityError, connection, models, transaction
from django.utils import timezone

from bank.models import (
    Account,
    AuditRecord,
    Currency,
    Employee,
    EmployeePermission,
    Organization,
    Person,
    PersonKey,
    Role,
    RolePermission,
)
from protocol.bundles import open_bundle
from tests.bank.parties import (
    give,
    make_account,
    make_currency,
    make_employee,
    make_key,
    make_organization,
    make_person,
    make_role,
    signed_bundle,
)
from tests.bank.unchanged import nothing_changed

pytestmark = pytest.mark.django_db

Change = Callable[[], object]


@pytest.fixture
def rows() -> None:
    """One valid row of everything."""
    ada = make_person("demo-ada")
    make_person("demo-ben", with_key=False)
    club = make_organization("demo-club")
    make_employee(club, ada, "view")
    make_role(club, "movers", "transfer")
    make_account("account1", club)
    make_account("account2", ada)
    make_account("cash", club, kind="cash", unlimited=True)
    AuditRecord.objects.create(
        actor="user:demo-root", action="added", model="person", object_key="1", changes={}
    )


def persons(**values: object) -> Change:
    return lambda: Person.objects.filter(client_id="demo-ada").update(**values)


def keys(**values: object) -> Change:
    return lambda: PersonKey.objects.update(**values)


def accounts(**values: object) -> Change:
    return lambda: Account.objects.filter(number="account2").update(**values)


def club() -> Organization:
    return Organization.objects.get(code="demo-club")


def employee() -> Employee:
    return Employee.objects.get()


def new_record(**values: object) -> Change:
    fields = {"actor": "user:a", "action": "added", "model": "person", "changes": {}, **values}
    return lambda: AuditRecord.objects.create(**fields)


def second_key() -> object:
    ada = Person.objects.get(client_id="demo-ada")
    return make_key(ada, open_bundle(signed_bundle("demo-ada", generation=2)))


def same_key_again() -> object:
    key = PersonKey.objects.get()
    PersonKey.objects.update(revoked_at=timezone.now())
    return make_key(key.person, open_bundle(signed_bundle("demo-ada")))


def give_five() -> Account:
    account = Account.objects.get(number="account2")
    give(account, 5)
    return account


def close(account: Account) -> object:
    return Account.objects.filter(pk=account.pk).update(status="closed")


CASES: dict[str, Change | list[Change]] = {
    "bank_person_client_id_caseless": lambda: make_person("DEMO-ADA", with_key=False),
    "bank_person_client_id_form": [
        persons(client_id=""),
        persons(client_id="demo ada"),
        persons(client_id="demo-ada\n"),
        persons(client_id="\u00e4da"),
    ],
    "bank_person_first_name_form": [persons(first_name=""), persons(first_name="A,da")],
    "bank_person_last_name_form": [persons(last_name=""), persons(last_name="Test,")],
    "bank_person_status_known": persons(status="retired"),
    "bank_personkey_one_in_force": second_key,
    "bank_personkey_generation_once": same_key_again,
    "bank_personkey_fingerprint_form": [
        keys(fingerprint="F" * 32),
        keys(fingerprint="f" * 31),
        keys(fingerprint=""),
    ],
    "bank_personkey_identity_key_size": [
        keys(identity_key=b""),
        keys(identity_key=bytes(31)),
    ],
    "bank_personkey_reason_if_revoked": keys(revocation_reason="stolen"),
    "bank_organization_one_bank": lambda: [
        make_organization(code, is_bank=True) for code in ("one", "two")
    ],
    "bank_organization_code_form": lambda: Organization.objects.update(code="demo club"),
    "bank_organization_name_given": lambda: Organization.objects.update(name=""),
    "bank_role_name_once": lambda: make_role(club(), "movers"),
    "bank_role_name_given": lambda: Role.objects.update(name=""),
    "bank_rolepermission_once": lambda: RolePermission.objects.create(
        role=Role.objects.get(), permission="transfer"
    ),
    "bank_rolepermission_known": lambda: RolePermission.objects.update(permission="ADD"),
    "bank_employee_once": lambda: make_employee(club(), employee().person),
    "bank_employee_status_known": lambda: Employee.objects.update(status="retired"),
    "bank_employee_order_limit_not_negative": lambda: Employee.objects.update(order_limit=-1),
    "bank_employeepermission_once": lambda: EmployeePermission.objects.create(
        employee=employee(), permission="view"
    ),
    "bank_employeepermission_known": lambda: EmployeePermission.objects.update(permission=""),
    "bank_currency_code_form": lambda: Currency.objects.create(code="eu", exponent=2, name="x"),
    "bank_currency_exponent_range": [
        lambda: Currency.objects.create(code="EUR", exponent=7, name="x"),
    ],
    "bank_account_number_form": [accounts(number=""), accounts(number="my account")],
    "bank_account_one_owner": [
        accounts(owner_person=None),
        lambda: Account.objects.filter(number="account2").update(owner_organization=club()),
    ],
    "bank_account_kind_known": lambda: Account.objects.filter(number="account1").update(
        kind="savings"
    ),
    "bank_account_bank_kinds_of_organization": accounts(kind="issuance"),
    "bank_account_one_of_bank_kind": lambda: make_account(
        "cash2", club(), kind="cash", unlimited=True
    ),
    "bank_account_status_known": accounts(status="lost"),
    "bank_account_held_not_negative": accounts(held=-1),
    "bank_account_credit_limit_not_negative": accounts(credit_limit=-1),
    "bank_account_unlimited_only_bank": accounts(unlimited=True),
    "bank_account_not_overdrawn": [
        accounts(held=1),
        lambda: give(Account.objects.get(number="account2"), -1),
    ],
    "bank_account_closed_is_empty": lambda: close(give_five()),
    "bank_account_order_limit_not_negative": accounts(order_limit=-1),
    "bank_audit_action_known": new_record(action="seen"),
    "bank_audit_actor_given": new_record(actor=""),
}

TABLES = (
    Account,
    AuditRecord,
    Currency,
    Employee,
    EmployeePermission,
    Organization,
    Person,
    PersonKey,
    Role,
    RolePermission,
)


@pytest.mark.parametrize("name", CASES)
def test_the_database_holds_the_constraint(rows: None, name: str) -> None:
    case = CASES[name]
    for change in case if isinstance(case, list) else [case]:
        with nothing_changed(), pytest.raises(IntegrityError) as caught, transaction.atomic():
            change()
        assert name in str(caught.value) or _is_sqlite_unique(name, caught.value)


def _is_sqlite_unique(name: str, error: IntegrityError) -> bool:
    """SQLite names the columns of a unique constraint, not the constraint."""
    constraints = {one.name: one for model in TABLES for one in model._meta.constraints}
    unique = isinstance(constraints[name], models.UniqueConstraint)
    return unique and connection.vendor == "sqlite" and "UNIQUE" in str(error)


def test_every_constraint_has_a_case_and_words_of_its_own() -> None:
    constraints = {one.name: one for model in TABLES for one in model._meta.constraints}
    assert set(CASES) == set(constraints)
    default = "is violated"
    for constraint in constraints.values():
        assert default not in str(constraint.get_violation_error_message())


def test_every_model_has_names_in_plain_words() -> None:
    for model in apps.get_app_config("bank").get_models():
        assert str(model._meta.verbose_name).islower()
        assert str(model._meta.verbose_name_plural).islower()


def test_a_currency_with_accounts_is_protected(rows: None) -> None:
    currency = make_currency()
    with nothing_changed(), pytest.raises(models.ProtectedError):
        currency.delete()
