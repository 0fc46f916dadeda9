"""The database role of a deployment: it can book, and can't touch what was booked."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from django.core.management import call_command
from django.db import DatabaseError, ProgrammingError, connection
from django.db.backends.utils import CursorWrapper

from tests.bank.orders import SmallBank, balances, book_one, small_bank, transfer, withdraw
from tests.databases import TestDatabases

SCRIPT = Path(__file__).resolve().parents[2] / "docs" / "sql" / "bank_role.sql"
INSUFFICIENT_PRIVILEGE = "42501"

# A deployment's tables are made by `bank_owner`, in a database of its own; here a superuser did it.
AS_IN_A_DEPLOYMENT = """
DO $$
DECLARE
    thing record;
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['bank_owner', 'bank'] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name) THEN
            EXECUTE format('CREATE ROLE %I LOGIN', name);
        END IF;
    END LOOP;
    EXECUTE format('ALTER DATABASE %I OWNER TO {owner}', current_database());
    FOR thing IN
        SELECT oid::regclass AS name FROM pg_class
        WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'
    LOOP
        EXECUTE format('ALTER TABLE %s OWNER TO {owner}', thing.name);
    END LOOP;
    FOR thing IN
        SELECT oid::regprocedure AS name FROM pg_proc WHERE pronamespace = 'public'::regnamespace
    LOOP
        EXECUTE format('ALTER FUNCTION %s OWNER TO {owner}', thing.name);
    END LOOP;
END $$;
"""


@contextmanager
def _as_role(role: str) -> Iterator[CursorWrapper]:
    with connection.cursor() as cursor:
        cursor.execute(f"SET ROLE {role}")
        try:
            yield cursor
        finally:
            cursor.execute("RESET ROLE")


def _owned_by(owner: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(AS_IN_A_DEPLOYMENT.replace("{owner}", owner))


def _grant() -> None:
    with _as_role("bank_owner") as cursor:
        try:
            cursor.execute(SCRIPT.read_text(encoding="utf-8"))
        except DatabaseError:
            cursor.execute("ROLLBACK")
            raise


@pytest.fixture
def bank(postgres_databases: TestDatabases) -> SmallBank:
    _owned_by("bank_owner")
    _grant()
    _grant()
    with _as_role("bank"):
        return small_bank()


def test_the_role_can_run_the_bank(bank: SmallBank) -> None:
    with _as_role("bank"):
        assert book_one(bank.ada, transfer("account1", "account2", 100)).code is None
        assert book_one(bank.ada, withdraw("account2", 100)).code is None
    assert balances(["account1", "account2", "account3"]) == {
        "account1": 900,
        "account2": 1000,
        "account3": 1000,
    }


def test_a_restart_of_the_deployment_migrates_nothing(bank: SmallBank) -> None:
    with _as_role("bank"):
        call_command("migrate", database="default", verbosity=0)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE bank_entry SET amount = 1",
        "UPDATE bank_order SET code = 'bad_order'",
        "DELETE FROM bank_transfer",
        "DELETE FROM bank_account",
        "DELETE FROM bank_personkey",
        "DELETE FROM bank_auditrecord",
        "TRUNCATE bank_entry",
        "DROP TRIGGER bank_entry_no_update ON bank_entry",
        "ALTER TABLE bank_entry DISABLE TRIGGER ALL",
        "SET session_replication_role = replica",
        "DROP TABLE bank_entry",
        "CREATE OR REPLACE FUNCTION bank_refuse_update() RETURNS trigger LANGUAGE plpgsql AS "
        "'BEGIN RETURN NEW; END'",
    ],
)
def test_the_role_cannot_touch_what_was_booked(bank: SmallBank, statement: str) -> None:
    before = balances()
    with _as_role("bank") as cursor, pytest.raises(ProgrammingError) as refused:
        cursor.execute(statement)
    assert getattr(refused.value.__cause__, "sqlstate", None) == INSUFFICIENT_PRIVILEGE
    assert balances() == before


def test_tables_of_the_bank_itself_are_refused_until_they_are_taken_away(
    postgres_databases: TestDatabases,
) -> None:
    _owned_by("bank")
    with pytest.raises(DatabaseError, match="the role bank has the rights of an owner here"):
        _grant()
    with connection.cursor() as cursor:
        cursor.execute("REASSIGN OWNED BY bank TO bank_owner")
        cursor.execute(f"GRANT CONNECT ON DATABASE {connection.settings_dict['NAME']} TO bank")
    _grant()
    with _as_role("bank"):
        bank = small_bank()
        assert book_one(bank.ada, transfer("account1", "account2", 100)).code is None
    with _as_role("bank") as cursor, pytest.raises(ProgrammingError):
        cursor.execute("ALTER TABLE bank_entry DISABLE TRIGGER ALL")
