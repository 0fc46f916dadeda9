"""Employees and roles in the admin: a permission changed here counts for the next decision."""

from __future__ import annotations

import pytest
from django.test import Client

from bank.authorization import decide
from bank.models import Account, AuditRecord, Employee, Organization, Person, Role
from tests.bank.admin.pages import address, post_edited, saved, search, text_of
from tests.bank.parties import (
    make_account,
    make_employee,
    make_organization,
    make_person,
    make_role,
)
from tests.bank.unchanged import nothing_changed

pytestmark = pytest.mark.django_db


@pytest.fixture
def club() -> Organization:
    return make_organization("demo-club")


@pytest.fixture
def account(club: Organization) -> Account:
    return make_account("account1", club)


@pytest.fixture
def ada() -> Person:
    return make_person("demo-ada")


def test_employees_are_listed_with_what_they_may(
    operator: Client, club: Organization, ada: Person
) -> None:
    hired = make_employee(club, ada, "view", "transfer")
    hired.roles.add(make_role(club, "movers", "withdraw"))
    make_employee(make_organization("rival"), make_person("demo-ben"))
    page = text_of(operator.get(address(Employee, "changelist")))
    assert "transfer, view" in page
    assert "movers" in page
    assert search(operator, Employee, "demo-ada") == [hired]
    assert search(operator, Employee, "demo-club") == [hired]


def test_a_permission_ticked_counts_for_the_next_decision_and_no_longer(
    operator: Client, club: Organization, account: Account, ada: Person
) -> None:
    employee = make_employee(club, ada, "view")
    url = address(Employee, "change", employee.pk)
    assert not decide(ada, account, "transfer")
    saved(post_edited(operator, url, permissions=["view", "transfer"]))
    assert decide(ada, account, "transfer")
    record = AuditRecord.objects.get()
    assert record.actor == "user:demo-root"
    assert record.changes == {"permissions": [["view"], ["transfer", "view"]]}
    saved(post_edited(operator, url, permissions=["view"]))
    assert not decide(ada, account, "transfer")
    saved(post_edited(operator, url, permissions=[]))
    assert not decide(ada, account, "view")


def test_a_role_ticked_counts_for_the_next_decision(
    operator: Client, club: Organization, account: Account, ada: Person
) -> None:
    employee, role = make_employee(club, ada), make_role(club, "movers", "view", "transfer")
    saved(post_edited(operator, address(Employee, "change", employee.pk), roles=[str(role.pk)]))
    assert decide(ada, account, "transfer")
    saved(post_edited(operator, address(Role, "change", role.pk), permissions=["view"]))
    assert not decide(ada, account, "transfer")
    assert decide(ada, account, "view")


def test_suspension_and_limit_count_for_the_next_decision(
    operator: Client, club: Organization, account: Account, ada: Person
) -> None:
    employee = make_employee(club, ada, "view", "transfer")
    url = address(Employee, "change", employee.pk)
    saved(post_edited(operator, url, order_limit="40"))
    assert decide(ada, account, "transfer").order_limit == 40
    saved(post_edited(operator, url, status="suspended"))
    assert not decide(ada, account, "transfer")


def test_an_employee_is_added_and_roles_are_given_afterwards(
    operator: Client, club: Organization, account: Account, ada: Person
) -> None:
    make_role(club, "movers", "transfer")
    page = text_of(operator.get(address(Employee, "add")))
    assert "movers" not in page
    saved(
        operator.post(
            address(Employee, "add"),
            {
                "organization": club.pk,
                "person": ada.pk,
                "status": "active",
                "permissions": ["view"],
            },
        )
    )
    assert decide(ada, account, "view")
    page = text_of(operator.get(address(Employee, "change", Employee.objects.get().pk)))
    assert "movers" in page


def test_a_role_is_added_with_its_permissions(operator: Client, club: Organization) -> None:
    saved(
        operator.post(
            address(Role, "add"),
            {"organization": club.pk, "name": "movers", "permissions": ["transfer", "view"]},
        )
    )
    role = Role.objects.get()
    assert sorted(one.permission for one in role.permissions.all()) == ["transfer", "view"]
    assert search(operator, Role, "mov") == [role]


@pytest.mark.parametrize("model", [Employee, Role])
def test_deposit_outside_the_bank_is_refused_with_words(
    operator: Client, club: Organization, ada: Person, model: type[Employee] | type[Role]
) -> None:
    values = {
        "organization": club.pk,
        "person": ada.pk,
        "name": "tellers",
        "status": "active",
        "permissions": ["deposit"],
    }
    with nothing_changed():
        page = text_of(operator.post(address(model, "add"), values))
    assert "Only employees of the bank may deposit" in page


def test_an_employment_stays_with_its_organization_and_person(
    operator: Client, club: Organization, ada: Person
) -> None:
    employee = make_employee(club, ada, "view")
    edits = {
        "organization": str(make_organization("rival").pk),
        "person": str(make_person("demo-ben").pk),
    }
    with nothing_changed():
        saved(post_edited(operator, address(Employee, "change", employee.pk), **edits))
