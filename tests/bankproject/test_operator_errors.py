"""What an operator reads where settings or a database stop a command: no traceback."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.core.management import ManagementUtility
from django.core.serializers.base import DeserializationError
from django.db import IntegrityError
from pytest_django.plugin import DjangoDbBlocker

from bank.models import Currency
from bankproject.operator_errors import told_in_words
from tests.architecture.imports import ROOT
from tests.bank.parties import bundle_object, make_organization, signed_bundle
from tests.databases import ALIASES, TestDatabases, led_to
from tests.installation import outside_environment

MANAGE = str(ROOT / "manage.py")
DEMO_BANK = str(ROOT / "fixtures" / "demo_bank.json")
DOWN = "postgresql://nobody@127.0.0.1:1/none"
WITH_A_DATABASE = [
    ["init_bank", "--key-file", "bank.key", "--passphrase-file", "passphrase"],
    ["import_permissions", "permissions.json"],
    ["enrol", "demo-ada", "ada.bundle", "--yes"],
    ["relay_client", "list"],
    ["loaddata", DEMO_BANK],
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What the commands need besides a database."""
    (tmp_path / "passphrase").write_text("secret\n")
    (tmp_path / "permissions.json").write_text('{"persons": {}, "organizations": {}}')
    bundle = bundle_object(signed_bundle("demo-ada"))
    (tmp_path / "ada.bundle").write_text(json.dumps(bundle))
    return tmp_path


def failing(folder: Path, *arguments: str, **variables: str) -> str:
    """Run what must exit with 1; return what it wrote to standard error."""
    defaults = {"TELLERWIRE_DATA_DIR": str(folder), "PYTHONPATH": str(ROOT)}
    completed = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**outside_environment(), **defaults, **variables},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert completed.returncode == 1, completed.stdout + completed.stderr
    return completed.stderr


def refused(folder: Path, *arguments: str, **variables: str) -> str:
    words = failing(folder, *arguments, **variables)
    assert "Traceback" not in words
    return words


def refused_here(databases: TestDatabases, arguments: list[str]) -> str:
    """Run a command as `manage.py` does, on these databases; return what it would say at its end.

    :mod:`manage` itself takes a second for each start, and `test_the_program_itself_says_so` shows
    that these are its words.
    """
    argv = ["manage.py", *arguments]
    command = ManagementUtility(argv).fetch_command(arguments[0])
    with led_to(databases), pytest.raises(SystemExit) as caught, told_in_words(arguments):
        command.run_from_argv(argv)
    assert isinstance(caught.value.code, str), "otherwise the status isn't 1"
    return caught.value.code


@pytest.mark.parametrize("arguments", WITH_A_DATABASE, ids=lambda arguments: arguments[0])
def test_a_database_that_is_down_or_not_migrated_is_said_so(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    django_db_blocker: DjangoDbBlocker,
    arguments: list[str],
) -> None:
    monkeypatch.chdir(folder)
    bank, relay = (f"sqlite:///{folder / alias}.sqlite3" for alias in ALIASES)
    with django_db_blocker.unblock():
        unmigrated = refused_here(TestDatabases("sqlite", bank, relay, folder), arguments)
        away = refused_here(TestDatabases("postgresql", DOWN, DOWN, folder), arguments)
    assert unmigrated.startswith("Tables are missing in the database: ")
    assert away.startswith("The database does not answer: connection failed")
    assert "TELLERWIRE_DATABASE_URL" in away


def test_the_program_itself_says_so(folder: Path) -> None:
    command = [MANAGE, *WITH_A_DATABASE[0]]
    assert "Tables are missing in the database: " in refused(folder, *command)
    words = refused(
        folder, *command, TELLERWIRE_DATABASE_URL=DOWN, TELLERWIRE_RELAY_DATABASE_URL=DOWN
    )
    assert "The database does not answer: connection failed" in words


def test_the_health_check_of_the_bank_asks_its_database(folder: Path) -> None:
    words = refused(folder, MANAGE, "check", "--database", "default", TELLERWIRE_DATABASE_URL=DOWN)
    assert "(bank.E009) The bank's database does not answer: connection failed" in words


@pytest.mark.parametrize(
    "command",
    [
        [MANAGE, "check"],
        [MANAGE, "runbank"],
        ["-m", "bankproject.serve"],
    ],
    ids=["check", "runbank", "serve"],
)
@pytest.mark.parametrize(
    ("variable", "value", "settings", "expected"),
    [
        ("SECRET_KEY", "", "production", "Set TELLERWIRE_SECRET_KEY: a long random text"),
        ("LOG_LEVEL", "foo", "development", "TELLERWIRE_LOG_LEVEL must be one of"),
        ("ROLES", "teller", "development", "TELLERWIRE_ROLES names teller"),
    ],
)
def test_a_wrong_setting_is_one_sentence(
    folder: Path, command: list[str], variable: str, value: str, settings: str, expected: str
) -> None:
    words = refused(
        folder,
        *command,
        **{
            f"TELLERWIRE_{variable}": value,
            "DJANGO_SETTINGS_MODULE": f"bankproject.settings.{settings}",
        },
    )
    assert words.startswith(expected)
    assert words.count("\n") == 1


def test_whoever_asks_for_the_traceback_gets_it(folder: Path) -> None:
    words = failing(folder, MANAGE, "check", "--traceback", TELLERWIRE_LOG_LEVEL="foo")
    assert words.startswith("Traceback")
    assert "TELLERWIRE_LOG_LEVEL must be one of" in words


def test_the_demo_bank_goes_into_an_empty_database_only(
    fresh_databases: TestDatabases, folder: Path
) -> None:
    make_organization("the-bank", is_bank=True)
    words = refused(
        folder,
        MANAGE,
        "loaddata",
        DEMO_BANK,
        **fresh_databases.environment,
    )
    assert "The database refused it: " in words
    assert "Nothing was loaded. The demo bank, or another whole bank, goes into an empty" in words
    assert not Currency.objects.exists()


def test_what_a_row_holds_is_not_repeated() -> None:
    with pytest.raises(SystemExit) as caught, told_in_words(["enrol"]):
        raise IntegrityError("duplicate key\nDETAIL:  Key (client_id)=(ada) already exists.")
    assert caught.value.code == "The database refused it: duplicate key. --traceback shows where."


@pytest.mark.parametrize("error", [DeserializationError("no such field"), IntegrityError("twice")])
def test_loading_says_that_nothing_was_loaded(error: Exception) -> None:
    with pytest.raises(SystemExit, match="Nothing was loaded"), told_in_words(["loaddata"]):
        raise error


def test_other_errors_and_those_that_are_asked_for_pass() -> None:
    with pytest.raises(ZeroDivisionError), told_in_words():
        raise ZeroDivisionError
    with pytest.raises(ImproperlyConfigured), told_in_words(["check", "--traceback"]):
        raise ImproperlyConfigured
