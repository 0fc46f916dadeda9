"""Persons and organizations in the admin."""

from __future__ import annotations

import pytest
from django.test import Client

from bank.admin import parties
from bank.authorization import decide
from bank.models import (
    AuditRecord,
    Employee,
    Organization,
    Person,
    PersonKey,
    PersonStatus,
    Role,
)
from protocol.keys import format_fingerprint
from tests.bank.admin.pages import act, address, filled_in, post_edited, saved, search, text_of
from tests.bank.parties import (
    make_account,
    make_employee,
    make_organization,
    make_person,
    make_role,
)
from tests.bank.unchanged import nothing_changed

pytestmark = pytest.mark.django_db


def in_groups(person: Person) -> str:
    return format_fingerprint(bytes.fromhex(person.keys.get().fingerprint))


def test_persons_are_listed_with_their_fingerprints_and_found(operator: Client) -> None:
    ada, ben = make_person("demo-ada"), make_person("demo-ben", with_key=False)
    page = text_of(operator.get(address(Person, "changelist")))
    assert in_groups(ada) in page
    assert search(operator, Person, "demo-ada") == [ada]
    assert search(operator, Person, "Test, Demo-ben") == [ben]
    assert search(operator, Person, in_groups(ada)) == [ada]
    response = operator.get(address(Person, "changelist"), {"key": "no"})
    assert list(response.context["cl"].result_list) == [ben]


def test_a_person_is_added_and_renamed_with_a_record(operator: Client) -> None:
    saved(
        operator.post(
            address(Person, "add"),
            {"client_id": "demo-ada", "first_name": "Ada", "last_name": "Ärlig"},
        )
    )
    ada = Person.objects.get()
    saved(post_edited(operator, address(Person, "change", ada.pk), last_name="Beispiel"))
    ada.refresh_from_db()
    assert ada.full_name == "Beispiel, Ada"
    record = AuditRecord.objects.first()
    assert record is not None
    assert (record.actor, record.action) == ("user:demo-root", "changed")
    assert record.changes == {"last_name": ["Ärlig", "Beispiel"]}


@pytest.mark.parametrize(
    "wrong", [{"client_id": "demo ada"}, {"last_name": "Test, Ada"}, {"first_name": ""}]
)
def test_a_wrong_person_is_refused_with_words(operator: Client, wrong: dict[str, str]) -> None:
    values = {"client_id": "demo-ada", "first_name": "Ada", "last_name": "Test", **wrong}
    with nothing_changed():
        response = operator.post(address(Person, "add"), values)
        assert next(iter(wrong)) in response.context["adminform"].form.errors


def test_keys_are_shown_in_groups_and_nobody_edits_them(operator: Client) -> None:
    ada = make_person("demo-ada")
    make_account("account2", ada)
    url = address(Person, "change", ada.pk)
    page = text_of(operator.get(url))
    assert in_groups(ada) in page
    assert "account2" in page
    key = ada.keys.get()
    with nothing_changed():
        saved(
            post_edited(
                operator,
                url,
                **{
                    "keys-TOTAL_FORMS": "1",
                    "keys-INITIAL_FORMS": "1",
                    "keys-0-id": str(key.pk),
                    "keys-0-person": str(ada.pk),
                    "keys-0-fingerprint": "0" * 32,
                    "keys-0-DELETE": "on",
                    "client_id": "demo-eve",
                    "status": "blocked",
                },
            )
        )


def test_blocking_and_releasing_count_at_once(operator: Client) -> None:
    ada = make_person("demo-ada")
    account = make_account("account2", ada)
    page = act(operator, Person, "block", ada, reason="lost laptop")
    assert "is now blocked" in page
    assert not decide(ada, account, "transfer")
    assert AuditRecord.objects.get().reason == "lost laptop"
    assert "is now active" in act(operator, Person, "release", ada)
    assert decide(ada, account, "transfer")
    with nothing_changed():
        assert "is active already" in act(operator, Person, "release", ada)


def test_a_key_is_revoked_with_a_reason_only(operator: Client) -> None:
    ada = make_person("demo-ada")
    account = make_account("account2", ada)
    with nothing_changed():
        assert "A revocation needs a reason" in act(operator, Person, "revoke", ada)
    assert decide(ada, account, "transfer")
    assert "has no key in force now" in act(operator, Person, "revoke", ada, reason="stolen")
    assert not decide(ada, account, "transfer")
    assert PersonKey.objects.get().revocation_reason == "stolen"
    assert Person.objects.get().status == PersonStatus.ACTIVE


def test_a_person_with_history_is_not_deleted(operator: Client) -> None:
    ada = make_person("demo-ada")
    with nothing_changed():
        page = text_of(operator.post(address(Person, "delete", ada.pk), {"post": "yes"}))
    assert "would require deleting the following protected related objects" in page


def test_organizations_are_listed_found_and_shown_with_what_is_theirs(operator: Client) -> None:
    club = make_organization("demo-club")
    make_organization("rival")
    make_employee(club, make_person("demo-ada"), "view")
    make_role(club, "movers", "transfer")
    make_account("account1", club)
    assert search(operator, Organization, "demo") == [club]
    page = text_of(operator.get(address(Organization, "change", club.pk)))
    for shown in ("demo-ada", "movers", "account1"):
        assert shown in page


