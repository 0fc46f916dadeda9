"""The system checks: each id is provoked, and good settings provoke none."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from django.core.management.base import SystemCheckError
from django.db import OperationalError, connections
from django.test import override_settings

from bank import checks
from protocol.encoding import unb64u
from protocol.keyfile import Cost, encrypt_key_file, new_key_file, read_key_file_header
from tests.architecture.imports import ROOT
from tests.bank.parties import make_key, make_person

NOW_MS = 1_800_000_000_000
CHEAPEST = Cost(memory_kib=19 * 1024, passes=1, lanes=1)


def write_key_file(path: Path, client_id: str, *, demo: bool = False) -> Any:
    key_file = new_key_file(
        client_id, "Demo", "Bank", now=NOW_MS, random_bytes=os.urandom, demo=demo
    )
    path.write_bytes(encrypt_key_file(key_file, "demo", os.urandom, CHEAPEST))
    return key_file


def ids(found: list[Any]) -> list[str]:
    return [one.id for one in found]


def test_the_settings_of_the_tests_are_sane() -> None:
    assert checks.check_settings(None) == []
    assert checks.check_key_file(None) == []


@pytest.mark.parametrize(
    ("bank", "expected"),
    [
        ({}, []),
        ({"ID": "no id"}, ["bank.E001"]),
        ({"ID": ""}, ["bank.E001"]),
        ({"RELAY_URL": "https://relay.example/relay"}, ["bank.E002"]),
        ({"RELAY_URL": "ws://"}, ["bank.E002"]),
        ({"RELAY_URL": "ws://[::1"}, ["bank.E002"]),
        ({"RELAY_URL": "ws://127.0.0.1:99999/relay"}, ["bank.E002"]),
        ({"RELAY_URL": None}, ["bank.E002"]),
        ({"RELAY_URL": "wss://relay.example/relay"}, []),
        ({"KEYFILE": "bank.key"}, ["bank.E003"]),
        ({"BATCH_ORDERS_MAX": 0}, ["bank.E004"]),
        ({"BATCH_ORDERS_MAX": True, "QUEUE_ORDERS_MAX": "9"}, ["bank.E004", "bank.E004"]),
    ],
)
def test_each_wrong_setting_is_named(bank: dict[str, object], expected: list[str]) -> None:
    with override_settings(BANK=bank):
        assert ids(checks.check_settings(None)) == expected


def test_a_deployment_takes_its_own_key_file(tmp_path: Path) -> None:
    path = tmp_path / "bank.key"
    write_key_file(path, "bank")
    with override_settings(BANK={"KEY_FILE": str(path)}):
        assert checks.check_key_file(None) == []
    with override_settings(BANK={"KEY_FILE": str(tmp_path / "elsewhere.key")}):
        assert checks.check_key_file(None) == [], "the host of the admin has no key file"


def test_a_deployment_refuses_what_is_no_key_file(tmp_path: Path) -> None:
    path = tmp_path / "bank.key"
    path.write_text("-----BEGIN PRIVATE KEY-----")
    with override_settings(BANK={"KEY_FILE": str(path)}):
        assert ids(checks.check_key_file(None)) == ["bank.E005"]


def test_a_deployment_refuses_somebody_else_s_key_file(tmp_path: Path) -> None:
    path = tmp_path / "bank.key"
    write_key_file(path, "other")
    with override_settings(BANK={"KEY_FILE": str(path)}):
        assert ids(checks.check_key_file(None)) == ["bank.E006"]


def test_a_deployment_refuses_a_key_file_of_the_demonstration(tmp_path: Path) -> None:
    path = tmp_path / "bank.key"
    write_key_file(path, "bank", demo=True)
    with override_settings(BANK={"KEY_FILE": str(path)}):
        assert ids(checks.check_key_file(None)) == ["bank.E007"]
        with pytest.raises(SystemCheckError, match="key file of the demonstration"):
            call_command("check", "bank", deploy=True)
        call_command("check", "bank")


def test_the_fingerprints_of_the_demonstration_are_those_of_its_key_files() -> None:
    files = sorted((ROOT / "fixtures" / "demo").glob("*.key"))
    headers = [read_key_file_header(path.read_bytes()) for path in files]
    assert {unb64u(header.fingerprint).hex() for header in headers} == checks.DEMO_FINGERPRINTS
    assert len(files) == len(checks.DEMO_FINGERPRINTS)


def know_as_demo(monkeypatch: pytest.MonkeyPatch, key_file: Any) -> None:
    known = frozenset({key_file.fingerprint.hex()})
    monkeypatch.setattr(checks, "DEMO_FINGERPRINTS", known)


def test_the_demonstration_s_key_without_its_mark_is_known_by_its_fingerprint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    know_as_demo(monkeypatch, write_key_file(tmp_path / "bank.key", "bank"))
    with override_settings(BANK={"KEY_FILE": str(tmp_path / "bank.key")}):
        assert ids(checks.check_key_file(None)) == ["bank.E007"]


@pytest.mark.django_db
def test_the_database_is_asked_where_that_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    assert checks.check_connection(None, databases=["default"]) == []

    def refuse() -> None:
        raise OperationalError("connection refused\nand more")

    monkeypatch.setattr(connections["default"], "ensure_connection", refuse)
    (found,) = checks.check_connection(None, databases=["default"])
    assert (found.id, found.msg) == (
        "bank.E009",
        "The bank's database does not answer: connection refused.",
    )
    assert checks.check_connection(None, databases=["relay"]) == []
    assert checks.check_connection(None) == []


@pytest.mark.django_db
def test_a_deployment_refuses_a_database_of_the_demonstration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key_file = write_key_file(tmp_path / "bank.key", "bank", demo=True)
    know_as_demo(monkeypatch, key_file)
    make_person("ada")
    assert checks.check_demo_rows(None, databases=["default"]) == []
    make_person("demo-ada")
    make_key(make_person("bank", with_key=False), key_file.bundle)
    found = checks.check_demo_rows(None, databases=["default"])
    assert ids(found) == ["bank.E008", "bank.E008"]
    assert [one.msg.split("'")[1] for one in found] == ["bank", "demo-ada"]
    assert checks.check_demo_rows(None, databases=["relay"]) == []
    assert checks.check_demo_rows(None) == []
    with pytest.raises(SystemCheckError, match=r"bank\.E008"):
        call_command("check", "bank", deploy=True, databases=["default"])
    call_command("check", "bank", databases=["default"])
