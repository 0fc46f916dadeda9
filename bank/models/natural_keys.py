"""Natural keys in fixtures: which rows must be loaded before a row can be found by its key."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

NaturalKey = TypeVar("NaturalKey", bound=Callable[..., tuple[Any, ...]])


def loaded_after(*models: str) -> Callable[[NaturalKey], NaturalKey]:
    """Mark a ``natural_key`` method with the models (``"app.model"``) that it refers to.

    ``dumpdata`` and ``loaddata`` read the mark, so that fixtures come out in an order in which
    they can be loaded.
    """

    def mark(method: NaturalKey) -> NaturalKey:
        setattr(method, "dependencies", list(models))  # noqa: B010 - a function has no such attribute
        return method

    return mark
