"""``import_permissions``: the original's file with key bundles, all of it or nothing."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError
from django.test import override_settings

from bank import issuing
from bank.authorization import decide
from bank.errors import OutcomeUnknownError
from bank.incoming import OrderOutcome
from bank.issuing import issue_opening_balances
from bank.ledger import book
from bank.management.commands import import_permissions as command
from bank.models import (
    Account,
    AccountKind,
    AccountStatus,
    AuditRecord,
    Currency,
    Employee,
    Organization,
    Person,
    PersonKey,
    Transfer,
)
from protocol.encoding import b64u
from protocol.keyfile import Cost, encrypt_key_file, new_key_file
from tests.bank.parties import (
    bundle_object,
    identity_of,
    make_account,
    make_currency,
    make_person,
    signed_bundle,
)
from tests.bank.unchanged import nothing_changed

pytestmark = pytest.mark.django_db

RSA_KEY = "-----BEGIN PUBLIC KEY-----\nMIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8A\n-----END PUBLIC KEY-----"


def contents() -> dict[str, Any]:
    """The scenario of the original: one organization, two persons, three accounts."""
    return {
        "organizations": {
            "demo-club": {
                "account": "account1",
                "employees": {
                    "demo-ada": {"permissions": ["ADD", "SUB"]},
                    "demo-ben": {"permissions": ["SUB"]},
                },
            }
        },
        "persons": {
            "demo-ada": {
                "account": "account2",
                "public_key": bundle_object(signed_bundle("demo-ada")),
            },
            "demo-ben": {
                "account": "account3",
                "public_key": bundle_object(signed_bundle("demo-ben")),
            },
        },
    }


class Importer:
    """Writes a file and imports it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, content: object, **options: object) -> str:
        path = self.folder / "bank_permissions.json"
        text = content if isinstance(content, str) else json.dumps(content)
        path.write_text(text, encoding="utf-8")
        printed = StringIO()
        call_command("import_permissions", str(path), stdout=printed, **options)
        return printed.getvalue()

    def refused(self, content: object, **options: object) -> str:
        """Import what must be refused as a whole; the words."""
        with nothing_changed(), pytest.raises(CommandError) as caught:
            self(content, **options)
        words = str(caught.value)
        assert "Nothing was imported." in words
        return words


@pytest.fixture
def imports(tmp_path: Path, db: None) -> Importer:
    make_currency()
    return Importer(tmp_path)


def may(client_id: str, number: str) -> str:
    person, account = Person.objects.get(client_id=client_id), Account.objects.get(number=number)
    permissions = ("view", "transfer", "withdraw")
    return " ".join(one for one in permissions if decide(person, account, one))


def test_the_scenario_of_the_original(imports: Importer) -> None:
    printed = imports(contents())
    assert "10 created, 0 changed, 0 unchanged." in printed
    assert "created   employee demo-club/demo-ada" in printed
    assert may("demo-ada", "account1") == "view transfer withdraw"
    assert may("demo-ben", "account1") == "view withdraw"
    assert may("demo-ada", "account2") == "view transfer withdraw"
    assert may("demo-ada", "account3") == ""
    assert {account.balance for account in Account.objects.all()} == {0}
    assert set(AuditRecord.objects.values_list("actor", flat=True)) == {
        "command:import_permissions"
    }


def test_the_same_file_again_changes_nothing(imports: Importer) -> None:
    imports(contents())
    with nothing_changed():
        assert "0 created, 0 changed, 10 unchanged." in imports(contents())


