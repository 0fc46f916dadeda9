"""Triggers that keep the ledger append-only, on both databases.

What they refuse, whoever asks, a superuser with raw SQL included:

* orders, transfers and entries: every change and every deletion;
* accounts and currencies: deletion; a balance at birth; a balance that is not the one of the
  account's newest entry; another number, owner, kind or currency once there are entries; another
  exponent once there are accounts;
* enrolled keys of a person who has given orders: deletion, and other key material: the evidence
  of those orders is checked with it.

A refusal is an integrity error (SQLSTATE 23001 on PostgreSQL, a constraint failure on SQLite).
Whoever owns the tables can drop triggers; ``verify_ledger`` notices that too, and what was done
meanwhile. SQLite loses the triggers of a table when a later migration rebuilds that table
(``AlterField`` and others do): such a migration creates them again.
"""

# ruff: noqa: S608 - every text that is put together here is a constant of this file

from __future__ import annotations

from django.db import migrations
from django.db.backends.base.schema import BaseDatabaseSchemaEditor
from django.db.migrations.state import StateApps

JOURNAL = ("bank_order", "bank_transfer", "bank_entry")
KEPT = (*JOURNAL, "bank_account", "bank_currency")

# A reader finds the reason in the message, so each message says what the rule is.
NEVER_CHANGED = "rows are never changed: a mistake is corrected by a reversal"
NEVER_DELETED = "rows are never deleted"
BORN_EMPTY = "an account is born empty: money comes by a transfer"
BALANCE_OF_JOURNAL = "a balance is that of the newest entry: only the ledger changes it"
ACCOUNT_FIXED = "number, owner, kind and currency of an account with entries are fixed"
EXPONENT_FIXED = "code and exponent of a currency with accounts are fixed"
KEY_FIXED = "an enrolled key of a person with orders is fixed: the evidence needs it"

POSTGRESQL_FUNCTIONS = f"""
CREATE FUNCTION bank_refuse_update() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '%: {NEVER_CHANGED}', TG_TABLE_NAME USING ERRCODE = 'restrict_violation';
END $$;

CREATE FUNCTION bank_refuse_delete() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '%: {NEVER_DELETED}', TG_TABLE_NAME USING ERRCODE = 'restrict_violation';
END $$;

CREATE FUNCTION bank_account_born() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.balance <> 0 THEN
        RAISE EXCEPTION 'bank_account: {BORN_EMPTY}' USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NULL;
END $$;

-- Once for a statement, not for a row: a batch changes a thousand balances in one statement.
CREATE FUNCTION bank_account_balances() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (
        SELECT 1
        FROM changed
        LEFT JOIN LATERAL (
            SELECT balance_after FROM bank_entry
            WHERE account_id = changed.id ORDER BY transfer_id DESC LIMIT 1
        ) AS newest ON true
        WHERE changed.balance <> COALESCE(newest.balance_after, 0)
    ) THEN
        RAISE EXCEPTION 'bank_account: {BALANCE_OF_JOURNAL}' USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NULL;
END $$;

CREATE FUNCTION bank_account_fixed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT 1 FROM bank_entry WHERE account_id = OLD.id) THEN
        RAISE EXCEPTION 'bank_account: {ACCOUNT_FIXED}' USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END $$;

CREATE FUNCTION bank_currency_fixed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT 1 FROM bank_account WHERE currency_id = OLD.code) THEN
        RAISE EXCEPTION 'bank_currency: {EXPONENT_FIXED}' USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END $$;

CREATE FUNCTION bank_personkey_fixed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT 1 FROM bank_order WHERE person_id = OLD.person_id) THEN
        RAISE EXCEPTION 'bank_personkey: {KEY_FIXED}' USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN COALESCE(NEW, OLD);
END $$;
"""

