"""The production settings, each in a process of its own: what they need and what they set."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.architecture.imports import ROOT

COMPLETE = {
    "DJANGO_SETTINGS_MODULE": "bankproject.settings.production",
    "TELLERWIRE_SECRET_KEY": "only-for-this-test-" + "0123456789abcdefghijklmnopqrstuvwxyz" * 2,
    "TELLERWIRE_ALLOWED_HOSTS": "bank.example,relay.example",
    "TELLERWIRE_RELAY_NAME": "relay.example",
    "TELLERWIRE_DATABASE_URL": "postgresql://nobody@127.0.0.1:1/bank",
    "TELLERWIRE_RELAY_DATABASE_URL": "postgresql://nobody@127.0.0.1:1/relay",
    "TELLERWIRE_REDIS_URL": "redis://127.0.0.1:1/0",
}
BARE = {
    name: value for name, value in os.environ.items() if not name.startswith(("TELLER", "DJANGO"))
}


def _run(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**BARE, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def _setting(expression: str, **overrides: str) -> object:
    script = (
        "import json, django; django.setup(); from django.conf import settings; "
        f"print(json.dumps({expression}))"
    )
    completed = _run({**COMPLETE, **overrides}, "-c", script)
    assert completed.returncode == 0, completed.stderr
    return json.loads(completed.stdout)


@pytest.mark.parametrize(
    ("roles", "missing"),
    [
        ("relay,bank,web", "TELLERWIRE_SECRET_KEY"),
        ("relay,bank,web", "TELLERWIRE_ALLOWED_HOSTS"),
        ("bank", "TELLERWIRE_DATABASE_URL"),
        ("relay", "TELLERWIRE_RELAY_DATABASE_URL"),
        ("relay", "TELLERWIRE_REDIS_URL"),
        ("relay", "TELLERWIRE_RELAY_NAME"),
    ],
)
def test_what_is_missing_is_named_and_nothing_starts(roles: str, missing: str) -> None:
    environment = {**COMPLETE, "TELLERWIRE_ROLES": roles}
    del environment[missing]

    completed = _run(environment, "-c", "import django; django.setup()")

    assert completed.returncode != 0
    assert f"ImproperlyConfigured: Set {missing}: " in completed.stderr


@pytest.mark.parametrize("roles", ["relay", "bank", "bank,web", "relay,web", "relay,bank,web"])
def test_django_finds_nothing_to_warn_of(roles: str) -> None:
    environment = {**COMPLETE, "TELLERWIRE_ROLES": roles}

    completed = _run(environment, "manage.py", "check", "--deploy", "--fail-level", "WARNING")

    assert completed.returncode == 0, completed.stderr


def test_each_role_has_its_own_database_alone() -> None:
    names = "{alias: d.get('NAME') for alias, d in settings.DATABASES.items()}"

    assert _setting(names, TELLERWIRE_ROLES="relay") == {"default": "", "relay": "relay"}
    assert _setting(names, TELLERWIRE_ROLES="bank") == {"default": "bank"}


def test_registration_is_closed_unless_somebody_opens_it() -> None:
    assert _setting("settings.RELAY['REGISTRATION']") == "closed"


def test_the_admin_wants_a_second_factor() -> None:
    script = (
        "import django; django.setup(); from django.contrib import admin; "
        "from django_otp.admin import OTPAdminSite; from django.urls import reverse; "
        "print(isinstance(admin.site, OTPAdminSite), reverse('admin:index'))"
    )

    completed = _run(COMPLETE, "-c", script)

    assert completed.stdout.split() == ["True", "/admin/"], completed.stderr
