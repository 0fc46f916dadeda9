"""Employees: hiring, suspending, and what they may do."""

from __future__ import annotations

from collections.abc import Iterable

from bank.audit import Actor, recorded
from bank.errors import ChangeFault, ChangeRefusedError
from bank.models import (
    Employee,
    EmployeePermission,
    EmployeeStatus,
    Organization,
    Person,
    Role,
)
from bank.services import saving
from bank.services.roles import check_permissions

__all__ = [
    "dismiss_employee",
    "hire_employee",
    "reinstate_employee",
    "set_employee_grants",
    "set_employee_limit",
    "suspend_employee",
]


def hire_employee(
    actor: Actor,
    organization: Organization,
    person: Person,
    *,
    permissions: Iterable[str] = (),
    roles: Iterable[Role] = (),
    order_limit: int | None = None,
) -> Employee:
    """Make a person an employee, with these direct permissions and these roles.

    :param order_limit: the largest amount of one order, in minor units of the account's currency.
    :raises ChangeRefusedError: ``bad_value``, ``already_exists``, or ``not_allowed`` as in
        :func:`set_employee_grants`.
    """
    wanted = check_permissions(organization, permissions)
    given = _check_roles(organization, roles)
    employee = Employee(organization=organization, person=person, order_limit=order_limit)
    with recorded(actor, employee):
        with saving.constraints_named(employee):
            saving.validate(employee)
            employee.save(force_insert=True)
        _write_grants(employee, wanted, given)
    return employee


def set_employee_grants(
    actor: Actor, employee: Employee, permissions: Iterable[str], roles: Iterable[Role]
) -> None:
    """Give an employee exactly these direct permissions and roles, from the next order on.

    :raises ChangeRefusedError: ``bad_value`` for a permission that doesn't exist; ``not_allowed``
        for a role of another organization, or ``deposit`` elsewhere than at the bank.
    """
    wanted = check_permissions(employee.organization, permissions)
    given = _check_roles(employee.organization, roles)
    with recorded(actor, employee):
        _write_grants(employee, wanted, given)


def set_employee_limit(actor: Actor, employee: Employee, order_limit: int | None) -> None:
    """Set the largest amount of one order, in minor units; ``None`` for no limit.

    :raises ChangeRefusedError: ``bad_value`` for a negative limit.
    """
    saving.change(actor, employee, order_limit=order_limit)


def suspend_employee(actor: Actor, employee: Employee, reason: str) -> None:
    """Put every permission of this employment out of force, from the next order on."""
    saving.change(actor, employee, reason, status=EmployeeStatus.SUSPENDED)


def reinstate_employee(actor: Actor, employee: Employee, reason: str) -> None:
    """Put the permissions of this employment in force again."""
    saving.change(actor, employee, reason, status=EmployeeStatus.ACTIVE)


def dismiss_employee(actor: Actor, employee: Employee, reason: str) -> None:
    """End an employment: its permissions are gone with the next order."""
    with recorded(actor, employee, reason):
        employee.delete()


def _check_roles(organization: Organization, roles: Iterable[Role]) -> list[Role]:
    given = list(roles)
    for role in given:
        if role.organization_id != organization.pk:
            raise ChangeRefusedError(
                ChangeFault.NOT_ALLOWED,
                f"{role} is a role of another organization than {organization}.",
            )
    return given


def _write_grants(employee: Employee, wanted: set[str], roles: list[Role]) -> None:
    employee.permissions.exclude(permission__in=wanted).delete()
    present = set(employee.permissions.values_list("permission", flat=True))
    EmployeePermission.objects.bulk_create(
        EmployeePermission(employee=employee, permission=permission)
        for permission in sorted(wanted - present)
    )
    employee.roles.set(roles)
