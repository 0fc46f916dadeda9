"""Persons, organizations, employees and roles."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from django.db import IntegrityError, transaction
from django.db.models import ProtectedError

from bank import audit
from bank.audit import Actor
from bank.authorization import decide
from bank.errors import ChangeFault, ChangeRefusedError
from bank.models import AuditRecord, Employee, Person, Role
from bank.services import employees, organizations, persons, roles
from tests.bank.parties import make_account, make_organization, make_person, make_role
from tests.bank.unchanged import nothing_changed

pytestmark = pytest.mark.django_db

ACTOR = Actor("user:operator")


def test_a_person_is_registered_renamed_blocked_and_released() -> None:
    person = persons.register_person(ACTOR, "demo-ada", "Ada", "Ärlig")
    persons.rename_person(ACTOR, person, "Ada", "Beispiel")
    persons.block_person(ACTOR, person, "asked by the police")
    persons.release_person(ACTOR, person, "cleared up")
    person.refresh_from_db()
    assert str(person) == "Beispiel, Ada (demo-ada)"
    assert [record.changes for record in AuditRecord.objects.order_by("pk")][1:] == [
        {"last_name": ["Ärlig", "Beispiel"]},
        {"status": ["active", "blocked"]},
        {"status": ["blocked", "active"]},
    ]


@pytest.mark.parametrize(
    ("client_id", "first_name", "last_name"),
    [
        ("demo ada", "Ada", "Test"),
        ("-ada", "Ada", "Test"),
        ("a" * 65, "Ada", "Test"),
        ("demo-ada", "", "Test"),
        ("demo-ada", "Ada", "Test, Ada"),
        ("demo-ada", " Ada", "Test"),
        ("demo-ada", "A\u0000da", "Test"),
        ("demo-ada", "A\u0308da", "Test"),
        ("demo-ada", "Ada", "x" * 101),
        ("DEMO-BEN", "Ada", "Test"),
    ],
)
def test_a_wrong_person_is_refused(client_id: str, first_name: str, last_name: str) -> None:
    make_person("demo-ben")
    with nothing_changed(), pytest.raises(ChangeRefusedError):
        persons.register_person(ACTOR, client_id, first_name, last_name)


def test_blocking_twice_and_releasing_twice_are_refused() -> None:
    person = make_person("demo-ada")
    with nothing_changed(), pytest.raises(ChangeRefusedError, match="active already"):
        persons.release_person(ACTOR, person, "")
    persons.block_person(ACTOR, person, "")
    with nothing_changed(), pytest.raises(ChangeRefusedError, match="blocked already"):
        persons.block_person(ACTOR, person, "")


def test_there_is_one_bank() -> None:
    bank = organizations.ensure_bank_organization(ACTOR, "bank", "Demo bank")
    assert organizations.ensure_bank_organization(ACTOR, "other", "Other") == bank
    with nothing_changed(), pytest.raises(ChangeRefusedError, match="already an organ") as caught:
        organizations.create_organization(ACTOR, "second", "Second bank", is_bank=True)
    assert caught.value.fault is ChangeFault.ALREADY_EXISTS


def test_hiring_gives_what_is_given_and_records_it_at_once() -> None:
    person, club = make_person("demo-ada"), make_organization("club")
    account = make_account("account1", club)
    role = roles.create_role(ACTOR, club, "movers", ["transfer"])
    employee = employees.hire_employee(ACTOR, club, person, permissions=["view"], roles=[role])
    assert decide(person, account, "view")
    assert decide(person, account, "transfer")
    assert not decide(person, account, "withdraw")
    record = AuditRecord.objects.get(model="employee")
    assert record.changes["permissions"] == [None, ["view"]]
    assert record.changes["roles"] == [None, ["movers at Club"]]
    employees.set_employee_grants(ACTOR, employee, ["view", "withdraw"], [])
    assert not decide(person, account, "transfer")
    assert decide(person, account, "withdraw")
    assert AuditRecord.objects.filter(model="employee")[0].changes == {
        "permissions": [["view"], ["view", "withdraw"]],
        "roles": [["movers at Club"], []],
    }


def test_suspension_limit_and_dismissal() -> None:
    person, club = make_person("demo-ada"), make_organization("club")
    account = make_account("account1", club)
    employee = employees.hire_employee(ACTOR, club, person, permissions=["view", "transfer"])
    employees.set_employee_limit(ACTOR, employee, 30)
    assert decide(person, account, "transfer").order_limit == 30
    employees.suspend_employee(ACTOR, employee, "on leave")
    assert not decide(person, account, "transfer")
    employees.reinstate_employee(ACTOR, employee, "back")
    assert decide(person, account, "transfer")
    employees.dismiss_employee(ACTOR, employee, "left")
    assert not decide(person, account, "view")
    record = AuditRecord.objects.first()
    assert record is not None
    assert (record.action, record.reason) == ("deleted", "left")
    assert record.changes["permissions"] == [["transfer", "view"], None]


def test_the_permissions_of_a_role_change_for_all_who_have_it() -> None:
    person, club = make_person("demo-ada"), make_organization("club")
    account = make_account("account1", club)
    role = roles.create_role(ACTOR, club, "role", ["view"])
    employees.hire_employee(ACTOR, club, person, roles=[role])
    roles.set_role_permissions(ACTOR, role, ["view", "transfer"])
    assert decide(person, account, "transfer")
    roles.delete_role(ACTOR, role)
    assert not decide(person, account, "view")


def test_the_record_of_a_deleted_role_names_who_had_it() -> None:
    club = make_organization("club")
    role = roles.create_role(ACTOR, club, "movers", ["view"])
    for client_id in ("demo-ben", "demo-ada"):
        employees.hire_employee(ACTOR, club, make_person(client_id), roles=[role])
    roles.delete_role(ACTOR, role)
    record = AuditRecord.objects.filter(model="role")[0]
    assert (record.action, record.changes["permissions"]) == ("deleted", [["view"], None])
    assert record.changes["employees"] == [
        ["Test, Demo-ada (demo-ada) at Club", "Test, Demo-ben (demo-ben) at Club"],
        None,
    ]


Attempt = Callable[[Employee, Role, Role], object]

REFUSED: dict[str, tuple[Attempt, ChangeFault]] = {
    "a permission that doesn't exist": (
        lambda employee, own, foreign: employees.set_employee_grants(ACTOR, employee, ["ADD"], []),
        ChangeFault.BAD_VALUE,
    ),
    "deposit outside the bank": (
        lambda employee, own, foreign: employees.set_employee_grants(
            ACTOR, employee, ["deposit"], []
        ),
        ChangeFault.NOT_ALLOWED,
    ),
    "deposit by a role outside the bank": (
        lambda employee, own, foreign: roles.set_role_permissions(ACTOR, own, ["deposit"]),
        ChangeFault.NOT_ALLOWED,
    ),
    "a role of another organization": (
        lambda employee, own, foreign: employees.set_employee_grants(
            ACTOR, employee, ["view"], [own, foreign]
        ),
        ChangeFault.NOT_ALLOWED,
    ),
    "hiring twice": (
        lambda employee, own, foreign: employees.hire_employee(
            ACTOR, employee.organization, employee.person
        ),
        ChangeFault.ALREADY_EXISTS,
    ),
    "a role of the same name": (
        lambda employee, own, foreign: roles.create_role(ACTOR, own.organization, own.name, []),
        ChangeFault.ALREADY_EXISTS,
    ),
    "a negative limit": (
        lambda employee, own, foreign: employees.set_employee_limit(ACTOR, employee, -1),
        ChangeFault.BAD_VALUE,
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_allowed_changes_nothing(case: str) -> None:
    attempt, fault = REFUSED[case]
    club, rival = make_organization("club"), make_organization("rival")
    employee = employees.hire_employee(ACTOR, club, make_person("demo-ada"), permissions=["view"])
    own, foreign = make_role(club, "role", "view"), make_role(rival, "role", "view")
    with nothing_changed(), pytest.raises(ChangeRefusedError) as caught:
        attempt(employee, own, foreign)
    assert caught.value.fault is fault


def test_who_has_history_can_not_be_deleted() -> None:
    person, club = make_person("demo-ada"), make_organization("club")
    employees.hire_employee(ACTOR, club, person)
    make_account("account1", club)
    for row in (person, club):
        with nothing_changed(), pytest.raises(ProtectedError, match="protected foreign keys"):
            row.delete()
    assert Person.objects.filter(pk=person.pk).exists()


def test_the_database_too_refuses_a_role_of_another_organization() -> None:
    club, rival = make_organization("club"), make_organization("rival")
    employee = employees.hire_employee(ACTOR, club, make_person("demo-ada"))
    own, foreign = make_role(club, "role", "view"), make_role(rival, "role", "view")
    employee.roles.add(own)
    attempts: list[Callable[[], object]] = [
        lambda: employee.roles.add(foreign),
        lambda: Role.objects.filter(pk=own.pk).update(organization=rival),
        lambda: Employee.objects.filter(pk=employee.pk).update(organization=rival),
        lambda: Employee.objects.filter(pk=employee.pk).update(person=make_person("demo-eve")),
        lambda: employee.roles.through.objects.update(role=foreign),
    ]
    for attempt in attempts:
        with nothing_changed(), pytest.raises(IntegrityError), transaction.atomic():
            attempt()


def test_the_audit_trail_only_grows() -> None:
    persons.register_person(ACTOR, "demo-ada", "Ada", "Test")
    attempts: list[Callable[[], object]] = [
        lambda: AuditRecord.objects.update(actor="user:nobody"),
        lambda: AuditRecord.objects.all().delete(),
    ]
    for attempt in attempts:
        with (
            nothing_changed(),
            pytest.raises(IntegrityError, match="only grows"),
            transaction.atomic(),
        ):
            attempt()


def test_a_change_that_fails_leaves_no_record() -> None:
    person = make_person("demo-ada")

    def change_and_fail() -> None:
        with audit.recorded(ACTOR, person):
            Person.objects.filter(pk=person.pk).update(last_name="Other")
            raise RuntimeError("the rest of the change fails")

    with nothing_changed(), pytest.raises(RuntimeError, match="the rest"):
        change_and_fail()
