"""The audit trail: what a record says, and that it lives and dies with its change."""

from __future__ import annotations

import contextlib
from datetime import timedelta

import pytest
from django.contrib.auth.models import User
from django.db import connection, transaction
from django.utils import timezone
from pytest_django.fixtures import DjangoCaptureOnCommitCallbacks

from bank.audit import Actor, recorded, stored_values
from bank.models import AuditRecord, Organization, Person, PersonKey
from tests.bank.parties import make_employee, make_organization, make_person, make_role
from tests.bank.unchanged import nothing_changed

pytestmark = pytest.mark.django_db

ACTOR = Actor.command("tests")


def test_who_acts_is_named() -> None:
    assert Actor.user(User(username="demo-root")).name == "user:demo-root"
    assert Actor.command("enrol").name == "command:enrol"


def test_values_are_such_that_people_read_and_json_has_them() -> None:
    club, ada = make_organization("demo-club"), make_person("demo-ada")
    employee = make_employee(club, ada, "view", "transfer", order_limit=5)
    employee.roles.add(make_role(club, "movers", "withdraw"))
    assert stored_values(employee) == {
        "organization": "Demo-club (demo-club)",
        "person": "Test, Demo-ada (demo-ada)",
        "status": "active",
        "order_limit": 5,
        "roles": ["movers at Demo-club"],
        "permissions": ["transfer", "view"],
    }
    key = stored_values(ada.keys.get())
    assert key["generation"] == 1
    assert not {"bundle", "identity_key"} & set(key)
    assert stored_values(Person(client_id="demo-ben")) == {}
    assert stored_values(Person(pk=999_999)) == {}


def test_a_change_is_recorded_with_old_and_new_values() -> None:
    club = make_organization("demo-club")
    with recorded(ACTOR, club, "typo"):
        Organization.objects.update(name="Demo club")
    record = AuditRecord.objects.get()
    assert (record.actor, record.action, record.model) == (
        "command:tests",
        "changed",
        "organization",
    )
    assert (record.object_key, record.reason) == (str(club.pk), "typo")
    assert record.changes == {"name": ["Demo-club", "Demo club"]}
    assert timezone.now() - record.recorded_at < timedelta(minutes=1)
    assert str(record) == "command:tests changed organization Demo-club (demo-club)"


def test_a_revocation_records_the_moment() -> None:
    key = make_person("demo-ada").keys.get()
    with recorded(ACTOR, key):
        PersonKey.objects.update(revoked_at=timezone.now(), revocation_reason="stolen")
    changes = AuditRecord.objects.get().changes
    assert changes["revocation_reason"] == ["", "stolen"]
    assert changes["revoked_at"][0] is None
    assert changes["revoked_at"][1].endswith("+00:00")


def test_what_changes_nothing_is_not_recorded() -> None:
    club = make_organization("demo-club")
    with nothing_changed(), recorded(ACTOR, club):
        Organization.objects.update(name=club.name)


def test_a_change_is_logged_only_if_it_is_committed(
    django_capture_on_commit_callbacks: DjangoCaptureOnCommitCallbacks,
) -> None:
    club = make_organization("demo-club")
    with django_capture_on_commit_callbacks() as kept, recorded(ACTOR, club):
        Organization.objects.update(name="Demo club")
    # On PostgreSQL there follows the wait for bookings that may have read the old values.
    assert len(kept) == (2 if connection.vendor == "postgresql" else 1)
    with (
        django_capture_on_commit_callbacks() as undone,
        contextlib.suppress(RuntimeError),
        transaction.atomic(),
    ):
        with recorded(ACTOR, club):
            Organization.objects.update(name="Other")
        raise RuntimeError("the rest of the change fails")
    assert undone == []
    assert AuditRecord.objects.count() == 1
