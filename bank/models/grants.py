"""What employees may do on the accounts of their organization, directly or by roles."""

from __future__ import annotations

from typing import ClassVar

from django.core.validators import MinValueValidator
from django.db import models
from django.db.models import Q

from bank.models.natural_keys import loaded_after
from bank.models.parties import Organization, Person


class Permission(models.TextChoices):
    """What may be done to an account; the only permissions there are."""

    VIEW = "view", "View"
    TRANSFER = "transfer", "Transfer"
    WITHDRAW = "withdraw", "Withdraw"
    DEPOSIT = "deposit", "Deposit (only employees of the bank)"


class RoleManager(models.Manager["Role"]):
    """Finds roles by the code of their organization and their name."""

    def get_by_natural_key(self, organization_code: str, name: str) -> Role:
        """Return that role, or raise ``Role.DoesNotExist``."""
        return self.get(organization__code=organization_code, name=name)


class Role(models.Model):
    """A named set of permissions within one organization."""

    organization = models.ForeignKey(Organization, on_delete=models.PROTECT, related_name="roles")
    name = models.CharField(max_length=100)

    objects = RoleManager()

    class Meta:
        ordering: ClassVar[list[str]] = ["organization", "name"]
        verbose_name = "role"
        verbose_name_plural = "roles"
        constraints: ClassVar[list[models.BaseConstraint]] = [
            models.UniqueConstraint(
                fields=["organization", "name"],
                name="bank_role_name_once",
                violation_error_message="The organization already has a role of this name.",
            ),
            models.CheckConstraint(
                condition=~Q(name=""),
                name="bank_role_name_given",
                violation_error_message="A role has a name.",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.name} at {self.organization.name}"

    @loaded_after("bank.organization")
    def natural_key(self) -> tuple[str, str]:
        """Return ``(organization code, name)``."""
        return (self.organization.code, self.name)


class RolePermissionManager(models.Manager["RolePermission"]):
    """Finds the permissions of roles."""

    def get_by_natural_key(
        self, organization_code: str, role_name: str, permission: str
    ) -> RolePermission:
        """Return that permission of a role, or raise ``RolePermission.DoesNotExist``."""
        return self.get(
            role__organization__code=organization_code,
            role__name=role_name,
            permission=permission,
        )


class RolePermission(models.Model):
    """One permission that a role gives."""

    role = models.ForeignKey(Role, on_delete=models.CASCADE, related_name="permissions")
    permission = models.CharField(max_length=16, choices=Permission.choices)

    objects = RolePermissionManager()

    class Meta:
        ordering: ClassVar[list[str]] = ["role", "permission"]
        verbose_name = "permission of a role"
        verbose_name_plural = "permissions of roles"
        constraints: ClassVar[list[models.BaseConstraint]] = [
            models.UniqueConstraint(
                fields=["role", "permission"],
                name="bank_rolepermission_once",
                violation_error_message="The role already gives this permission.",
            ),
            models.CheckConstraint(
                condition=Q(permission__in=Permission.values),
                name="bank_rolepermission_known",
                violation_error_message="There is no such permission.",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.role}: {self.permission}"

    @loaded_after("bank.role")
    def natural_key(self) -> tuple[str, str, str]:
        """Return ``(organization code, role name, permission)``."""
        return (*self.role.natural_key(), self.permission)


class EmployeeStatus(models.TextChoices):
    """Whether the permissions of an employee are in force."""

    ACTIVE = "active", "Active"
    SUSPENDED = "suspended", "Suspended"


class EmployeeManager(models.Manager["Employee"]):
    """Finds employees by organization and person."""

    def get_by_natural_key(self, organization_code: str, client_id: str) -> Employee:
        """Return that employee, or raise ``Employee.DoesNotExist``."""
        return self.get(organization__code=organization_code, person__client_id=client_id)


class Employee(models.Model):
    """A person who acts for an organization."""

    organization = models.ForeignKey(
        Organization, on_delete=models.PROTECT, related_name="employees"
    )
    person = models.ForeignKey(Person, on_delete=models.PROTECT, related_name="employments")
    roles = models.ManyToManyField(Role, blank=True, related_name="employees")
    status = models.CharField(
        max_length=16, choices=EmployeeStatus.choices, default=EmployeeStatus.ACTIVE
    )
    order_limit = models.BigIntegerField(
        null=True,
        blank=True,
        validators=[MinValueValidator(0)],
        help_text="The largest amount of one order, in minor units of the account's currency; "
        "empty for no limit.",
    )

    objects = EmployeeManager()

    class Meta:
        ordering: ClassVar[list[str]] = ["organization", "person"]
        verbose_name = "employee"
        verbose_name_plural = "employees"
        constraints: ClassVar[list[models.BaseConstraint]] = [
            models.UniqueConstraint(
                fields=["organization", "person"],
                name="bank_employee_once",
                violation_error_message="This person is already an employee of the organization.",
            ),
            models.CheckConstraint(
                condition=Q(status__in=EmployeeStatus.values),
                name="bank_employee_status_known",
                violation_error_message="An employee is either active or suspended.",
            ),
            models.CheckConstraint(
                condition=Q(order_limit__isnull=True) | Q(order_limit__gte=0),
                name="bank_employee_order_limit_not_negative",
                violation_error_message="The limit of an order must not be negative.",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.person} at {self.organization.name}"

    @loaded_after("bank.organization", "bank.person", "bank.role")
    def natural_key(self) -> tuple[str, str]:
        """Return ``(organization code, client id)``."""
        return (self.organization.code, self.person.client_id)


class EmployeePermissionManager(models.Manager["EmployeePermission"]):
    """Finds the direct permissions of employees."""

    def get_by_natural_key(
        self, organization_code: str, client_id: str, permission: str
    ) -> EmployeePermission:
        """Return that permission, or raise ``EmployeePermission.DoesNotExist``."""
        return self.get(
            employee__organization__code=organization_code,
            employee__person__client_id=client_id,
            permission=permission,
        )


class EmployeePermission(models.Model):
    """One permission that an employee has directly, without a role."""

    employee = models.ForeignKey(Employee, on_delete=models.CASCADE, related_name="permissions")
    permission = models.CharField(max_length=16, choices=Permission.choices)

    objects = EmployeePermissionManager()

    class Meta:
        ordering: ClassVar[list[str]] = ["employee", "permission"]
        verbose_name = "permission of an employee"
        verbose_name_plural = "permissions of employees"
        constraints: ClassVar[list[models.BaseConstraint]] = [
            models.UniqueConstraint(
                fields=["employee", "permission"],
                name="bank_employeepermission_once",
                violation_error_message="The employee already has this permission.",
            ),
            models.CheckConstraint(
                condition=Q(permission__in=Permission.values),
                name="bank_employeepermission_known",
                violation_error_message="There is no such permission.",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.employee}: {self.permission}"

    @loaded_after("bank.employee")
    def natural_key(self) -> tuple[str, str, str]:
        """Return ``(organization code, client id, permission)``."""
        return (*self.employee.natural_key(), self.permission)