def test_a_changed_file_changes_what_it_names_and_nothing_else(imports: Importer) -> None:
    imports(contents())
    content = contents()
    club = content["organizations"]["demo-club"]
    club["name"] = "Demo club"
    club["roles"] = {"movers": ["transfer"]}
    club["employees"] = {"demo-ben": {"permissions": ["view"], "roles": ["movers"]}}
    newer = signed_bundle("demo-ada", generation=2)
    content["persons"]["demo-ada"]["public_key"] = bundle_object(newer)
    printed = imports(content)
    assert "1 created, 3 changed, 6 unchanged." in printed
    assert may("demo-ben", "account1") == "view transfer"
    assert may("demo-ada", "account1") == "view transfer withdraw"
    assert Organization.objects.get().name == "Demo club"
    assert PersonKey.objects.filter(person__client_id="demo-ada").count() == 2
    with nothing_changed():
        assert "0 created, 0 changed, 10 unchanged." in imports(content)
        content["persons"]["demo-ada"]["public_key"] = bundle_object(signed_bundle("demo-ada"))
        assert "0 created, 0 changed" in imports(content), "the person has rotated since"


def test_a_dry_run_says_what_it_would_do_and_does_nothing(imports: Importer) -> None:
    with nothing_changed():
        printed = imports(contents(), dry_run=True)
    assert "Would be: 10 created" in printed


BUNDLE_TEXT = json.dumps(bundle_object(signed_bundle("demo-ada")))


@pytest.mark.parametrize(
    "public_key",
    [
        bundle_object(signed_bundle("demo-ada")),
        BUNDLE_TEXT,
        f"\n {BUNDLE_TEXT} \n",
        b64u(BUNDLE_TEXT.encode()),
        "ada.bundle",
        "keys/ada",
    ],
)
def test_a_bundle_is_taken_in_every_form(imports: Importer, public_key: object) -> None:
    (imports.folder / "keys").mkdir()
    (imports.folder / "ada.bundle").write_text(BUNDLE_TEXT + "\n")
    (imports.folder / "keys" / "ada").write_text(b64u(BUNDLE_TEXT.encode()) + "\n")
    content = contents()
    content["persons"]["demo-ada"]["public_key"] = public_key
    imports(content)
    key = PersonKey.objects.get(person__client_id="demo-ada")
    assert bytes(key.identity_key) == identity_of("demo-ada").public


def edited(*path: str, value: object = ...) -> dict[str, Any]:
    """The file with one member set, or removed where no value is given."""
    content: Any = contents()
    inner = content
    for name in path[:-1]:
        inner = inner[name]
    if value is ...:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    return content


