"""What an operator sees and does: clients and presence, never a message."""

from __future__ import annotations

import re
from typing import Any

import pytest
from django.contrib.admin import site
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission, User
from django.test import Client as Browser
from django.urls import reverse

from protocol.frames import Role
from protocol.keys import format_fingerprint
from relay import directory, leases
from relay.models import Client, Connection, Mail, StoredStatus, Worker
from tests.relay.peer import identity, new_id

pytestmark = pytest.mark.django_db(databases=["default", "relay"])

CHANGELIST = reverse("admin:relay_client_changelist")
SECRET = "c2VhbGVkLWJvZHk"
ADA = identity("ada", "Ada", "Ärlig")


@pytest.fixture
def operator() -> Browser:
    user = User.objects.create_superuser("operator", password="x")
    browser = Browser()
    browser.force_login(user, backend="django.contrib.auth.backends.ModelBackend")
    return browser


@pytest.fixture(autouse=True)
def _clients() -> None:
    leases.arrive(ADA.bundle, Role.PERSON, new_id(), worker="worker-1", lease_ms=1, here=list)
    directory.register(identity("ben", "Ben", "Beispiel").bundle, Role.PERSON)
    Mail.objects.create(
        recipient_key="ben",
        recipient="ben",
        sender_key="ada",
        sender="ada",
        message_id=new_id(),
        kind="notice",
        body=SECRET,
        size=len(SECRET),
        accepted_at=0,
        expires_at=1,
        position=1,
    )


def page(browser: Browser, url: str) -> str:
    response = browser.get(url)
    assert response.status_code == 200
    return response.content.decode()


def change_url(client_id: str) -> str:
    return reverse("admin:relay_client_change", args=[Client.objects.get(id_key=client_id).pk])


def act(browser: Browser, action: str, client_id: str, **more: str) -> Any:
    pk = Client.objects.get(id_key=client_id).pk
    return browser.post(CHANGELIST, {"action": action, "_selected_action": [pk], **more})


def test_messages_are_registered_nowhere() -> None:
    registered = set(site._registry)
    assert {Client, Connection, Worker} <= registered
    assert not registered & {Mail, StoredStatus}


def test_clients_are_listed_with_fingerprints_and_counts_and_no_message(operator: Browser) -> None:
    for text in (page(operator, CHANGELIST), page(operator, change_url("ben"))):
        assert SECRET not in text
    text = page(operator, CHANGELIST)
    assert format_fingerprint(ADA.bundle.fingerprint) in text
    assert re.search(r'field-messages_waiting">1<', text)
    assert re.search(rf'field-bytes_waiting">{len(SECRET)}<', text)
    assert re.search(r'field-connections">1<', text)


@pytest.mark.parametrize(
    "query",
    [
        "ada",
        "Ärlig",
        format_fingerprint(ADA.bundle.fingerprint),
        ADA.bundle.fingerprint.hex()[4:20].upper(),
    ],
    ids=["id", "name", "fingerprint", "part of the fingerprint"],
)
def test_clients_are_found(operator: Browser, query: str) -> None:
    response = operator.get(CHANGELIST, {"q": query})
    assert [one.client_id for one in response.context["cl"].result_list] == ["ada"]


def test_filters(operator: Browser) -> None:
    response = operator.get(CHANGELIST, {"status__exact": "blocked"})
    assert list(response.context["cl"].result_list) == []


def test_blocking_and_unblocking(operator: Browser) -> None:
    act(operator, "block", "ada")
    assert Client.objects.get(id_key="ada").status == Client.Status.BLOCKED
    act(operator, "unblock", "ada")
    assert Client.objects.get(id_key="ada").status == Client.Status.ACTIVE
    assert [entry.change_message for entry in LogEntry.objects.order_by("pk")] == [
        "blocked",
        "unblocked",
    ]


def test_releasing_asks_first(operator: Browser) -> None:
    response = act(operator, "release", "ada")
    assert "Release these ids?" in response.content.decode()
    assert Client.objects.get(id_key="ada").fingerprint
    act(operator, "release", "ada", confirmed="yes")
    row = Client.objects.get(id_key="ada")
    assert (row.fingerprint, row.identity_key, row.bundle) == ("", None, None)
    assert "no key yet" in page(operator, change_url("ada"))


def test_the_form_changes_what_an_operator_decides(operator: Browser) -> None:
    url = change_url("ada")
    operator.post(url, {"status": "blocked", "may_be_service": "on", "client_id": "eve"})
    row = Client.objects.get(id_key="ada")
    assert (row.client_id, row.status, row.may_be_service) == ("ada", "blocked", True)
    assert row.fingerprint == ADA.bundle.fingerprint.hex()


@pytest.mark.parametrize(
    ("client_id", "words"),
    [("ADA", "known already"), ("-x", "no client id"), ("", "required"), ("a" * 65, "64")],
)
def test_a_wrong_id_is_refused_by_name(operator: Browser, client_id: str, words: str) -> None:
    before = Client.objects.count()
    url = reverse("admin:relay_client_add")
    response = operator.post(url, {"client_id": client_id, "status": "active"})
    assert words in response.content.decode()
    assert Client.objects.count() == before


def test_an_id_is_added_for_the_next_key(operator: Browser) -> None:
    url = reverse("admin:relay_client_add")
    operator.post(url, {"client_id": "Carla", "status": "active"})
    assert Client.objects.get(id_key="carla").client_id == "Carla"


def test_nothing_is_deleted_and_presence_is_only_shown(operator: Browser) -> None:
    pk = Client.objects.get(id_key="ada").pk
    assert operator.post(reverse("admin:relay_client_delete", args=[pk])).status_code == 403
    for name in ("connection", "worker"):
        assert "worker-1" in page(operator, reverse(f"admin:relay_{name}_changelist"))
        assert operator.get(reverse(f"admin:relay_{name}_add")).status_code == 403
        for row in (Connection if name == "connection" else Worker).objects.all():
            url = reverse(f"admin:relay_{name}_change", args=[row.pk])
            page(operator, url)
            assert operator.post(url, {}).status_code == 403
    assert Client.objects.filter(id_key="ada").exists()


def test_who_may_only_look_changes_nothing() -> None:
    viewer = User.objects.create_user("viewer", password="x", is_staff=True)
    viewer.user_permissions.add(Permission.objects.get(codename="view_client"))
    browser = Browser()
    browser.force_login(viewer, backend="django.contrib.auth.backends.ModelBackend")
    page(browser, CHANGELIST)
    act(browser, "block", "ada")
    act(browser, "release", "ada", confirmed="yes")
    row = Client.objects.get(id_key="ada")
    assert (row.status, row.fingerprint) == ("active", ADA.bundle.fingerprint.hex())
