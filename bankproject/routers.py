"""Which database an application's tables live in."""

from typing import Any

from django.db.models import Model

RELAY_APP = "relay"
RELAY_ALIAS = "relay"
BANK_ALIAS = "default"


class RoleRouter:
    """Relay and bank share no table: the relay's live in `relay`, everything else in `default`."""

    def db_for_read(self, model: type[Model], **hints: Any) -> str:
        """Return the alias that holds `model`."""
        return _alias_of(model._meta.app_label)

    def db_for_write(self, model: type[Model], **hints: Any) -> str:
        """Return the alias that holds `model`."""
        return _alias_of(model._meta.app_label)

    def allow_relation(self, obj1: Model, obj2: Model, **hints: Any) -> bool:
        """Allow relations within one database only."""
        return _alias_of(obj1._meta.app_label) == _alias_of(obj2._meta.app_label)

    def allow_migrate(self, db: str, app_label: str, **hints: Any) -> bool:
        """Create tables only where they are read."""
        return db == _alias_of(app_label)


def _alias_of(app_label: str) -> str:
    return RELAY_ALIAS if app_label == RELAY_APP else BANK_ALIAS
