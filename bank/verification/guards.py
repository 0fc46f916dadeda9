"""Whether the triggers that guard the ledger are there, and are those that the migrations make.

The migrations' own texts say what has to be there, so no second copy can differ from them. SQLite
keeps the text of a trigger as it was given. PostgreSQL keeps what it understood, and writes that in
its own words: both are brought into one form.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import import_module
from typing import Final

from django.db import connections

from bank.verification.problems import Problem

__all__ = ["check_guards", "guards_of_migrations", "guards_present"]

_MIGRATIONS: Final = (
    import_module("bank.migrations.0003_ledger_guards"),
    import_module("bank.migrations.0004_grant_guards"),
    import_module("bank.migrations.0005_revocation_guards"),
)

_FUNCTIONS: Final = {
    name: body
    for migration in _MIGRATIONS
    for name, body in re.findall(
        r"CREATE FUNCTION (\w+)\(\).*?\$\$(.*?)\$\$", migration.POSTGRESQL_FUNCTIONS, re.DOTALL
    )
}

_POSTGRESQL_QUERY: Final = """
    SELECT tgname, pg_get_triggerdef(pg_trigger.oid, true), prosrc
    FROM pg_trigger JOIN pg_proc ON pg_proc.oid = tgfoid
    WHERE NOT tgisinternal AND pg_table_is_visible(tgrelid)
    -- 'O' fires in ordinary sessions only, 'D' never, 'A' always.
    AND tgenabled = 'A'
    -- With settings of its own a function could read other tables of the same names.
    AND proconfig IS NULL
"""
_SQLITE_QUERY: Final = "SELECT name, sql FROM sqlite_master WHERE type = 'trigger'"

_ROWS_DIFFER: Final = re.compile(r"\(([^()]+)\) IS DISTINCT FROM \(([^()]+)\)")
_EVENTS: Final = re.compile(r"(?<=before |.after )(\w+(?: or \w+)+)(?= on )")


def check_guards(using: str) -> Iterator[Problem]:
    """Name each trigger that is missing, switched off, or another one than it has to be."""
    present = guards_present(using)
    for name, definition in sorted(guards_of_migrations(connections[using].vendor).items()):
        if name not in present:
            yield Problem("trigger", name, "is missing or switched off")
        elif definition not in present[name]:
            yield Problem("trigger", name, "is not the one that the migrations make")


def guards_of_migrations(vendor: str) -> dict[str, str]:
    """Return what each trigger has to be, by its name, in the form of :func:`guards_present`."""
    if vendor == "postgresql":
        return {
            name: _in_one_form(f"CREATE TRIGGER {name} {definition}", _body_for(definition))
            for migration in _MIGRATIONS
            for name, (_, definition) in migration.POSTGRESQL_TRIGGERS.items()
        }
    return {
        name: f"CREATE TRIGGER {name} {definition}"
        for migration in _MIGRATIONS
        for name, definition in migration.SQLITE_TRIGGERS.items()
    }


def guards_present(using: str) -> dict[str, set[str]]:
    """Return what the triggers of a database do, by their names, which tables may share."""
    connection = connections[using]
    present: dict[str, set[str]] = {}
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute(_POSTGRESQL_QUERY)
            found = [
                (name, _in_one_form(definition, body))
                for name, definition, body in cursor.fetchall()
            ]
        else:
            cursor.execute(_SQLITE_QUERY)
            found = cursor.fetchall()
    for name, definition in found:
        present.setdefault(name, set()).add(definition)
    return present


def _body_for(definition: str) -> str:
    """Return the body of the function that a definition of the migrations runs."""
    (function,) = re.findall(r"EXECUTE FUNCTION (\w+)\(\)", definition)
    return _FUNCTIONS[function]


def _in_one_form(definition: str, body: str) -> str:
    """Return a definition as PostgreSQL writes it, without brackets, with its function's body.

    Each guard fires on all of what it looks at or on any of it, so brackets decide nothing.
    """
    text = _ROWS_DIFFER.sub(_columns_differ, definition).replace("::text", "")
    text = re.sub(r"[()\s]+", " ", text).strip().lower()
    text = _EVENTS.sub(lambda events: " or ".join(sorted(events[0].split(" or "))), text)
    if " for each " not in text:
        text = text.replace(" execute ", " for each statement execute ")
    return f"{text} {body}"


def _columns_differ(rows: re.Match[str]) -> str:
    """Return what PostgreSQL makes of a comparison of two rows."""
    pairs = zip(rows[1].split(", "), rows[2].split(", "), strict=True)
    return " OR ".join(f"{one} IS DISTINCT FROM {other}" for one, other in pairs)
