"""Whether the database still has its own rules, and whether its rows fit them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

from django.apps import apps
from django.db import connections
from django.db.models import (
    BooleanField,
    Case,
    CheckConstraint,
    Count,
    Exists,
    Model,
    OuterRef,
    QuerySet,
    UniqueConstraint,
    Value,
    When,
)

from bank.verification.problems import Problem

__all__ = ["check_structure"]

_CONSTRAINT_QUERIES: Final = {
    "postgresql": "SELECT conname FROM pg_constraint WHERE convalidated "
    "UNION SELECT indexrelid::regclass::text FROM pg_index WHERE indisunique AND indisvalid",
    "sqlite": "SELECT sql FROM sqlite_master WHERE sql IS NOT NULL",
}


def check_structure(using: str) -> Iterator[Problem]:
    """Check constraints and references of every table of the bank."""
    for model in apps.get_app_config("bank").get_models():
        yield from _check_constraints_exist(model, using)
        for constraint in model._meta.constraints:
            if isinstance(constraint, CheckConstraint):
                yield from _check_condition(model, constraint, using)
            elif isinstance(constraint, UniqueConstraint):
                yield from _check_unique(model, constraint, using)
        yield from _check_references(model, using)


def _check_constraints_exist(model: type[Model], using: str) -> Iterator[Problem]:
    present = _constraint_names(using)
    for constraint in model._meta.constraints:
        if constraint.name not in present:
            yield Problem(model._meta.db_table, "", f"the constraint {constraint.name} is missing")


def _constraint_names(using: str) -> set[str]:
    """Return the names of constraints and unique indexes, which are unique in this database."""
    connection = connections[using]
    with connection.cursor() as cursor:
        cursor.execute(_CONSTRAINT_QUERIES[connection.vendor])
        found = {text for (text,) in cursor.fetchall()}
    if connection.vendor == "postgresql":
        return found
    # SQLite keeps constraints only as the text of CREATE TABLE, in which Django quotes each name.
    return {name for text in found for name in re.findall(r'"(bank_\w+)"', text)}


def _rows(model: type[Model], using: str) -> QuerySet[Any]:
    return model._base_manager.using(using).order_by()


def _check_condition(
    model: type[Model], constraint: CheckConstraint, using: str
) -> Iterator[Problem]:
    holds = Case(
        When(constraint.condition, then=Value(value=True)),
        default=Value(value=False),
        output_field=BooleanField(),
    )
    broken = _rows(model, using).annotate(constraint_holds=holds).filter(constraint_holds=False)
    for key in broken.values_list("pk", flat=True).iterator():
        words = constraint.get_violation_error_message()
        yield Problem(model._meta.db_table, str(key), f"breaks {constraint.name}: {words}")


def _check_unique(
    model: type[Model], constraint: UniqueConstraint, using: str
) -> Iterator[Problem]:
    rows = _rows(model, using)
    if constraint.condition is not None:
        rows = rows.filter(constraint.condition)
    names = list(constraint.fields)
    for number, expression in enumerate(constraint.expressions):
        names.append(f"unique_{number}")
        rows = rows.annotate(**{names[-1]: expression})
    doubled = rows.values(*names).annotate(rows_alike=Count("*")).filter(rows_alike__gt=1)
    for row in doubled.iterator():
        values = ", ".join(f"{name} {row[name]}" for name in names)
        yield Problem(
            model._meta.db_table, "", f"{row['rows_alike']} rows break {constraint.name}: {values}"
        )


def _check_references(model: type[Model], using: str) -> Iterator[Problem]:
    for field in model._meta.concrete_fields:
        target = field.related_model
        if not field.is_relation or target is None or isinstance(target, str):
            continue
        there = _rows(target, using).filter(pk=OuterRef(field.attname))
        lost = _rows(model, using).filter(**{f"{field.name}__isnull": False})
        for key, value in lost.filter(~Exists(there)).values_list("pk", field.attname).iterator():
            yield Problem(
                model._meta.db_table,
                str(key),
                f"{field.name} leads to {target._meta.db_table} {value}, which does not exist",
            )
