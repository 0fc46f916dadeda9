"""Admin pages of persons and organizations."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db.models import Model, Prefetch, QuerySet
from django.forms import BaseInlineFormSet, ModelForm
from django.http import HttpRequest

from bank.admin.accounts import AccountInline
from bank.admin.base import AuditedAdmin, ReadOnlyInline, actor_of
from bank.admin.forms import EmployeeForm, RoleForm, save_grants
from bank.models import Employee, Organization, Person, PersonKey, Role
from bank.services.keys import revoke_key
from bank.services.persons import block_person, release_person
from protocol.keys import format_fingerprint

EMPLOYEES_INLINE_MAX = 50


class PersonKeyInline(ReadOnlyInline):
    """The history of a person's keys; enrolment is the business of the command ``enrol``."""

    model = PersonKey
    fields = ("shown_fingerprint", "generation", "enrolled_at", "revoked_at", "revocation_reason")
    readonly_fields = fields
    show_change_link = False
    verbose_name_plural = "enrolled keys (manage.py enrol adds one)"

    @admin.display(description="fingerprint")
    def shown_fingerprint(self, key: PersonKey) -> str:
        """The fingerprint in the groups in which people compare it."""
        return _in_groups(key)


class EmploymentInline(ReadOnlyInline):
    """For whom a person acts."""

    model = Employee
    fields = ("organization", "status", "order_limit")
    readonly_fields = fields


class HasKeyFilter(admin.SimpleListFilter):
    """Persons with and without a key in force."""

    title = "key in force"
    parameter_name = "key"

    def lookups(
        self, request: HttpRequest, model_admin: admin.ModelAdmin[Any]
    ) -> list[tuple[str, str]]:
        """What can be chosen."""
        return [("yes", "Yes"), ("no", "No")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Person]) -> QuerySet[Person]:
        """Keep the persons that were chosen."""
        in_force = PersonKey.objects.filter(revoked_at__isnull=True).values("person")
        if self.value() == "yes":
            return queryset.filter(pk__in=in_force)
        if self.value() == "no":
            return queryset.exclude(pk__in=in_force)
        return queryset


@admin.register(Person)
class PersonAdmin(AuditedAdmin):
    """Persons, with the history of their keys and what they own."""

    list_display = ("client_id", "last_name", "first_name", "status", "key_fingerprint")
    list_filter = ("status", HasKeyFilter, "employments__organization")
    search_fields = ("client_id", "last_name", "first_name", "keys__fingerprint")
    search_help_text = "Id, name, or groups of the fingerprint."
    fields = ("client_id", "first_name", "last_name", "status", "created_at")
    readonly_fields = ("status", "created_at")
    actions = ("block", "release", "revoke")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Person]:
        """Persons with their keys in force."""
        in_force = PersonKey.objects.filter(revoked_at__isnull=True)
        keys = Prefetch("keys", queryset=in_force, to_attr="keys_in_force")
        return super().get_queryset(request).prefetch_related(keys)

    def get_inlines(
        self, request: HttpRequest, obj: Model | None
    ) -> tuple[type[admin.TabularInline], ...]:
        """Nothing belongs yet to a person who is being added."""
        return () if obj is None else (PersonKeyInline, EmploymentInline, AccountInline)

    def get_readonly_fields(
        self, request: HttpRequest, obj: Model | None = None
    ) -> tuple[str, ...]:
        """The id stays: keys and evidence are bound to it."""
        return self.readonly_fields if obj is None else ("client_id", *self.readonly_fields)

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Person], search_term: str
    ) -> tuple[QuerySet[Person], bool]:
        """Find "Last, First" too."""
        return super().get_search_results(request, queryset, search_term.replace(",", " "))

    @admin.display(description="fingerprint of the key in force")
    def key_fingerprint(self, person: Person) -> str:
        """The fingerprint in groups, or a dash."""
        keys: list[PersonKey] = getattr(person, "keys_in_force", [])
        return _in_groups(keys[0]) if keys else "-"

    @admin.action(description="Block: accept no orders", permissions=["change"])
    def block(self, request: HttpRequest, queryset: QuerySet[Person]) -> None:
        """Block the chosen persons."""
        self.run_for_each(request, queryset, block_person, "is now blocked")

    @admin.action(description="Release: accept orders again", permissions=["change"])
    def release(self, request: HttpRequest, queryset: QuerySet[Person]) -> None:
        """Release the chosen persons."""
        self.run_for_each(request, queryset, release_person, "is now active")

    @admin.action(
        description="Revoke the key in force, for ever (needs a reason)", permissions=["change"]
    )
    def revoke(self, request: HttpRequest, queryset: QuerySet[Person]) -> None:
        """Revoke the keys of the chosen persons."""
        self.run_for_each(request, queryset, revoke_key, "has no key in force now")


class _GrantsInline(admin.TabularInline):
    """Rows of an organization whose permissions are checkboxes."""

    extra = 0
    show_change_link = True

    def get_formset(
        self, request: HttpRequest, obj: Model | None = None, **kwargs: Any
    ) -> type[BaseInlineFormSet]:
        """Tell the forms which organization they are for."""
        form = type(self.form.__name__, (self.form,), {"fixed_organization": obj})
        return super().get_formset(request, obj, form=form, **kwargs)


class EmployeeInline(_GrantsInline):
    """The employees of an organization."""

    model = Employee
    form = EmployeeForm
    fields = ("person", "status", "order_limit", "permissions", "roles")
    autocomplete_fields = ("person",)


class RoleInline(_GrantsInline):
    """The roles of an organization."""

    model = Role
    form = RoleForm
    fields = ("name", "permissions")


@admin.register(Organization)
class OrganizationAdmin(AuditedAdmin):
    """Organizations, with their roles, employees and accounts."""

    list_display = ("code", "name", "is_bank")
    list_filter = ("is_bank",)
    search_fields = ("code", "name")
    fields = ("code", "name", "is_bank")

    def get_inlines(
        self, request: HttpRequest, obj: Model | None
    ) -> tuple[type[admin.TabularInline], ...]:
        """Roles and employees can be given once the organization is there."""
        if obj is None:
            return ()
        # A page has a bounded number of fields; beyond that employees have pages of their own.
        many = Employee.objects.filter(organization=obj.pk).count() > EMPLOYEES_INLINE_MAX
        return (RoleInline, *(() if many else (EmployeeInline,)), AccountInline)

    def get_readonly_fields(
        self, request: HttpRequest, obj: Model | None = None
    ) -> tuple[str, ...]:
        """Which one is the bank is settled when it is made, and files refer to the code."""
        return () if obj is None else ("code", "is_bank")

    def save_row_grants(self, request: HttpRequest, form: ModelForm) -> None:
        """Save the checkboxes of an employee or a role."""
        save_grants(actor_of(request), form)


def _in_groups(key: PersonKey) -> str:
    return format_fingerprint(bytes.fromhex(key.fingerprint))
