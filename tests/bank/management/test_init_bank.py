"""A new bank from one command, and what the bank's commands say when something is missing."""

from __future__ import annotations

import json
import os
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import transaction

from bank.issuing import check_bank_enrolled, issue_opening_balances
from bank.key_settings import now_ms, open_keyring
from bank.keyring import write_key_file
from bank.models import Account, AuditRecord, Employee, Organization, Person, PersonKey
from bank.verification import verify_ledger
from bankproject import environment
from protocol.keyfile import new_key_file
from relay.limits import pinned_fingerprints
from tests.bank.parties import (
    bundle_object,
    make_account,
    make_currency,
    make_person,
    signed_bundle,
)
from tests.bank.unchanged import nothing_changed
from tests.cheap_keys import encrypt_cheaply

pytestmark = pytest.mark.django_db


@pytest.fixture
def files(tmp_path: Path, settings: Any, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a passphrase, to which the settings lead."""
    monkeypatch.setattr("bank.management.commands.init_bank.encrypt_key_file", encrypt_cheaply)
    (tmp_path / "passphrase").write_text("secret\n")
    settings.BANK = {
        "ID": "bank",
        "KEY_FILE": str(tmp_path / "keys" / "bank.key"),
        "PASSPHRASE_FILE": str(tmp_path / "passphrase"),
        # Nobody listens there.
        "RELAY_URL": "ws://127.0.0.1:9/relay",
    }
    monkeypatch.delenv("TELLERWIRE_BANK_PASSPHRASE", raising=False)
    return tmp_path


def init(*arguments: str) -> str:
    out = StringIO()
    call_command("init_bank", *arguments, stdout=out)
    return out.getvalue()


def test_it_makes_everything_that_a_bank_needs(files: Path) -> None:
    said = init("--currency", "EUR:2:Euro", "--currency", "TWC:0:Credits")
    keyring = open_keyring()
    assert keyring.key_file.demo is False
    assert (files / "keys" / "bank.key").stat().st_mode & 0o777 == 0o600
    assert "Its fingerprint, for customers' configurations: " in said
    assert Organization.objects.get(is_bank=True).name == "The Bank"
    assert check_bank_enrolled(keyring.key_file) == Person.objects.get(client_id="bank")
    assert [(row.number, row.unlimited) for row in Account.objects.order_by("number")] == [
        ("cash-EUR", True),
        ("cash-TWC", True),
        ("issuance-EUR", True),
        ("issuance-TWC", True),
    ]
    employee = Employee.objects.get()
    assert [each.permission for each in employee.permissions.all()] == ["deposit"]
    assert set(AuditRecord.objects.values_list("actor", flat=True)) == {"command:init_bank"}


def test_again_it_changes_nothing(files: Path) -> None:
    first = init("--currency", "EUR:2:Euro")
    key = (files / "keys" / "bank.key").read_bytes()
    with nothing_changed():
        second = init("--currency", "EUR:2:Euro")
    assert second in first
    assert (files / "keys" / "bank.key").read_bytes() == key


def test_money_comes_into_being_by_signed_orders_only(files: Path) -> None:
    init("--currency", "EUR:2:Euro")
    ada = make_person("ada")
    make_account("account2", ada, currency=make_currency("EUR", 2))
    ((number, outcome),) = issue_opening_balances(open_keyring().key_file, [("account2", "12.5")])
    assert (number, outcome.code) == ("account2", None)
    assert Account.objects.get(number="account2").balance == 1250
    assert list(verify_ledger("bank")) == []


def test_another_exponent_of_a_currency_is_refused(files: Path) -> None:
    init("--currency", "EUR:2:Euro")
    with nothing_changed(), pytest.raises(CommandError, match="exists with 2 decimal places"):
        init("--currency", "EUR:3:Euro")


@pytest.mark.parametrize("text", ["EUR", "EUR:", "EUR:x:Euro", "EUR:-1:Euro", "EUR:²:Euro"])
def test_a_currency_that_makes_no_sense_is_refused(files: Path, text: str) -> None:
    with nothing_changed(), pytest.raises(CommandError, match="write CODE:PLACES:NAME"):
        init("--currency", text)
    assert not (files / "keys").exists()


def test_another_key_than_the_enrolled_one_is_not_enrolled_by_itself(files: Path) -> None:
    init()
    (files / "keys" / "bank.key").unlink()
    with nothing_changed(), pytest.raises(CommandError, match="has another key in force"):
        init()
    assert list((files / "keys").iterdir()) == []


def test_what_is_refused_leaves_no_key_behind(files: Path) -> None:
    make_currency("EUR", 2)
    with nothing_changed(), pytest.raises(CommandError, match="exists with 2 decimal places"):
        init("--currency", "EUR:3:Euro")
    assert not (files / "keys").exists()


def test_without_a_place_for_the_key_no_row_is_made(files: Path) -> None:
    (files / "keys").write_text("a file where the folder should be")
    with nothing_changed(), pytest.raises(CommandError, match=r"bank\.key can't be made: "):
        init("--currency", "EUR:2:Euro")


def test_a_key_whose_enrolment_was_lost_is_enrolled_by_the_next_run(files: Path) -> None:
    with nothing_changed(), transaction.atomic():
        init("--currency", "EUR:2:Euro")
        transaction.set_rollback(True)
    key = (files / "keys" / "bank.key").read_bytes()
    init("--currency", "EUR:2:Euro")
    assert (files / "keys" / "bank.key").read_bytes() == key
    assert check_bank_enrolled(open_keyring().key_file) == Person.objects.get(client_id="bank")


def test_the_relay_can_take_the_fingerprint_from_a_file(
    files: Path, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    pins = files / "pins"
    said = init("--pin-file", str(pins))
    monkeypatch.setenv("TELLERWIRE_RELAY_PINNED_FINGERPRINTS_FILE", str(pins))
    settings.RELAY = {"PINNED_FINGERPRINTS": environment.mapping("RELAY_PINNED_FINGERPRINTS")}
    assert pinned_fingerprints() == {"bank": open_keyring().key_file.fingerprint}
    assert pins.stat().st_mode & 0o777 == 0o644
    pins.write_text("bank=an older one")
    assert init("--pin-file", str(pins)) in said
    assert pins.read_text().partition("=")[2].strip() in said


def test_a_pin_file_that_cannot_be_written_is_named(files: Path) -> None:
    with pytest.raises(CommandError, match=r"missing/pins can't be written: "):
        init("--pin-file", str(files / "missing" / "pins"))


def test_without_a_passphrase_nothing_is_made(files: Path, settings: Any) -> None:
    settings.BANK = {**settings.BANK, "PASSPHRASE_FILE": ""}
    with nothing_changed(), pytest.raises(CommandError, match="nothing gives the passphrase"):
        init()
    assert not (files / "keys").exists()


def test_the_passphrase_may_come_from_the_environment(
    files: Path, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.BANK = {**settings.BANK, "PASSPHRASE_FILE": ""}
    monkeypatch.setenv("TELLERWIRE_BANK_PASSPHRASE", "secret")
    init()
    assert open_keyring().client_id == "bank"


def test_a_new_key_of_the_bank_takes_the_place_of_the_old_one(files: Path, settings: Any) -> None:
    init("--currency", "EUR:2:Euro")
    make_account("account2", make_person("ada"), currency=make_currency("EUR", 2))
    new = new_key_file("bank", "The", "Bank", now=now_ms(), random_bytes=os.urandom)
    path = files / "keys" / "new.key"
    write_key_file(path, encrypt_cheaply(new, "secret", os.urandom))
    bundle = files / "new.json"
    bundle.write_text(json.dumps(bundle_object(new.signed_bundle)), encoding="utf-8")
    call_command("enrol", "bank", str(bundle), replace=True, yes=True, stdout=StringIO())
    assert "use that key file" in run_refused()
    settings.BANK = {**settings.BANK, "KEY_FILE": str(path)}
    with nothing_changed():
        init("--currency", "EUR:2:Euro")
    ((_, outcome),) = issue_opening_balances(open_keyring().key_file, [("account2", "1")])
    assert outcome.code is None


# --- runbank, before it gets as far as the relay ------------------------------------------------


def run_refused(*arguments: str) -> str:
    with nothing_changed(), pytest.raises(CommandError) as caught:
        call_command("runbank", *arguments)
    return str(caught.value)


@pytest.mark.parametrize("url", ["junk", "http://x", "ws://[bad", "ws://127.0.0.1:99999/relay"])
def test_the_bank_does_not_run_without_an_address_of_a_relay(
    files: Path, settings: Any, url: str
) -> None:
    init()
    words = f"{url!r} is no relay's address; one looks like"
    assert words in run_refused("--relay", url)
    settings.BANK = {**settings.BANK, "RELAY_URL": url}
    assert words in run_refused()


def test_the_bank_does_not_run_without_the_lock_of_its_key_file(files: Path) -> None:
    init()
    (files / "keys" / "bank.key.lock").mkdir()
    assert "bank.key.lock beside the key file can't be taken: Is a directory" in run_refused()


def test_the_bank_does_not_run_without_its_key_file(files: Path) -> None:
    assert "`manage.py init_bank` makes one" in run_refused()


def test_the_bank_does_not_run_with_a_wrong_passphrase(files: Path) -> None:
    init()
    (files / "passphrase").write_text("wrong")
    assert "the passphrase does not open" in run_refused()


def test_the_bank_does_not_run_under_another_id_than_its_keys(files: Path, settings: Any) -> None:
    init()
    settings.BANK = {**settings.BANK, "ID": "other"}
    assert "is the key file of 'bank', and the bank's id is 'other'" in run_refused()


def test_the_bank_does_not_run_before_it_is_set_up(files: Path) -> None:
    init()
    keys = PersonKey.objects.all()
    keys.delete()
    assert "no enrolled key in force; run `manage.py init_bank`" in run_refused()
    Employee.objects.all().delete()
    Person.objects.all().delete()
    assert "knows no person 'bank'; run `manage.py init_bank`" in run_refused()


def test_the_bank_does_not_run_with_a_key_that_is_not_enrolled(files: Path) -> None:
    init()
    PersonKey.objects.all().delete()
    person = Person.objects.get(client_id="bank")
    bundle = signed_bundle("bank", first_name="The", last_name="Bank")
    person.keys.create(
        identity_key=bytes(32),
        fingerprint="ab" * 16,
        bundle={"bundle": bundle.bundle, "signature": bundle.signature},
        generation=1,
    )
    words = run_refused()
    assert "abab abab abab abab" in words
    assert "manage.py enrol" in words
