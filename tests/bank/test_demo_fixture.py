"""The demonstration's data: made from seeds, loadable, in order, and marked as what it is."""

from __future__ import annotations

import json
import subprocess
import sys
from io import StringIO
from pathlib import Path

import pytest
from django.core.management import call_command
from django.db import DatabaseError, transaction

from bank.authorization import decide
from bank.issuing import check_bank_enrolled, issue_opening_balances
from bank.models import Account, Order, Person, PersonKey
from fixtures.demo_keys import PASSPHRASE
from fixtures.make_demo import demo_files
from protocol.keyfile import KeyFile, decrypt_key_file, read_key_file_header
from protocol.keys import format_fingerprint, parse_fingerprint
from tests.bank.orders import balances
from tests.bank.unchanged import nothing_changed

FIXTURES = Path(__file__).resolve().parent.parent.parent / "fixtures"
FIXTURE = FIXTURES / "demo_bank.json"
CLIENTS = ("bank", "demo-ada", "demo-ben")


def demo_key_file_of(client_id: str) -> KeyFile:
    return decrypt_key_file((FIXTURES / "demo" / f"{client_id}.key").read_bytes(), PASSPHRASE)


def load() -> None:
    call_command("loaddata", str(FIXTURE), verbosity=0)


def test_the_files_are_what_the_program_makes(tmp_path: Path) -> None:
    files = demo_files()
    found = {
        str(path.relative_to(FIXTURES)): path.read_bytes()
        for path in [*(FIXTURES / "demo").iterdir(), FIXTURE]
    }
    assert found == files
    # And the program itself writes them, in a process of its own.
    subprocess.run(
        [sys.executable, "-m", "fixtures.make_demo", "--folder", str(tmp_path)],
        check=True,
        capture_output=True,
        cwd=FIXTURES.parent,
        timeout=60,
    )
    assert {
        str(path.relative_to(tmp_path)): path.read_bytes()
        for path in tmp_path.rglob("*")
        if path.is_file()
    } == files


@pytest.mark.django_db
def test_it_loads_and_the_ledger_is_in_order() -> None:
    load()
    assert balances() == {
        "account1": 1000,
        "account2": 1000,
        "account3": 1000,
        "cash-TWC": 0,
        "issuance-TWC": -3000,
    }
    out = StringIO()
    call_command("verify_ledger", stdout=out)
    assert out.getvalue().startswith("The ledger is in order: 5 accounts, 3 orders, 3 transfers")


@pytest.mark.django_db
def test_the_permissions_are_those_of_the_scenario() -> None:
    load()
    club = Account.objects.get(number="account1")
    permissions = ("view", "transfer", "withdraw", "deposit")

    def allowed(client_id: str) -> set[str]:
        person = Person.objects.get(client_id=client_id)
        return {each for each in permissions if decide(person, club, each)}

    assert allowed("demo-ada") == {"view", "transfer", "withdraw"}
    assert allowed("demo-ben") == {"view", "withdraw"}


@pytest.mark.django_db
def test_booking_goes_on_after_it() -> None:
    """The ledger's sequence continues behind the numbers that came with the fixture."""
    load()
    ((_, outcome),) = issue_opening_balances(demo_key_file_of("bank"), [("account2", "5")])
    assert outcome.code is None
    assert Order.objects.order_by("-pk")[0].sequence > 3
    assert balances(["account2"]) == {"account2": 1005}


@pytest.mark.django_db
def test_it_can_not_be_loaded_over_a_ledger() -> None:
    load()
    with nothing_changed(), pytest.raises(DatabaseError), transaction.atomic():
        load()


@pytest.mark.parametrize("client_id", CLIENTS)
def test_the_key_files_open_and_are_marked(client_id: str) -> None:
    data = (FIXTURES / "demo" / f"{client_id}.key").read_bytes()
    assert read_key_file_header(data).demo is True
    key_file = decrypt_key_file(data, PASSPHRASE)
    assert (key_file.client_id, key_file.demo) == (client_id, True)


@pytest.mark.django_db
def test_the_enrolled_keys_are_those_of_the_files() -> None:
    load()
    for client_id in CLIENTS:
        key_file = demo_key_file_of(client_id)
        enrolled = PersonKey.objects.get(person__client_id=client_id)
        assert bytes(enrolled.identity_key) == key_file.identity.public
        assert bytes.fromhex(enrolled.fingerprint) == key_file.fingerprint
        assert enrolled.person.full_name == key_file.bundle.name
    assert check_bank_enrolled(demo_key_file_of("bank")).client_id == "bank"


@pytest.mark.parametrize("client_id", CLIENTS[1:])
def test_the_configurations_name_person_key_and_bank(client_id: str) -> None:
    config = json.loads((FIXTURES / "demo" / f"{client_id}.json").read_text(encoding="utf-8"))
    key_file = demo_key_file_of(client_id)
    assert config["person"]["keys"]["private"] == f"{client_id}.key"
    bank = demo_key_file_of("bank")
    assert config["person"]["id"] == client_id
    assert config["person"]["name"] == key_file.bundle.name
    assert config["person"]["keys"]["public"] == format_fingerprint(key_file.fingerprint)
    assert parse_fingerprint(config["bank"]["fingerprint"]) == bank.fingerprint
    assert set(config) == {"person", "general", "server", "bank", "actions"}