def test_an_employee_is_hired_with_checkboxes_on_the_page_of_the_organization(
    operator: Client,
) -> None:
    club, ada = make_organization("demo-club"), make_person("demo-ada")
    account = make_account("account1", club)
    role = make_role(club, "movers", "transfer")
    url = address(Organization, "change", club.pk)
    saved(
        post_edited(
            operator,
            url,
            **{
                "employees-TOTAL_FORMS": "1",
                "employees-0-organization": str(club.pk),
                "employees-0-person": str(ada.pk),
                "employees-0-status": "active",
                "employees-0-permissions": ["view"],
                "employees-0-roles": [str(role.pk)],
            },
        )
    )
    assert decide(ada, account, "view")
    assert decide(ada, account, "transfer")
    assert not decide(ada, account, "withdraw")
    saved(post_edited(operator, url, **{"employees-0-permissions": ["view", "withdraw"]}))
    assert decide(ada, account, "withdraw")
    saved(post_edited(operator, url, **{"roles-0-permissions": ["view"]}))
    assert not decide(ada, account, "transfer")
    records = AuditRecord.objects.filter(model="employee").order_by("pk")
    assert records[len(records) - 1].changes == {"permissions": [["view"], ["view", "withdraw"]]}
    saved(post_edited(operator, url, **{"employees-0-DELETE": "on"}))
    assert not decide(ada, account, "view")
    assert not Employee.objects.exists()


def test_saving_a_page_without_edits_records_nothing(operator: Client) -> None:
    club = make_organization("demo-club")
    hired = make_employee(club, make_person("demo-ada"), "view")
    hired.roles.add(make_role(club, "movers", "transfer"))
    with nothing_changed():
        saved(post_edited(operator, address(Organization, "change", club.pk)))


def test_roles_of_others_and_deposit_are_not_offered_and_not_taken(operator: Client) -> None:
    club, rival = make_organization("demo-club"), make_organization("rival")
    make_employee(club, make_person("demo-ada"), "view")
    foreign = make_role(rival, "foreigners", "view")
    url = address(Organization, "change", club.pk)
    page = text_of(operator.get(url))
    assert "foreigners" not in page
    assert "Deposit" not in page
    for edit in (
        {"employees-0-roles": [str(foreign.pk)]},
        {"employees-0-permissions": ["deposit"]},
    ):
        with nothing_changed():
            response = operator.post(url, {**filled_in(operator, url), **edit})
            assert response.status_code == 200
            assert "Select a valid choice" in text_of(response)


def test_code_and_which_one_is_the_bank_are_settled(operator: Client) -> None:
    club = make_organization("demo-club")
    url = address(Organization, "change", club.pk)
    saved(post_edited(operator, url, code="other", is_bank="on", name="Demo club"))
    club.refresh_from_db()
    assert (club.code, club.is_bank, club.name) == ("demo-club", False, "Demo club")


def test_a_second_bank_is_refused(operator: Client) -> None:
    make_organization("bank", is_bank=True)
    with nothing_changed():
        page = text_of(
            operator.post(
                address(Organization, "add"), {"code": "b2", "name": "B2", "is_bank": "on"}
            )
        )
    assert "already an organization that is the bank" in page


def test_a_role_is_deleted_with_a_record(operator: Client) -> None:
    role = make_role(make_organization("demo-club"), "movers", "transfer")
    operator.post(address(Role, "delete", role.pk), {"post": "yes"})
    assert not Role.objects.exists()
    record = AuditRecord.objects.get()
    assert (record.action, record.model) == ("deleted", "role")
    assert record.changes["permissions"] == [["transfer"], None]


def test_an_employment_stays_with_its_person_on_the_page_of_the_organization(
    operator: Client,
) -> None:
    club, ada = make_organization("demo-club"), make_person("demo-ada")
    employee = make_employee(club, ada, "view")
    url = address(Organization, "change", club.pk)
    other = {"employees-0-person": str(make_person("demo-ben").pk)}
    with nothing_changed():
        saved(post_edited(operator, url, **other))
    saved(post_edited(operator, url, **other, **{"employees-0-status": "suspended"}))
    employee.refresh_from_db()
    assert (employee.person, employee.status) == (ada, "suspended")


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("x" * 201, "at most 200 characters (it has 201). Nothing was changed."),
        ("a\0b", "Null characters are not allowed. Nothing was changed."),
    ],
)
def test_a_reason_that_can_not_be_kept_is_said_so(
    operator: Client, reason: str, words: str
) -> None:
    ada = make_person("demo-ada")
    with nothing_changed():
        assert words in act(operator, Person, "block", ada, reason=reason)
    assert "is now blocked" in act(operator, Person, "block", ada, reason=f" {'x' * 200} ")


def test_many_employees_are_edited_on_pages_of_their_own(
    operator: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parties, "EMPLOYEES_INLINE_MAX", 1)
    club = make_organization("demo-club")
    make_employee(club, make_person("demo-ada"))
    url = address(Organization, "change", club.pk)
    assert "employees-TOTAL_FORMS" in text_of(operator.get(url))
    make_employee(club, make_person("demo-ben"))
    assert "employees-TOTAL_FORMS" not in text_of(operator.get(url))
