"""Admin pages of employees and roles: who may do what, as checkboxes."""

from __future__ import annotations

from collections.abc import Sequence

from django.contrib import admin
from django.db.models import Model, QuerySet
from django.forms import ModelForm
from django.http import HttpRequest

from bank.admin.base import AuditedAdmin, actor_of
from bank.admin.forms import EmployeeForm, RoleForm, save_grants
from bank.models import Employee, Role


class _GrantsAdmin(AuditedAdmin):
    """A page whose permissions are checkboxes, saved by the service."""

    def save_related(
        self,
        request: HttpRequest,
        form: ModelForm,
        formsets: Sequence[object],
        change: bool,  # noqa: FBT001 - Django's signature
    ) -> None:
        """Save the checkboxes; there are no inlines here."""
        save_grants(actor_of(request), form)

    @admin.display(description="permissions")
    def shown_permissions(self, row: Employee | Role) -> str:
        """The permissions of this row itself, in words."""
        return ", ".join(sorted(one.permission for one in row.permissions.all())) or "-"


@admin.register(Employee)
class EmployeeAdmin(_GrantsAdmin):
    """Employees with their direct permissions and their roles."""

    form = EmployeeForm
    list_display = (
        "person",
        "organization",
        "status",
        "shown_permissions",
        "shown_roles",
        "order_limit",
    )
    list_filter = ("status", "organization", "permissions__permission", "roles")
    search_fields = (
        "person__client_id",
        "person__last_name",
        "person__first_name",
        "organization__code",
        "organization__name",
    )
    autocomplete_fields = ("organization", "person")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Employee]:
        """Employees with what the list shows of them."""
        employees = super().get_queryset(request).select_related("person", "organization")
        return employees.prefetch_related("permissions", "roles")

    def get_fields(self, request: HttpRequest, obj: Model | None = None) -> tuple[str, ...]:
        """Roles can be given once it is settled at which organization."""
        fields = ("organization", "person", "status", "order_limit", "permissions")
        return fields if obj is None else (*fields, "roles")

    def get_readonly_fields(
        self, request: HttpRequest, obj: Model | None = None
    ) -> tuple[str, ...]:
        """An employment stays with its organization and person."""
        return () if obj is None else ("organization", "person")

    @admin.display(description="roles")
    def shown_roles(self, employee: Employee) -> str:
        """The names of the roles."""
        return ", ".join(sorted(role.name for role in employee.roles.all())) or "-"


@admin.register(Role)
class RoleAdmin(_GrantsAdmin):
    """Roles with their permissions."""

    form = RoleForm
    list_display = ("name", "organization", "shown_permissions")
    list_filter = ("organization", "permissions__permission")
    search_fields = ("name", "organization__code", "organization__name")
    autocomplete_fields = ("organization",)
    fields = ("organization", "name", "permissions")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Role]:
        """Roles with what the list shows of them."""
        roles = super().get_queryset(request).select_related("organization")
        return roles.prefetch_related("permissions")

    def get_readonly_fields(
        self, request: HttpRequest, obj: Model | None = None
    ) -> tuple[str, ...]:
        """A role stays with its organization."""
        return () if obj is None else ("organization",)
