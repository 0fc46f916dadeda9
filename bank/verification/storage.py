"""Whether every column holds values of its own kind, so that the rows can be read at all.

SQLite takes a value of any kind for any column, and PostgreSQL has times that no calendar of
Python has. Reading such a value would end the verification with an error that names no row.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from django.apps import apps
from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import Field, ForeignKey, Model

from bank.verification.problems import Problem

__all__ = ["check_storage"]

_TEXT: Final = "typeof({0}) = 'text' AND tellerwire_is_text(CAST({0} AS BLOB))"
_INTEGER: Final = "typeof({0}) = 'integer'"
# Without a modifier SQLite gives the thirtieth of February back as it came.
_DATE: Final = "strftime('%Y-%m-%d', {0}, '+0 days') = {0} AND substr({0}, 1, 4) <> '0000'"
_MOMENT: Final = (
    "strftime('%Y-%m-%d %H:%M:%S', substr({0}, 1, 19), '+0 days') = substr({0}, 1, 19) "
    "AND substr({0}, 1, 4) <> '0000' AND (length({0}) = 19 OR (substr({0}, 20) GLOB '.[0-9]*' "
    "AND substr({0}, 21) NOT GLOB '*[^0-9]*' AND length({0}) <= 26))"
)
_SQLITE_KINDS: Final = {
    "BigAutoField": _INTEGER,
    "BigIntegerField": _INTEGER,
    "BinaryField": "typeof({0}) = 'blob'",
    "BooleanField": f"{_INTEGER} AND {{0}} IN (0, 1)",
    "CharField": _TEXT,
    "DateField": f"{_TEXT} AND {_DATE}",
    "DateTimeField": f"{_TEXT} AND {_MOMENT}",
    "JSONField": f"{_TEXT} AND json_valid({{0}})",
    "PositiveBigIntegerField": _INTEGER,
    # As much as PostgreSQL takes: with an exponent of any size an amount could fill the memory.
    "PositiveSmallIntegerField": f"{_INTEGER} AND {{0}} BETWEEN 0 AND 32767",
    "UUIDField": f"{_TEXT} AND length({{0}}) = 32 AND {{0}} NOT GLOB '*[^0-9a-f]*'",
}
_POSTGRESQL_KINDS: Final = {
    "DateField": "{0} >= '0001-01-01' AND {0} <= '9999-12-31'",
    # A time that is shown in another zone must not leave the calendar.
    "DateTimeField": "{0} >= '0001-01-02' AND {0} < '9999-12-31'",
}
_WORDS: Final = {
    "BinaryField": "bytes",
    "BooleanField": "yes or no",
    "DateField": "a date",
    "DateTimeField": "a time",
    "JSONField": "JSON",
    "UUIDField": "a UUID",
    "CharField": "text",
}


def check_storage(using: str) -> Iterator[Problem]:
    """Name each value that is not of its column's kind; the rows can't be read then."""
    connection = connections[using]
    if connection.vendor == "sqlite":
        _add_functions(connection)
    for model in apps.get_app_config("bank").get_models(include_auto_created=True):
        yield from _check_table(model, connection)


def _check_table(model: type[Model], connection: BaseDatabaseWrapper) -> Iterator[Problem]:
    """Read a table once, for the rows in which something is not as it has to be."""
    columns = [column for column in model._meta.concrete_fields if column.column]
    table = model._meta.db_table
    conditions = [_condition(column, connection) for column in columns]
    shown = ", ".join(_shown(name, connection) for name in _key_of(model))
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT {', '.join(conditions)}, {shown} "  # noqa: S608 - names of the model
            f"FROM {_quoted(table, connection)} WHERE NOT ({' AND '.join(conditions)})"
        )
        for row in cursor:
            holds, key = row[: len(columns)], row[len(columns) :]
            name = str(key[0]) if len(key) == 1 else f"({', '.join(map(str, key))})"
            for column, is_right in zip(columns, holds, strict=True):
                if not is_right:
                    yield Problem(table, name, f"{column.column} is not {_kind_of(column)}")


def _condition(column: Field[Any, Any], connection: BaseDatabaseWrapper) -> str:
    """Return SQL that is true where a value is of its column's kind, and false elsewhere."""
    kinds = _SQLITE_KINDS if connection.vendor == "sqlite" else _POSTGRESQL_KINDS
    name = _quoted(str(column.column), connection)
    kind = kinds.get(_type_of(column), "{0} IS NOT NULL").format(name)
    if column.null:
        return f"({name} IS NULL OR COALESCE({kind}, FALSE))"
    return f"({name} IS NOT NULL AND COALESCE({kind}, FALSE))"


def _type_of(column: Field[Any, Any]) -> str:
    """Return the name of a column's kind, for a foreign key of the key it refers to."""
    target = column.target_field if isinstance(column, ForeignKey) else column
    return str(target.get_internal_type())


def _kind_of(column: Field[Any, Any]) -> str:
    return _WORDS.get(_type_of(column), "a whole number that fits")


def _key_of(model: type[Model]) -> list[str]:
    return [str(column.column) for column in model._meta.pk_fields]


def _quoted(name: str, connection: BaseDatabaseWrapper) -> str:
    return str(connection.ops.quote_name(name))


def _shown(name: str, connection: BaseDatabaseWrapper) -> str:
    """Return SQL for a part of a key that can be read whatever it holds."""
    quoted = _quoted(name, connection)
    if connection.vendor == "sqlite":
        return f"tellerwire_shown(CAST({quoted} AS BLOB))"
    return f"{quoted}::text"


def _add_functions(connection: BaseDatabaseWrapper) -> None:
    """Let SQLite look into text: its own functions take bytes for text that are none."""
    driver = connection.connection
    driver.create_function("tellerwire_is_text", 1, _is_text, deterministic=True)
    driver.create_function("tellerwire_shown", 1, _readable, deterministic=True)


def _is_text(value: bytes | None) -> bool:
    if value is None:
        return False
    try:
        return "\0" not in value.decode()
    except UnicodeDecodeError:
        return False


def _readable(value: bytes | None) -> str:
    if value is None:
        return "NULL"
    text = value.decode(errors="backslashreplace")
    return "".join(one if one.isprintable() else repr(one)[1:-1] for one in text)
