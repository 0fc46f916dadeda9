"""Triggers that are gone, switched off, or others under the same names: all are named."""

from __future__ import annotations

import re

import pytest
from django.db import connection

from bank.verification import verify_ledger
from bank.verification.guards import guards_of_migrations, guards_present
from tests.bank.guards import drop_guards
from tests.bank.orders import BANK_ID

pytestmark = pytest.mark.django_db


def problems() -> set[str]:
    return {str(problem) for problem in verify_ledger(BANK_ID)}


def execute(*statements: str) -> None:
    with connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement, None)


def test_the_migrations_make_what_is_expected_and_no_other_guard() -> None:
    expected = guards_of_migrations(connection.vendor)
    assert guards_present("default") == {name: {text} for name, text in expected.items()}
    assert problems() == set()


def test_every_missing_trigger_is_named() -> None:
    names = guards_of_migrations(connection.vendor)
    assert {"bank_entry_no_update", "bank_employee_fixed", "bank_role_fixed"} < set(names)
    drop_guards()
    assert problems() == {f"trigger {name}: is missing or switched off" for name in names}


def test_triggers_of_the_same_names_that_do_nothing_are_named() -> None:
    if connection.vendor == "sqlite":
        with connection.cursor() as cursor:
            cursor.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'")
            kept = dict(cursor.fetchall())
        drop_guards()
        execute(*(re.sub(r"BEGIN .*END", "BEGIN SELECT 1; END", sql) for sql in kept.values()))
    else:
        with connection.cursor() as cursor:
            cursor.execute("SELECT DISTINCT tgfoid::regproc FROM pg_trigger WHERE NOT tgisinternal")
            functions = [name for (name,) in cursor.fetchall()]
        execute(
            *(
                f"CREATE OR REPLACE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS "
                "$$ BEGIN RETURN NEW; END $$"
                for name in functions
            )
        )
    assert problems() == {
        f"trigger {name}: is not the one that the migrations make"
        for name in guards_of_migrations(connection.vendor)
    }


POSTGRESQL_CHANGES = {
    "never fires": (
        "DROP TRIGGER bank_entry_no_update ON bank_entry",
        "CREATE TRIGGER bank_entry_no_update BEFORE UPDATE ON bank_entry FOR EACH ROW "
        "WHEN (false) EXECUTE FUNCTION bank_refuse_update()",
        "ALTER TABLE bank_entry ENABLE ALWAYS TRIGGER bank_entry_no_update",
    ),
    "on another table": (
        "DROP TRIGGER bank_entry_no_update ON bank_entry",
        "CREATE TRIGGER bank_entry_no_update BEFORE UPDATE ON bank_role FOR EACH ROW "
        "EXECUTE FUNCTION bank_refuse_update()",
        "ALTER TABLE bank_role ENABLE ALWAYS TRIGGER bank_entry_no_update",
    ),
    "for one column": (
        "DROP TRIGGER bank_entry_no_update ON bank_entry",
        "CREATE TRIGGER bank_entry_no_update BEFORE UPDATE OF amount ON bank_entry "
        "FOR EACH ROW EXECUTE FUNCTION bank_refuse_update()",
        "ALTER TABLE bank_entry ENABLE ALWAYS TRIGGER bank_entry_no_update",
    ),
    "another function": (
        "CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$",
        "DROP TRIGGER bank_entry_no_update ON bank_entry",
        "CREATE TRIGGER bank_entry_no_update BEFORE UPDATE ON bank_entry FOR EACH ROW "
        "EXECUTE FUNCTION nothing()",
        "ALTER TABLE bank_entry ENABLE ALWAYS TRIGGER bank_entry_no_update",
    ),
    "in ordinary sessions only": ("ALTER TABLE bank_entry ENABLE TRIGGER bank_entry_no_update",),
}
SQLITE_CHANGES = {
    "never fires": (
        "DROP TRIGGER bank_entry_no_update",
        "CREATE TRIGGER bank_entry_no_update BEFORE UPDATE ON bank_entry WHEN 0 "
        "BEGIN SELECT RAISE(ABORT, 'no'); END",
    ),
    "on another table": (
        "DROP TRIGGER bank_entry_no_update",
        "CREATE TRIGGER bank_entry_no_update BEFORE UPDATE ON bank_role "
        "BEGIN SELECT RAISE(ABORT, 'no'); END",
    ),
}


@pytest.mark.parametrize("change", [*POSTGRESQL_CHANGES])
def test_a_trigger_that_is_weaker_than_the_true_one_is_named(change: str) -> None:
    changes = SQLITE_CHANGES if connection.vendor == "sqlite" else POSTGRESQL_CHANGES
    statements = changes.get(change, SQLITE_CHANGES["never fires"])
    execute(*statements)
    (problem,) = problems()
    assert problem.startswith("trigger bank_entry_no_update: is ")


def test_a_function_with_settings_of_its_own_is_named() -> None:
    """With another search path it would look at tables that somebody else has made."""
    if connection.vendor == "postgresql":
        execute("ALTER FUNCTION bank_account_balances() SET search_path = elsewhere, public")
        assert problems() == {"trigger bank_account_balances: is missing or switched off"}
