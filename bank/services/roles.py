"""Roles: named sets of permissions of an organization."""

from __future__ import annotations

from collections.abc import Iterable

from bank.audit import Actor, recorded
from bank.errors import ChangeFault, ChangeRefusedError
from bank.models import Organization, Permission, Role, RolePermission
from bank.services import saving

__all__ = ["check_permissions", "create_role", "delete_role", "set_role_permissions"]


def create_role(
    actor: Actor, organization: Organization, name: str, permissions: Iterable[str]
) -> Role:
    """Add a role with its permissions.

    :raises ChangeRefusedError: ``bad_value``, ``already_exists``, or ``not_allowed`` as in
        :func:`check_permissions`.
    """
    wanted = check_permissions(organization, permissions)
    role = Role(organization=organization, name=name)
    with recorded(actor, role):
        with saving.constraints_named(role):
            saving.validate(role)
            role.save(force_insert=True)
        _write_permissions(role, wanted)
    return role


def set_role_permissions(actor: Actor, role: Role, permissions: Iterable[str]) -> None:
    """Let a role give exactly these permissions, from the next order on.

    :raises ChangeRefusedError: as in :func:`check_permissions`.
    """
    wanted = check_permissions(role.organization, permissions)
    with recorded(actor, role):
        _write_permissions(role, wanted)


def delete_role(actor: Actor, role: Role) -> None:
    """Delete a role; whoever had permissions by it alone loses them with the next order."""
    with recorded(actor, role):
        role.delete()


def check_permissions(organization: Organization, permissions: Iterable[str]) -> set[str]:
    """Return these permissions as a set, if people of this organization may have them.

    :raises ChangeRefusedError: ``bad_value`` for a permission that doesn't exist, ``not_allowed``
        for ``deposit`` elsewhere than at the bank: it would look as if it gave something.
    """
    wanted = set(permissions)
    for permission in sorted(wanted - set(Permission.values)):
        raise ChangeRefusedError(ChangeFault.BAD_VALUE, f"There is no permission {permission!r}.")
    if Permission.DEPOSIT.value in wanted and not organization.is_bank:
        raise ChangeRefusedError(
            ChangeFault.NOT_ALLOWED,
            f"Only employees of the bank may deposit; {organization} is not the bank.",
        )
    return wanted


def _write_permissions(role: Role, wanted: set[str]) -> None:
    role.permissions.exclude(permission__in=wanted).delete()
    present = set(role.permissions.values_list("permission", flat=True))
    RolePermission.objects.bulk_create(
        RolePermission(role=role, permission=permission) for permission in sorted(wanted - present)
    )
