"""The accounts of operators in the admin."""

from __future__ import annotations

from django.contrib.auth.admin import UserAdmin
from django.contrib.auth.models import User
from django.http import HttpRequest

__all__ = ["OperatorAdmin"]


class OperatorAdmin(UserAdmin):
    """Operators stay, and keep their names: under these stands what they did.

    The bank's audit trail has the name alone, and the admin's own history of the relay's clients
    and of operators would go with the account. Who leaves is deactivated.
    """

    def has_delete_permission(self, request: HttpRequest, obj: User | None = None) -> bool:
        """Nobody deletes an operator."""
        return False

    def get_readonly_fields(self, request: HttpRequest, obj: User | None = None) -> tuple[str, ...]:
        """Return what can't be edited: a name is chosen once."""
        fixed = ("username", "last_login", "date_joined")
        return () if obj is None else fixed
