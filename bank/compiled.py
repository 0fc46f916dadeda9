"""Queries of the hot path: written in the ORM, compiled to SQL once, run many times.

Putting a query together takes Django several times as long as the database takes to answer it.
A query whose parameters are named lists (:class:`Slot`) compares with ``= ANY(list)`` on
PostgreSQL and with a JSON array on SQLite, so its SQL is the same text whatever the lists hold: it
is compiled once for each vendor, and both databases keep its plan, too.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import msgspec
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import Field, ForeignKey, Lookup, QuerySet
from django.db.models.sql.compiler import SQLCompiler

from bank.statements import Conversation, Cursor, conversation

__all__ = ["CompiledQuery", "Pending", "Slot", "is_plain"]

_PLAIN: Final = frozenset({"BigAutoField", "BigIntegerField", "CharField", "TextField"})


@dataclass(frozen=True, slots=True)
class Slot:
    """Stands in a query for a list that is given when it runs: ``pk__any_of=Slot("persons")``."""

    name: str


@dataclass(frozen=True, slots=True)
class _Parameter:
    """A slot in compiled SQL, with the field that its values are compared with."""

    name: str
    field: Field[Any, Any]


@Field.register_lookup
class AnyOf(Lookup):
    """Whether a column equals one of the values that will stand in a slot."""

    lookup_name = "any_of"
    prepare_rhs = False

    def as_sql(self, compiler: SQLCompiler, connection: BaseDatabaseWrapper) -> tuple[str, Any]:
        """Return the comparison; its parameter is the slot itself."""
        column, parameters = self.process_lhs(compiler, connection)
        parameter = _Parameter(self.rhs.name, self.lhs.output_field)
        if connection.vendor == "postgresql":
            return f"{column} = ANY(%s)", [*parameters, parameter]
        listed = f"{column} IN (SELECT value FROM json_each(%s))"  # noqa: S608 - Django's column
        return listed, [*parameters, parameter]


@dataclass(frozen=True, slots=True)
class _Plan:
    sql: str
    parameters: tuple[Any, ...]
    compiler: SQLCompiler
    converters: dict[int, Any]


class CompiledQuery:
    """A ``values_list`` query with slots.

    :param build: returns the query set; called once for each vendor.
    """

    def __init__(self, build: Callable[[], QuerySet[Any, tuple[Any, ...]]]) -> None:
        self._build: Final = build
        self._plans: Final[dict[str, _Plan]] = {}

    def rows(self, using: str, **slots: Collection[Any]) -> list[tuple[Any, ...]]:
        """Run the query and return its rows.

        :param slots: the values for every slot, by its name.
        """
        with conversation(using) as talk:
            return self.start(talk, **slots).rows()

    def start(self, talk: Conversation, **slots: Collection[Any]) -> Pending:
        """Start the query inside a block of :mod:`bank.statements`."""
        connection = talk.connection
        plan = self._plans.get(talk.vendor)
        if plan is None:
            plan = self._plans[talk.vendor] = _compile(self._build(), connection)
        values = [_bind(parameter, slots, connection) for parameter in plan.parameters]
        return Pending(plan, talk.start(plan.sql, values), connection)


@dataclass(frozen=True, slots=True)
class Pending:
    """A query that was started."""

    _plan: _Plan
    _cursor: Cursor
    _connection: BaseDatabaseWrapper

    def rows(self) -> list[tuple[Any, ...]]:
        """Return its rows; call it once, inside the block in which it was started."""
        found = self._cursor.fetchall()
        if not self._plan.converters:
            return found
        return [tuple(row) for row in _convert(self._plan, found, self._connection)]


@cache
def is_plain(field: Field[Any, Any]) -> bool:
    """Return whether a field's values go to every database as they are: text and integers."""
    if isinstance(field, ForeignKey):
        return is_plain(field.target_field)
    return field.get_internal_type() in _PLAIN


def _compile(queryset: QuerySet[Any, Any], connection: BaseDatabaseWrapper) -> _Plan:
    compiler = queryset.query.get_compiler(connection=connection)
    sql, parameters = compiler.as_sql()
    expressions = [selected[0] for selected in compiler.select[: compiler.col_count]]
    converters = compiler.get_converters(expressions)
    return _Plan(sql, tuple(parameters), compiler, converters)


def _bind(
    parameter: Any, slots: dict[str, Collection[Any]], connection: BaseDatabaseWrapper
) -> Any:
    if not isinstance(parameter, _Parameter):
        return parameter
    prepared = list(slots[parameter.name])
    if not is_plain(parameter.field):
        prepared = [parameter.field.get_db_prep_value(value, connection) for value in prepared]
    if connection.vendor == "postgresql":
        return prepared
    return msgspec.json.encode(prepared).decode()


def _convert(plan: _Plan, rows: list[Any], connection: BaseDatabaseWrapper) -> Any:
    """Apply Django's converters; they take the connection that is in use now."""
    for row in map(list, rows):
        for position, (functions, expression) in plan.converters.items():
            value = row[position]
            for function in functions:
                value = function(value, expression, connection)
            row[position] = value
        yield row