POSTGRESQL_TRIGGERS = {
    **{
        f"{table}_no_update": (
            table,
            f"BEFORE UPDATE ON {table} FOR EACH ROW EXECUTE FUNCTION bank_refuse_update()",
        )
        for table in JOURNAL
    },
    **{
        f"{table}_no_delete": (
            table,
            f"BEFORE DELETE ON {table} FOR EACH ROW EXECUTE FUNCTION bank_refuse_delete()",
        )
        for table in KEPT
    },
    **{
        f"{table}_no_truncate": (
            table,
            f"BEFORE TRUNCATE ON {table} EXECUTE FUNCTION bank_refuse_delete()",
        )
        for table in KEPT
    },
    "bank_account_born": (
        "bank_account",
        "AFTER INSERT ON bank_account FOR EACH ROW EXECUTE FUNCTION bank_account_born()",
    ),
    "bank_account_balances": (
        "bank_account",
        "AFTER UPDATE ON bank_account REFERENCING NEW TABLE AS changed "
        "FOR EACH STATEMENT EXECUTE FUNCTION bank_account_balances()",
    ),
    "bank_account_fixed": (
        "bank_account",
        "BEFORE UPDATE ON bank_account FOR EACH ROW WHEN ("
        "(NEW.id, NEW.number, NEW.kind, NEW.currency_id) IS DISTINCT FROM "
        "(OLD.id, OLD.number, OLD.kind, OLD.currency_id) "
        "OR (NEW.owner_person_id, NEW.owner_organization_id) IS DISTINCT FROM "
        "(OLD.owner_person_id, OLD.owner_organization_id)) "
        "EXECUTE FUNCTION bank_account_fixed()",
    ),
    "bank_currency_fixed": (
        "bank_currency",
        "BEFORE UPDATE ON bank_currency FOR EACH ROW WHEN ("
        "(NEW.code, NEW.exponent) IS DISTINCT FROM (OLD.code, OLD.exponent)) "
        "EXECUTE FUNCTION bank_currency_fixed()",
    ),
    "bank_personkey_fixed": (
        "bank_personkey",
        "BEFORE UPDATE ON bank_personkey FOR EACH ROW WHEN ("
        "(NEW.id, NEW.person_id, NEW.identity_key, NEW.fingerprint, NEW.generation) "
        "IS DISTINCT FROM "
        "(OLD.id, OLD.person_id, OLD.identity_key, OLD.fingerprint, OLD.generation)) "
        "EXECUTE FUNCTION bank_personkey_fixed()",
    ),
    "bank_personkey_no_delete": (
        "bank_personkey",
        "BEFORE DELETE ON bank_personkey FOR EACH ROW EXECUTE FUNCTION bank_personkey_fixed()",
    ),
    "bank_personkey_no_truncate": (
        "bank_personkey",
        "BEFORE TRUNCATE ON bank_personkey EXECUTE FUNCTION bank_refuse_delete()",
    ),
}

# Half-empty pages leave room for the new version of a row on the same page, so a balance changes
# without touching an index (heap-only tuples).
POSTGRESQL_STORAGE = "ALTER TABLE bank_account SET (fillfactor = 50)"

_NEWEST_BALANCE = (
    "(SELECT balance_after FROM bank_entry WHERE account_id = NEW.id "
    "ORDER BY transfer_id DESC LIMIT 1)"
)
_PERSON_HAS_ORDERS = "WHERE EXISTS (SELECT 1 FROM bank_order WHERE person_id = OLD.person_id)"

