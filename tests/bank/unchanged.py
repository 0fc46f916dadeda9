"""Holds that what was refused changed nothing: every row of every table of the bank."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from django.apps import apps
from django.db import connection


def all_rows() -> dict[str, list[tuple[object, ...]]]:
    """Every row of every table of the bank, many-to-many tables too, as the database gives it.

    The statements are written here: Django would take longer over them than over all the rest.
    """
    models = apps.get_app_config("bank").get_models(include_auto_created=True)
    found = {}
    with connection.cursor() as cursor:
        for model in models:
            key = ", ".join(str(field.column) for field in model._meta.pk_fields)
            cursor.execute(f"SELECT * FROM {model._meta.db_table} ORDER BY {key}")
            found[model._meta.label] = [
                tuple(bytes(value) if isinstance(value, memoryview) else value for value in row)
                for row in cursor.fetchall()
            ]
    return found


@contextmanager
def nothing_changed() -> Iterator[None]:
    """Assert that the block leaves every row of the bank as it was."""
    before = all_rows()
    yield
    assert all_rows() == before
