"""Forms in which permissions and roles are checkboxes, and accounts are opened."""

from __future__ import annotations

from typing import Any

from django import forms
from django.core.exceptions import ValidationError

from bank.audit import Actor
from bank.errors import ChangeRefusedError
from bank.models import Account, AccountKind, Employee, Organization, Permission, Role
from bank.services.employees import set_employee_grants
from bank.services.roles import check_permissions, set_role_permissions


class _PermissionsForm(forms.ModelForm):
    """Edits the permission rows of an employee or a role as one set of checkboxes."""

    permissions = forms.MultipleChoiceField(
        choices=Permission.choices,
        required=False,
        widget=forms.CheckboxSelectMultiple,
        help_text="They count for the next order.",
    )

    # Set by a page that knows the organization before it is posted: an inline of it.
    fixed_organization: Organization | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.instance.pk is not None:
            self.initial["permissions"] = sorted(
                self.instance.permissions.values_list("permission", flat=True)
            )
        organization, boxes = self.known_organization(), self.fields["permissions"]
        if (
            isinstance(boxes, forms.MultipleChoiceField)
            and organization is not None
            and not organization.is_bank
        ):
            boxes.choices = [
                choice for choice in Permission.choices if choice[0] != Permission.DEPOSIT
            ]

    def known_organization(self) -> Organization | None:
        """Return the organization, where it is known before the form is filled in."""
        if self.instance.pk is not None:
            return self.instance.organization
        return self.fixed_organization

    def clean(self) -> dict[str, Any]:
        """Refuse permissions that people of this organization can't have."""
        cleaned = super().clean() or {}
        organization = self.known_organization() or cleaned.get("organization")
        if organization is not None and "permissions" in cleaned:
            try:
                check_permissions(organization, cleaned["permissions"])
            except ChangeRefusedError as error:
                raise ValidationError({"permissions": error.words}) from error
        return cleaned


class RoleForm(_PermissionsForm):
    """A role with its permissions as checkboxes."""

    class Meta:
        model = Role
        fields = ("organization", "name")


class EmployeeForm(_PermissionsForm):
    """An employee with direct permissions and roles as checkboxes."""

    class Meta:
        model = Employee
        fields = ("organization", "person", "status", "order_limit", "roles")
        widgets = {"roles": forms.CheckboxSelectMultiple}  # noqa: RUF012 - read by Django only

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.instance.pk is not None and "person" in self.fields:
            # An employment stays with its person; the database guards it, too.
            self.fields["person"].disabled = True
        roles = self.fields.get("roles")
        if isinstance(roles, forms.ModelMultipleChoiceField):
            roles.queryset = Role.objects.filter(organization=self.known_organization())


def save_grants(actor: Actor, form: forms.ModelForm) -> None:
    """Save the permissions and roles that were ticked in a form of an employee or a role.

    :raises ChangeRefusedError: if they are not allowed there.
    """
    row, permissions = form.instance, form.cleaned_data["permissions"]
    if isinstance(row, Role):
        set_role_permissions(actor, row, permissions)
    elif isinstance(row, Employee):
        set_employee_grants(actor, row, permissions, form.cleaned_data.get("roles", ()))


class AccountForm(forms.ModelForm):
    """An account; its balance is no field of any form."""

    class Meta:
        model = Account
        fields = (
            "number",
            "owner_person",
            "owner_organization",
            "kind",
            "currency",
            "credit_limit",
            "order_limit",
        )

    def clean(self) -> dict[str, Any]:
        """Refuse cash and issuance accounts of anybody but the bank."""
        cleaned = super().clean() or {}
        kind = cleaned.get("kind", self.instance.kind)
        if kind != AccountKind.CUSTOMER:
            owner = cleaned.get("owner_organization", self.instance.owner_organization)
            if owner is None or not owner.is_bank:
                raise ValidationError(
                    {"kind": "Only the bank's organization has cash and issuance accounts."}
                )
        if "kind" in cleaned:
            # Not a field to be chosen: the bank's own accounts are without a limit, others never.
            self.instance.unlimited = kind != AccountKind.CUSTOMER
        return cleaned
