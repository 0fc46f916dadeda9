"""Files as the original system had them, end to end: nothing in them but the original's keys.

Two things can't be the same, and are made here the way a newcomer would: keys live in key files
(`keygen`), and the bank's fingerprint comes from the bank (here through the environment).
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from bank.models import Account, Order
from tests.databases import TestDatabases
from tests.installation import Installation, installed

FIRST, SECOND = "demo-first", "demo-second"
NAMES = {FIRST: "Mustermüller, Anfang", SECOND: "Beispielß, Ende"}
ACTIONS = {
    FIRST: [
        f"SEND [{SECOND}] [HELLO]",
        "SEND [bank] ADD [account1] [account2] [100]",
        "SEND [bank] SUB [account2] [100]",
    ],
    SECOND: [f"SEND [{NAMES[FIRST]}] [HELLO]"],
}
OPENING = "1000"


class Office:
    """A bank that was set up by its commands alone, and two people with configurations."""

    def __init__(self, installation: Installation) -> None:
        self.installation = installation
        self.folder = installation.folder / "office"
        self.folder.mkdir()
        self.variables = {
            "TELLERWIRE_BANK_KEY_FILE": str(self.folder / "bank.key"),
            "TELLERWIRE_STATE": str(self.folder / "state"),
        }
        installation.environment |= self.variables

    def run(self, *arguments: str) -> str:
        finished = self.installation.run(*arguments)
        assert finished.returncode == 0, finished.stdout
        return finished.stdout

    def set_up_bank(self) -> None:
        """Make the bank, and let its customers know its fingerprint."""
        said = self.run("manage.py", "init_bank", "--currency", "TWC:0:Tellerwire credits")
        fingerprint = re.search(r"configurations: ([0-9a-f ]{39})", said)
        assert fingerprint is not None, said
        self.installation.environment["TELLERWIRE_BANK_FINGERPRINT"] = fingerprint[1]

    def set_up_person(self, person: str) -> None:
        key = str(self.folder / f"{person}.key")
        self.run("-m", "clients.person", "keygen", person, NAMES[person], "--out", key)
        bundle = str(self.folder / f"{person}.json")
        self.run("-m", "clients.person", "show", "--key", key, "--out", bundle)

    def import_permissions(self) -> str:
        """Import a file of the original's form: ADD and SUB, private accounts, an organization."""
        file = self.folder / "bank_permissions.json"
        content = {
            "organizations": {
                "organization1": {
                    "account": "account1",
                    "employees": {
                        FIRST: {"permissions": ["ADD", "SUB"]},
                        SECOND: {"permissions": ["SUB"]},
                    },
                }
            },
            "persons": {
                FIRST: {"account": "account2", "public_key": f"{FIRST}.json"},
                SECOND: {"account": "account3", "public_key": f"{SECOND}.json"},
            },
        }
        file.write_text(json.dumps(content), encoding="utf-8")
        return self.run("manage.py", "import_permissions", str(file), "--opening-balance", OPENING)

    def config(self, person: str, actions: list[str], *, duration: str = "12") -> str:
        """Write a configuration with the original's keys, numbers as texts as it had them."""
        content = {
            "person": {
                "id": person,
                "name": NAMES[person],
                "keys": {"private": f"{person}.key", "public": f"{person}.json"},
            },
            "general": {"duration": duration, "retries": "5", "timeout": "5"},
            "server": {"ip": "127.0.0.1", "port": str(self.installation.port)},
            "actions": actions,
        }
        file = self.folder / f"{person}-config.json"
        file.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
        return str(file)


@pytest.fixture(scope="module")
def office(
    module_databases: TestDatabases, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Office]:
    """A running bank with three accounts of 1000; the tests of this module share it."""
    place = tmp_path_factory.mktemp("office") / "place"
    with installed(module_databases, place, with_demo_bank=False) as installation:
        office = Office(installation)
        office.set_up_bank()
        for person in (FIRST, SECOND):
            office.set_up_person(person)
        said = office.import_permissions()
        assert f"Issued {OPENING} to 3 accounts." in said
        assert balances() == {"account1": 1000, "account2": 1000, "account3": 1000}
        installation.start_server()
        installation.start_bank()
        yield office


def balances() -> dict[str, int]:
    return dict(
        Account.objects.filter(number__startswith="account").values_list("number", "balance")
    )


def test_the_original_scenario(office: Office) -> None:
    before = balances()
    began = time.monotonic()
    with ThreadPoolExecutor(max_workers=2) as pool:
        runs = {
            person: pool.submit(
                office.installation.run, "clients/person.py", "run", office.config(person, actions)
            )
            for person, actions in ACTIONS.items()
        }
        finished = {person: run.result() for person, run in runs.items()}
    for person, run in finished.items():
        assert run.returncode == 0, run.stdout
        count = len(ACTIONS[person])
        for number in range(1, count + 1):
            lines = [
                line
                for line in run.stdout.splitlines()
                if line.startswith(f"action {number}/{count} ")
            ]
            assert len(lines) == 1, run.stdout
            assert lines[0].startswith(f"action {number}/{count} ok: "), run.stdout
    # They stay for their duration, as the original did.
    assert time.monotonic() - began >= 11
    assert f"message from {NAMES[SECOND]} ({SECOND}): [HELLO]" in finished[FIRST].stdout
    assert f"message from {NAMES[FIRST]} ({FIRST}): [HELLO]" in finished[SECOND].stdout
    # From 1000 each to 900, 1000 and 1000, where this runs first.
    assert balances() == before | {"account1": before["account1"] - 100}
    office.installation.verify_ledger()


def test_what_the_original_would_not_allow_either(office: Office) -> None:
    """SUB alone doesn't let anybody ADD; an unknown account, fatal there, is a refusal here."""
    before = balances()
    actions = [
        "SEND [bank] ADD [account1] [account3] [10]",
        "SEND [bank] SUB [account2] [10]",
        "SEND [bank] ADD [account3] [account9] [10]",
        "SEND [bank] SUB [account3] [2000]",
        "SEND [bank] SUB [account1] [100]",
    ]
    said = office.installation.run(
        "clients/person.py", "run", "--once", office.config(SECOND, actions)
    )
    assert said.returncode == 1, said.stdout
    expected = [
        "permission_denied",
        "account_unavailable",
        "destination_unknown",
        "insufficient_funds",
        "ok: withdraw 100 from account1",
    ]
    for number, words in enumerate(expected, start=1):
        line = re.search(rf"^action {number}/5 (.*)$", said.stdout, re.MULTILINE)
        assert line is not None, said.stdout
        assert words in line[1], said.stdout
    assert balances() == before | {"account1": before["account1"] - 100}
    codes = Order.objects.filter(person__client_id=SECOND).order_by("pk")
    assert [order.code for order in codes] == [*expected[:4], ""]
    office.installation.verify_ledger()
    keys_in_clear_are_refused(office)


def keys_in_clear_are_refused(office: Office) -> None:
    """The one thing of the original's files that isn't taken as it is; the words say what to do."""
    file = Path(office.config(FIRST, ACTIONS[FIRST]))
    content = json.loads(file.read_text(encoding="utf-8"))
    content["person"]["keys"]["private"] = "-----BEGIN RSA PRIVATE KEY-----\nMIIEow…"
    file.write_text(json.dumps(content), encoding="utf-8")
    before = balances()
    said = office.installation.run("clients/person.py", "run", str(file))
    assert said.returncode == 2
    assert "person.keys.private" in said.stdout
    assert file.name in said.stdout
    assert "keygen" in said.stdout
    assert "Traceback" not in said.stdout
    assert balances() == before
