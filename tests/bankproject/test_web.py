"""What a browser or a machine gets over HTTP."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Group, User
from django.test import Client, override_settings
from django_otp.plugins.otp_totp.models import TOTPDevice

from bankproject.operator_site import OperatorSite
from bankproject.routers import RoleRouter

DATABASES = pytest.mark.django_db(databases=["default", "relay"])


def _operator(client: Client) -> User:
    operator = get_user_model().objects.create_superuser("demo-operator", password="correct horse")
    client.force_login(operator, backend="django.contrib.auth.backends.ModelBackend")
    return operator


def test_health_is_answered_without_a_database(client: Client) -> None:
    response = client.get("/healthz")

    assert response.status_code == 200
    assert response.json() == {"status": "ok", "roles": ["bank", "relay", "web"]}
    assert client.post("/healthz").status_code == 405


@DATABASES
def test_readiness_asks_every_database(client: Client) -> None:
    assert client.get("/readyz").json() == {"status": "ok"}


@DATABASES
def test_readiness_names_the_database_that_is_silent(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bankproject.views._answers", lambda alias: alias == "default")

    response = client.get("/readyz")

    assert response.status_code == 503
    assert response.json() == {"status": "unavailable", "databases": ["relay"]}


def test_metrics_are_in_the_format_of_prometheus(client: Client) -> None:
    response = client.get("/metrics")

    assert response.headers["Content-Type"].startswith("text/plain")
    assert b"process_cpu_seconds_total" in response.content


@DATABASES
def test_an_operator_stays_and_keeps_his_name(client: Client) -> None:
    """What he did is recorded under it; without his account it would be nobody's."""
    operator = _operator(client)
    other = get_user_model().objects.create_superuser("demo-other", password="correct horse")
    page = f"/admin/auth/user/{other.pk}/change/"

    assert client.get(page).status_code == 200
    renamed = {"username": "somebody-else", "is_active": "on", "is_staff": "on", "is_superuser": ""}
    assert client.post(page, renamed).status_code == 302
    other.refresh_from_db()
    assert (other.username, other.is_superuser) == ("demo-other", False)
    [entry] = LogEntry.objects.filter(object_id=str(other.pk))
    assert entry.user == operator
    assert client.post(f"/admin/auth/user/{other.pk}/delete/", {"post": "yes"}).status_code == 403
    chosen = {"action": "delete_selected", "_selected_action": other.pk, "post": "yes"}
    client.post("/admin/auth/user/", chosen)
    assert User.objects.filter(pk=other.pk).exists()


@DATABASES
def test_pages_carry_a_policy_that_allows_no_foreign_content(client: Client) -> None:
    _operator(client)

    response = client.get("/admin/")

    assert response.status_code == 200
    policy = response.headers["Content-Security-Policy"]
    assert "default-src 'self'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy


@DATABASES
def test_five_wrong_passwords_lock_the_door(client: Client) -> None:
    operator = get_user_model().objects.create_superuser("demo-operator", password="correct horse")
    credentials = {"username": operator.username, "password": "wrong"}

    refusals = [client.post("/admin/login/", credentials).status_code for _ in range(5)]
    right = client.post("/admin/login/", {**credentials, "password": "correct horse"})

    assert refusals == [200, 200, 200, 200, 429]
    assert right.status_code == 429


@DATABASES
def test_a_password_alone_does_not_open_the_production_admin(
    client: Client,
) -> None:
    operator = _operator(client)
    request = client.get("/admin/").wsgi_request
    site = OperatorSite()

    assert not site.has_permission(request)
    user: Any = request.user
    user.otp_device = TOTPDevice(user=operator, confirmed=True)
    assert site.has_permission(request)


def test_the_relays_tables_and_the_banks_stay_apart() -> None:
    router = RoleRouter()

    assert router.db_for_read(Group) == router.db_for_write(Group) == "default"
    assert router.allow_migrate("default", "bank")
    assert not router.allow_migrate("relay", "bank")
    assert router.allow_migrate("relay", "relay")
    assert not router.allow_migrate("default", "relay")


@override_settings(ALLOWED_HOSTS=["bank.example"])
def test_a_host_that_is_not_ours_is_refused(client: Client) -> None:
    assert client.get("/healthz", headers={"host": "elsewhere.example"}).status_code == 400