ADA = ("persons", "demo-ada")
CLUB = ("organizations", "demo-club")
EMPLOYED = (*CLUB, "employees", "demo-ada")
ALTERED = {**bundle_object(signed_bundle("demo-ada")), "signature": b64u(bytes(64))}
WRONG: dict[str, tuple[object, str]] = {
    "not JSON": ("{", "is not JSON"),
    "no object": ("[]", "the file: must be an object"),
    "nothing in it": ({}, "organizations: is missing.\npersons: is missing."),
    "no persons": (edited("persons"), "persons: is missing"),
    "persons are a list": (edited("persons", value=[]), "persons: must be an object"),
    "an unknown member": (edited("banks", value={}), "banks: is not known"),
    "a member twice": ('{"persons": {}, "persons": {}}', "'persons' appears twice"),
    "a bad id": (edited("persons", "a b", value={}), "persons.a b: 'a b' is no client id"),
    "ids that differ in case": (
        edited("persons", "DEMO-ADA", value={"account": "x", "public_key": "x"}),
        "persons.DEMO-ADA: differs from demo-ada only in letter case",
    ),
    "no account": (edited(*ADA, "account"), "persons.demo-ada.account: is missing"),
    "a bad account": (
        edited(*ADA, "account", value=True),
        "persons.demo-ada.account: must be the number of an account",
    ),
    "an account with spaces": (
        edited(*ADA, "account", value="my account"),
        "persons.demo-ada.account: 'my account' is no account number: 1 to 34 letters a-z",
    ),
    "an account with a NUL": (
        edited(*ADA, "account", value="account\0"),
        r"persons.demo-ada.account: 'account\x00' is no account number",
    ),
    "a role with a NUL": (
        edited(*CLUB, "roles", value={"bo\0ss": []}),
        r"organizations.demo-club.roles.bo\x00ss: has control or invisible characters.",
    ),
    "a role with half a character": (
        edited(*CLUB, "roles", value={"\ud800": []}),
        r"organizations.demo-club.roles.\ud800: has control or invisible characters.",
    ),
    "an organization's name with a NUL": (
        edited(*CLUB, "name", value="Club\0"),
        "organizations.demo-club.name: has control or invisible characters.",
    ),
    "an organization's name with half a character": (
        edited(*CLUB, "name", value="\udfff"),
        "organizations.demo-club.name: has control or invisible characters.",
    ),
    "an account of two owners": (
        edited(*ADA, "account", value="account3"),
        "account account3 is given to persons.demo-ada already",
    ),
    "an account of a person and an organization": (
        edited(*CLUB, "account", value="account2"),
        "organizations.demo-club.account: account account2 is given to persons.demo-ada already",
    ),
    "no key": (edited(*ADA, "public_key"), "persons.demo-ada.public_key: is missing"),
    "a key that is a number": (
        edited(*ADA, "public_key", value=5),
        "persons.demo-ada.public_key: must be a key bundle",
    ),
    "an empty key": (
        edited(*ADA, "public_key", value=" "),
        "persons.demo-ada.public_key: must be a key bundle",
    ),
    "a file that isn't there": (
        edited(*ADA, "public_key", value="nobody.bundle"),
        "persons.demo-ada.public_key: neither a key bundle nor a file that can be read",
    ),
    "an incomplete bundle": (
        edited(*ADA, "public_key", value={"bundle": "e30"}),
        "persons.demo-ada.public_key: is no key bundle",
    ),
    "a forged bundle": (
        edited(*ADA, "public_key", value=ALTERED),
        "persons.demo-ada.public_key: bad key bundle: the bundle's signature is wrong",
    ),
    "the bundle of somebody else": (
        edited(*ADA, "public_key", value=bundle_object(signed_bundle("demo-ben"))),
        "persons.demo-ada.public_key: the key bundle is of demo-ben",
    ),
    "an RSA key": (
        edited(*ADA, "public_key", value=RSA_KEY),
        "persons.demo-ada.public_key: this is an RSA key of the old system, which can't sign "
        "orders; let the person make a key bundle with `python -m clients.person keygen`, "
        "or import with --without-keys",
    ),
    "an RSA key without its frame": (
        edited(*ADA, "public_key", value="MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8A"),
        "this is an RSA key",
    ),
    "a name without a comma": (
        edited(*ADA, "name", value="Ada"),
        "persons.demo-ada.name: 'Ada' is no name",
    ),
    "another name than the bundle's": (
        edited(*ADA, "name", value="Other, Ada"),
        'persons.demo-ada.name: the key bundle says "Test, Demo-ada", not "Other, Ada"',
    ),
    "an employee who isn't listed": (
        edited(*CLUB, "employees", "demo-eve", value={"permissions": ["ADD"]}),
        "organizations.demo-club.employees.demo-eve: is not listed in persons",
    ),
    "no permissions": (
        edited(*EMPLOYED, value={}),
        "organizations.demo-club.employees.demo-ada.permissions: is missing",
    ),
    "permissions that are text": (
        edited(*EMPLOYED, "permissions", value="ADD"),
        "organizations.demo-club.employees.demo-ada.permissions: must be a list of texts",
    ),
    "an unknown permission": (
        edited(*EMPLOYED, "permissions", value=["ADD", "MUL"]),
        "organizations.demo-club.employees.demo-ada.permissions[1]: there is no permission 'MUL'",
    ),
    "deposit outside the bank": (
        edited(*EMPLOYED, "permissions", value=["deposit"]),
        "organizations.demo-club.employees.demo-ada: Only employees of the bank may deposit",
    ),
    "an unknown role": (
        edited(*EMPLOYED, "roles", value=["boss"]),
        "employees.demo-ada.roles[0]: the organization has no role 'boss'",
    ),
    "an unknown permission in a role": (
        edited(*CLUB, "roles", value={"boss": ["everything"]}),
        "organizations.demo-club.roles.boss[0]: there is no permission 'everything'",
    ),
    "an empty name": (
        edited(*CLUB, "name", value=""),
        "organizations.demo-club.name: must be text",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_named_with_its_path_and_nothing_is_imported(
    imports: Importer, case: str
) -> None:
    content, words = WRONG[case]
    assert words in imports.refused(content)


def test_everything_that_is_wrong_is_named_at_once(imports: Importer) -> None:
    content = edited(*ADA, "public_key")
    content["persons"]["demo-ben"]["account"] = None
    words = imports.refused(content)
    assert words.startswith(f"{imports.folder / 'bank_permissions.json'} can't be imported:\n")
    assert "persons.demo-ada.public_key: is missing." in words
    assert "persons.demo-ben.account: must be" in words


def test_a_late_refusal_undoes_everything(imports: Importer) -> None:
    make_account("account1", make_person("demo-eve"))
    words = imports.refused(contents())
    assert "organizations.demo-club.account: account account1 exists and belongs to" in words


def test_another_identity_than_the_one_in_force_is_not_imported(imports: Importer) -> None:
    imports(contents())
    usurper = bundle_object(signed_bundle("demo-ada", version=2, generation=2))
    words = imports.refused(edited(*ADA, "public_key", value=usurper))
    assert "persons.demo-ada.public_key: The new identity" in words
    assert "is not signed by the old one" in words


def test_persons_without_keys_can_do_nothing_until_they_are_enrolled(imports: Importer) -> None:
    content = contents()
    content["persons"]["demo-ada"] |= {"public_key": RSA_KEY, "name": "Test, Demo-ada"}
    del content["persons"]["demo-ben"]["public_key"]
    assert "8 created" in imports(content, without_keys=True)
    assert not PersonKey.objects.exists()
    assert may("demo-ada", "account1") == ""
    # Nothing told Ben's name; his key bundle does.
    assert Person.objects.get(client_id="demo-ben").full_name == "demo-ben, demo-ben"
    assert "0 created, 0 changed, 8 unchanged" in imports(content, without_keys=True)
    assert "2 created, 1 changed, 7 unchanged" in imports(contents())
    assert Person.objects.get(client_id="demo-ben").full_name == "Test, Demo-ben"
    assert may("demo-ada", "account1") == "view transfer withdraw"


def test_the_currency_must_be_clear(imports: Importer) -> None:
    make_currency("EUR", 2)
    assert "several currencies" in imports.refused(contents())
    assert "no currency USD" in imports.refused(contents(), currency="USD")
    assert "0 decimal places, not 2" in imports.refused(contents(), currency="TWC", exponent=2)
    for wrong in ("usd", "US\0", "\udc80"):
        words = imports.refused(contents(), currency=wrong, exponent=2)
        assert f"--currency: {wrong!r} is no code of a currency: 3 to 12 capital letters" in words
    imports(contents(), currency="USD", exponent=2)
    assert Currency.objects.get(code="USD").exponent == 2
    assert {account.currency_id for account in Account.objects.all()} == {"USD"}
    words = imports.refused(contents(), currency="EUR")
    assert "account account2 exists with the currency USD" in words


def test_without_any_currency_it_says_how_to_make_one(tmp_path: Path, db: None) -> None:
    words = Importer(tmp_path).refused(contents())
    assert "make one with --currency and --exponent" in words


def test_a_file_that_is_not_there_is_named(db: None) -> None:
    with nothing_changed(), pytest.raises(CommandError, match=r"nowhere\.json can't be read"):
        call_command("import_permissions", "nowhere.json")


@pytest.fixture
def bank(tmp_path: Path) -> Any:
    """A bank that is set up, with its settings."""
    now = time.time_ns() // 1_000_000
    key_file = new_key_file("bank", "Demo", "Bank", now=now, random_bytes=os.urandom, demo=True)
    cost = Cost(memory_kib=19 * 1024, passes=1, lanes=1)
    (tmp_path / "bank.key").write_bytes(encrypt_key_file(key_file, "demo", os.urandom, cost))
    (tmp_path / "passphrase").write_text("demo\n")
    for name in ("bank.key", "passphrase"):
        (tmp_path / name).chmod(0o600)
    values = {
        "KEY_FILE": str(tmp_path / "bank.key"),
        "PASSPHRASE_FILE": str(tmp_path / "passphrase"),
    }
    with override_settings(BANK=values):
        yield key_file


def init_bank(*currencies: str) -> None:
    call_command("init_bank", currency=list(currencies), stdout=StringIO())


def test_opening_balances_are_transfers_signed_by_the_bank(imports: Importer, bank: Any) -> None:
    init_bank("TWC:0:Tellerwire credits")
    printed = imports(contents(), opening_balance="1000")
    assert "Issued 1000 to 3 accounts." in printed
    customers = Account.objects.filter(kind=AccountKind.CUSTOMER)
    assert {account.balance for account in customers} == {1000}
    assert Account.objects.get(kind=AccountKind.ISSUANCE).balance == -3000
    assert {transfer.kind for transfer in Transfer.objects.all()} == {"opening"}
    with nothing_changed():
        assert "Issued 1000 to 0 accounts." in imports(contents(), opening_balance="1000")


def test_an_import_that_comes_in_between_issues_nothing_twice(
    imports: Importer, bank: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one has looked for what is booked, too, before either books."""
    init_bank("TWC:0:Tellerwire credits")

    def after_the_other(*arguments: Any) -> list[tuple[str, OrderOutcome]]:
        issue_opening_balances(arguments[0], [("account2", "1000")])
        return issue_opening_balances(*arguments)

    monkeypatch.setattr(command, "issue_opening_balances", after_the_other)
    printed = imports(contents(), opening_balance="1000")
    assert "Issued 1000 to 2 accounts.\nAlready issued to account account2.\n" in printed
    customers = Account.objects.filter(kind=AccountKind.CUSTOMER)
    assert {account.balance for account in customers} == {1000}


def test_an_import_that_was_stopped_while_it_issued_goes_on(
    imports: Importer, bank: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    init_bank("TWC:0:Tellerwire credits")

    def book_and_fail(batch: Any, *arguments: Any, **options: Any) -> None:
        book(batch, *arguments, **options)
        raise OutcomeUnknownError

    with monkeypatch.context() as broken:
        broken.setattr(issuing, "BATCH_ORDERS", 2)
        broken.setattr(issuing, "book", book_and_fail)
        with pytest.raises(CommandError, match="Run the same again to issue the rest"):
            imports(contents(), opening_balance="1000")
    assert "Issued 1000 to 1 accounts." in imports(contents(), opening_balance="1000")
    customers = Account.objects.filter(kind=AccountKind.CUSTOMER)
    assert {account.balance for account in customers} == {1000}


def test_an_opening_balance_that_was_refused_is_issued_once_it_can_be(
    imports: Importer, bank: Any
) -> None:
    init_bank("TWC:0:Tellerwire credits")
    imports(contents())
    Account.objects.filter(number="account2").update(status=AccountStatus.FROZEN)
    for _ in range(2):
        with pytest.raises(CommandError, match="account account2: account_frozen"):
            imports(contents(), opening_balance="1000")
    Account.objects.filter(number="account2").update(status=AccountStatus.OPEN)
    assert "Issued 1000 to 1 accounts." in imports(contents(), opening_balance="1000")


@pytest.mark.parametrize(
    ("set_up", "amount", "words"),
    [
        (lambda: init_bank("TWC:0:Credits"), "12.50", "more decimal places than its currency"),
        (lambda: init_bank("TWC:0:Credits"), "-5", "the amount is negative"),
        (lambda: None, "1000", "init_bank"),
    ],
)
def test_an_opening_balance_that_can_not_be_issued_stops_the_import(
    imports: Importer, bank: Any, set_up: Callable[[], None], amount: str, words: str
) -> None:
    set_up()
    assert words in imports.refused(contents(), opening_balance=amount)
    assert not Employee.objects.filter(organization__is_bank=False).exists()
