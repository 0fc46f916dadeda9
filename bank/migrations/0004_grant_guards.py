"""Triggers for what no constraint of one row can say, on both databases.

* An employee has roles of the own organization only; so neither roles nor employees change their
  organization, and an employee stays the same person.
* The audit trail only grows.

A refusal is an integrity error, as with the guards of the ledger.
"""

# ruff: noqa: S608 - every text that is put together here is a constant of this file

from __future__ import annotations

from django.db import migrations
from django.db.backends.base.schema import BaseDatabaseSchemaEditor
from django.db.migrations.state import StateApps

FOREIGN_ROLE = "bank_employee_roles: a role belongs to the organization of the employee"
ROLE_FIXED = "bank_role: a role stays with its organization"
EMPLOYEE_FIXED = "bank_employee: an employment stays with its organization and person"
AUDIT_KEPT = "bank_auditrecord: the audit trail only grows"

_FOREIGN = (
    "(SELECT organization_id FROM bank_role WHERE id = NEW.role_id) <> "
    "(SELECT organization_id FROM bank_employee WHERE id = NEW.employee_id)"
)
_ROLE_MOVED = "NEW.organization_id <> OLD.organization_id"
_EMPLOYEE_MOVED = f"{_ROLE_MOVED} OR NEW.person_id <> OLD.person_id"

POSTGRESQL_FUNCTIONS = f"""
CREATE FUNCTION bank_employee_role_own() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF {_FOREIGN} THEN
        RAISE EXCEPTION '{FOREIGN_ROLE}' USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END $$;

CREATE FUNCTION bank_role_fixed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '{ROLE_FIXED}' USING ERRCODE = 'restrict_violation';
END $$;

CREATE FUNCTION bank_employee_fixed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '{EMPLOYEE_FIXED}' USING ERRCODE = 'restrict_violation';
END $$;

CREATE FUNCTION bank_audit_kept() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '{AUDIT_KEPT}' USING ERRCODE = 'restrict_violation';
END $$;
"""

POSTGRESQL_TRIGGERS = {
    "bank_employee_role_own": (
        "bank_employee_roles",
        "BEFORE INSERT OR UPDATE ON bank_employee_roles FOR EACH ROW "
        "EXECUTE FUNCTION bank_employee_role_own()",
    ),
    "bank_role_fixed": (
        "bank_role",
        f"BEFORE UPDATE ON bank_role FOR EACH ROW WHEN ({_ROLE_MOVED}) "
        "EXECUTE FUNCTION bank_role_fixed()",
    ),
    "bank_employee_fixed": (
        "bank_employee",
        f"BEFORE UPDATE ON bank_employee FOR EACH ROW WHEN ({_EMPLOYEE_MOVED}) "
        "EXECUTE FUNCTION bank_employee_fixed()",
    ),
    "bank_audit_kept": (
        "bank_auditrecord",
        "BEFORE UPDATE OR DELETE ON bank_auditrecord FOR EACH ROW "
        "EXECUTE FUNCTION bank_audit_kept()",
    ),
    "bank_audit_no_truncate": (
        "bank_auditrecord",
        "BEFORE TRUNCATE ON bank_auditrecord EXECUTE FUNCTION bank_audit_kept()",
    ),
}

SQLITE_TRIGGERS = {
    "bank_employee_role_own_insert": "BEFORE INSERT ON bank_employee_roles "
    f"WHEN {_FOREIGN} BEGIN SELECT RAISE(ABORT, '{FOREIGN_ROLE}'); END",
    "bank_employee_role_own_update": "BEFORE UPDATE ON bank_employee_roles "
    f"WHEN {_FOREIGN} BEGIN SELECT RAISE(ABORT, '{FOREIGN_ROLE}'); END",
    "bank_role_fixed": f"BEFORE UPDATE ON bank_role WHEN {_ROLE_MOVED} "
    f"BEGIN SELECT RAISE(ABORT, '{ROLE_FIXED}'); END",
    "bank_employee_fixed": f"BEFORE UPDATE ON bank_employee WHEN {_EMPLOYEE_MOVED} "
    f"BEGIN SELECT RAISE(ABORT, '{EMPLOYEE_FIXED}'); END",
    "bank_audit_no_update": "BEFORE UPDATE ON bank_auditrecord "
    f"BEGIN SELECT RAISE(ABORT, '{AUDIT_KEPT}'); END",
    "bank_audit_no_delete": "BEFORE DELETE ON bank_auditrecord "
    f"BEGIN SELECT RAISE(ABORT, '{AUDIT_KEPT}'); END",
    # INSERT OR REPLACE deletes the old row without asking the trigger above.
    "bank_audit_no_replace": "BEFORE INSERT ON bank_auditrecord "
    "WHEN EXISTS (SELECT 1 FROM bank_auditrecord WHERE id = NEW.id) "
    f"BEGIN SELECT RAISE(ABORT, '{AUDIT_KEPT}'); END",
}

FUNCTIONS = (
    "bank_employee_role_own",
    "bank_role_fixed",
    "bank_employee_fixed",
    "bank_audit_kept",
)


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
    """Grants within one organization; an audit trail that only grows."""

    dependencies = [("bank", "0003_ledger_guards")]

    operations = [migrations.RunPython(create_guards, drop_guards, elidable=False)]
