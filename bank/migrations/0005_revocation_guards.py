"""Triggers that keep a revocation for ever, on both databases.

An order under a revoked key is refused without a record, because it can never run later. That is
true only if the key can't come back: a row whose key was revoked or replaced stays as it is, also
where its owner has given no orders, so enrolling the same identity again finds it.

A refusal is an integrity error, as with the guards of the ledger.
"""

# ruff: noqa: S608 - every text that is put together here is a constant of this file

from __future__ import annotations

from django.db import migrations
from django.db.backends.base.schema import BaseDatabaseSchemaEditor
from django.db.migrations.state import StateApps

STAYS_REVOKED = "bank_personkey: a revoked key stays revoked, and stays"

_FIXED = (
    "id",
    "person_id",
    "identity_key",
    "fingerprint",
    "bundle",
    "generation",
    "enrolled_at",
    "revoked_at",
)
_NEW = f"({', '.join(f'NEW.{column}' for column in _FIXED)})"
_OLD = f"({', '.join(f'OLD.{column}' for column in _FIXED)})"
_REVOKED = "OLD.revoked_at IS NOT NULL"

POSTGRESQL_FUNCTIONS = f"""
CREATE FUNCTION bank_personkey_stays_revoked() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '{STAYS_REVOKED}' USING ERRCODE = 'restrict_violation';
END $$;
"""

POSTGRESQL_TRIGGERS = {
    "bank_personkey_stays_revoked": (
        "bank_personkey",
        "BEFORE UPDATE ON bank_personkey FOR EACH ROW "
        f"WHEN ({_REVOKED} AND {_NEW} IS DISTINCT FROM {_OLD}) "
        "EXECUTE FUNCTION bank_personkey_stays_revoked()",
    ),
    "bank_personkey_revoked_stays": (
        "bank_personkey",
        f"BEFORE DELETE ON bank_personkey FOR EACH ROW WHEN ({_REVOKED}) "
        "EXECUTE FUNCTION bank_personkey_stays_revoked()",
    ),
}

SQLITE_TRIGGERS = {
    "bank_personkey_stays_revoked": "BEFORE UPDATE ON bank_personkey "
    f"WHEN {_REVOKED} AND {_NEW} IS NOT {_OLD} "
    f"BEGIN SELECT RAISE(ABORT, '{STAYS_REVOKED}'); END",
    "bank_personkey_revoked_stays": f"BEFORE DELETE ON bank_personkey WHEN {_REVOKED} "
    f"BEGIN SELECT RAISE(ABORT, '{STAYS_REVOKED}'); END",
    # INSERT OR REPLACE deletes the old row without asking the trigger above.
    "bank_personkey_revoked_no_replace": "BEFORE INSERT ON bank_personkey WHEN EXISTS ("
    "SELECT 1 FROM bank_personkey WHERE revoked_at IS NOT NULL AND person_id = NEW.person_id "
    "AND fingerprint = NEW.fingerprint AND generation = NEW.generation) "
    f"BEGIN SELECT RAISE(ABORT, 'bank_personkey_generation_once: {STAYS_REVOKED}'); END",
}

FUNCTIONS = ("bank_personkey_stays_revoked",)


def create_guards(apps: StateApps, editor: BaseDatabaseSchemaEditor) -> None:
    """Create the triggers of this database."""
    if editor.connection.vendor == "postgresql":
        editor.execute(POSTGRESQL_FUNCTIONS)
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
    else:
        for name in SQLITE_TRIGGERS:
            editor.execute(f"DROP TRIGGER {name}")


class Migration(migrations.Migration):
    """What was revoked stays revoked."""

    dependencies = [("bank", "0004_grant_guards")]

    operations = [migrations.RunPython(create_guards, drop_guards, elidable=False)]
