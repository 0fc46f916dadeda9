"""The database role of a deployment: it can book, and can't touch what was booked."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from django.core.management import call_command
from django.db import ProgrammingError, connection

from tests.bank.orders import SmallBank, balances, book_one, small_bank, transfer, withdraw
from tests.databases import TestDatabases

SCRIPT = Path(__file__).resolve().parents[2] / "docs" / "sql" / "bank_role.sql"
INSUFFICIENT_PRIVILEGE = "42501"

# A deployment's `bank` has migrated, so the tables are its own; here a superuser did.
OWNED_BY_BANK = """
DO $$
DECLARE thing record;
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'bank') THEN
        CREATE ROLE bank LOGIN;
    END IF;
    GRANT ALL ON SCHEMA public TO bank;
    FOR thing IN
        SELECT oid::regclass AS name FROM pg_class
        WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'
    LOOP
        EXECUTE format('ALTER TABLE %s OWNER TO bank', thing.name);
    END LOOP;
    FOR thing IN
        SELECT oid::regprocedure AS name FROM pg_proc WHERE pronamespace = 'public'::regnamespace
    LOOP
        EXECUTE format('ALTER FUNCTION %s OWNER TO bank', thing.name);
    END LOOP;
END $$;
"""


@contextmanager
def _as_bank() -> Iterator[None]:
    with connection.cursor() as cursor:
        cursor.execute("SET ROLE bank")
        try:
            yield
        finally:
            cursor.execute("RESET ROLE")


@pytest.fixture
def bank(postgres_databases: TestDatabases) -> SmallBank:
    with connection.cursor() as cursor:
        cursor.execute(OWNED_BY_BANK)
        script = SCRIPT.read_text(encoding="utf-8")
        cursor.execute(script)
        cursor.execute(script)
    with _as_bank():
        return small_bank()


def test_the_role_can_run_the_bank(bank: SmallBank) -> None:
    with _as_bank():
        assert book_one(bank.ada, transfer("account1", "account2", 100)).code is None
        assert book_one(bank.ada, withdraw("account2", 100)).code is None
    assert balances(["account1", "account2", "account3"]) == {
        "account1": 900,
        "account2": 1000,
        "account3": 1000,
    }


def test_a_restart_of_the_deployment_migrates_nothing(bank: SmallBank) -> None:
    with _as_bank():
        call_command("migrate", database="default", verbosity=0)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE bank_entry SET amount = 1",
        "UPDATE bank_order SET code = 'bad_order'",
        "DELETE FROM bank_transfer",
        "DELETE FROM bank_account",
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
    with _as_bank(), pytest.raises(ProgrammingError) as refused, connection.cursor() as cursor:
        cursor.execute(statement)
    assert getattr(refused.value.__cause__, "sqlstate", None) == INSUFFICIENT_PRIVILEGE
    assert balances() == before
