"""Holds that what was refused changed nothing: every row of every table of the bank."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from django.apps import apps


def all_rows() -> dict[str, list[tuple[object, ...]]]:
    """Every row of every table of the bank, many-to-many tables too."""
    models = apps.get_app_config("bank").get_models(include_auto_created=True)
    return {
        model._meta.label: [
            tuple(bytes(value) if isinstance(value, memoryview) else value for value in row)
            for row in model._base_manager.order_by("pk").values_list()
        ]
        for model in models
    }


@contextmanager
def nothing_changed() -> Iterator[None]:
    """Assert that the block leaves every row of the bank as it was."""
    before = all_rows()
    yield
    assert all_rows() == before