SQLITE_TRIGGERS = {
    **{
        f"{table}_no_update": f"BEFORE UPDATE ON {table} "
        f"BEGIN SELECT RAISE(ABORT, '{table}: {NEVER_CHANGED}'); END"
        for table in JOURNAL
    },
    **{
        f"{table}_no_delete": f"BEFORE DELETE ON {table} "
        f"BEGIN SELECT RAISE(ABORT, '{table}: {NEVER_DELETED}'); END"
        for table in KEPT
    },
    # INSERT OR REPLACE deletes the old row without asking the triggers above.
    "bank_order_no_replace": "BEFORE INSERT ON bank_order WHEN EXISTS (SELECT 1 FROM bank_order "
    "WHERE id = NEW.id OR (person_id = NEW.person_id AND order_id = NEW.order_id)) "
    f"BEGIN SELECT RAISE(ABORT, 'bank_order: {NEVER_CHANGED}'); END",
    "bank_transfer_no_replace": "BEFORE INSERT ON bank_transfer WHEN EXISTS (SELECT 1 "
    "FROM bank_transfer WHERE id = NEW.id OR uuid = NEW.uuid "
    "OR (reverses_id IS NOT NULL AND reverses_id = NEW.reverses_id)) "
    f"BEGIN SELECT RAISE(ABORT, 'bank_transfer: {NEVER_CHANGED}'); END",
    "bank_entry_no_replace": "BEFORE INSERT ON bank_entry WHEN EXISTS (SELECT 1 FROM bank_entry "
    "WHERE account_id = NEW.account_id AND transfer_id = NEW.transfer_id) "
    f"BEGIN SELECT RAISE(ABORT, 'bank_entry: {NEVER_CHANGED}'); END",
    "bank_account_no_replace": "BEFORE INSERT ON bank_account WHEN EXISTS (SELECT 1 "
    "FROM bank_account WHERE id = NEW.id OR number = NEW.number) "
    f"BEGIN SELECT RAISE(ABORT, 'bank_account: {NEVER_DELETED}'); END",
    "bank_personkey_no_replace": "BEFORE INSERT ON bank_personkey WHEN EXISTS (SELECT 1 "
    "FROM bank_personkey WHERE id = NEW.id) "
    f"BEGIN SELECT RAISE(ABORT, 'bank_personkey: {KEY_FIXED}'); END",
    "bank_account_born": "AFTER INSERT ON bank_account WHEN NEW.balance <> 0 "
    f"BEGIN SELECT RAISE(ABORT, 'bank_account: {BORN_EMPTY}'); END",
    "bank_account_balances": "AFTER UPDATE OF balance ON bank_account "
    f"WHEN NEW.balance <> COALESCE({_NEWEST_BALANCE}, 0) "
    f"BEGIN SELECT RAISE(ABORT, 'bank_account: {BALANCE_OF_JOURNAL}'); END",
    "bank_account_fixed": "BEFORE UPDATE ON bank_account WHEN "
    "(NEW.id, NEW.number, NEW.kind, NEW.currency_id) IS NOT "
    "(OLD.id, OLD.number, OLD.kind, OLD.currency_id) "
    "OR (NEW.owner_person_id, NEW.owner_organization_id) IS NOT "
    "(OLD.owner_person_id, OLD.owner_organization_id) "
    f"BEGIN SELECT RAISE(ABORT, 'bank_account: {ACCOUNT_FIXED}') "
    "WHERE EXISTS (SELECT 1 FROM bank_entry WHERE account_id = OLD.id); END",
    "bank_currency_fixed": "BEFORE UPDATE ON bank_currency WHEN "
    "(NEW.code, NEW.exponent) IS NOT (OLD.code, OLD.exponent) "
    f"BEGIN SELECT RAISE(ABORT, 'bank_currency: {EXPONENT_FIXED}') "
    "WHERE EXISTS (SELECT 1 FROM bank_account WHERE currency_id = OLD.code); END",
    "bank_personkey_fixed": "BEFORE UPDATE ON bank_personkey WHEN "
    "(NEW.id, NEW.person_id, NEW.identity_key, NEW.fingerprint, NEW.generation) IS NOT "
    "(OLD.id, OLD.person_id, OLD.identity_key, OLD.fingerprint, OLD.generation) "
    f"BEGIN SELECT RAISE(ABORT, 'bank_personkey: {KEY_FIXED}') {_PERSON_HAS_ORDERS}; END",
    "bank_personkey_no_delete": "BEFORE DELETE ON bank_personkey "
    f"BEGIN SELECT RAISE(ABORT, 'bank_personkey: {KEY_FIXED}') {_PERSON_HAS_ORDERS}; END",
}

FUNCTIONS = (
    "bank_refuse_update",
    "bank_refuse_delete",
    "bank_account_born",
    "bank_account_balances",
    "bank_account_fixed",
    "bank_currency_fixed",
    "bank_personkey_fixed",
)


def create_guards(apps: StateApps, editor: BaseDatabaseSchemaEditor) -> None:
    """Create the triggers of this database."""
    if editor.connection.vendor == "postgresql":
        editor.execute(POSTGRESQL_STORAGE)
        # Without parameters: the percent signs belong to the messages, not to placeholders.
        editor.execute(POSTGRESQL_FUNCTIONS, params=None)
        for name, (table, definition) in POSTGRESQL_TRIGGERS.items():
            editor.execute(f"CREATE TRIGGER {name} {definition}")
            # ALWAYS: session_replication_role = replica would silence the others.
            editor.execute(f"ALTER TABLE {table} ENABLE ALWAYS TRIGGER {name}")
    else:
        for name, definition in SQLITE_TRIGGERS.items():
            editor.execute(f"CREATE TRIGGER {name} {definition}")


def drop_guards(apps: StateApps, editor: BaseDatabaseSchemaEditor) -> None:
    """Drop them again."""
    if editor.connection.vendor == "postgresql":
        for name, (table, _) in POSTGRESQL_TRIGGERS.items():
            editor.execute(f"DROP TRIGGER {name} ON {table}")
        for function in FUNCTIONS:
            editor.execute(f"DROP FUNCTION {function}()")
        editor.execute("ALTER TABLE bank_account RESET (fillfactor)")
    else:
        for name in SQLITE_TRIGGERS:
            editor.execute(f"DROP TRIGGER {name}")


class Migration(migrations.Migration):
    """Append-only by triggers."""

    dependencies = [("bank", "0002_orders_and_ledger")]

    operations = [migrations.RunPython(create_guards, drop_guards, elidable=False)]
