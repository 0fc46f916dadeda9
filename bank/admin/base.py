"""What the bank's admin pages have in common: one that only reads, one that keeps the trail."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.helpers import ActionForm
from django.core.exceptions import ValidationError
from django.db.models import Model, QuerySet
from django.forms import BaseModelFormSet, ModelForm
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect

from bank.audit import Actor, recorded
from bank.errors import ChangeRefusedError
from bank.services import saving

REASON_CHARACTERS_MAX = 200


class ReadOnlyAdmin(admin.ModelAdmin):
    """Lists and shows rows; nobody, a superuser included, adds, changes or deletes any here."""

    actions = None

    def has_add_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        """Nobody adds rows here."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        """Nobody changes rows here."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        """Nobody deletes rows here."""
        return False


class ReadOnlyInline(admin.TabularInline):
    """Shows the rows that belong to another one, and lets nobody edit them."""

    extra = 0
    can_delete = False
    show_change_link = True

    def has_add_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        """Nobody adds rows here."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        """Nobody changes rows here."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        """Nobody deletes rows here."""
        return False


class ReasonForm(ActionForm):
    """Asks for the reason of an action beside the list of actions."""

    reason = forms.CharField(required=False, max_length=REASON_CHARACTERS_MAX, label="Reason:")


class AuditedAdmin(admin.ModelAdmin):
    """Writes every change together with its record in the audit trail.

    A change writes the fields that were edited and no others: the ledger may write other fields
    of the same row at the same time. What a service refuses is shown as a message, and nothing
    is saved.
    """

    action_form = ReasonForm

    def changelist_view(
        self, request: HttpRequest, extra_context: Mapping[str, Any] | None = None
    ) -> HttpResponse:
        """List rows, or act on some; Django takes an action with a bad reason for none at all."""
        try:
            ReasonForm.base_fields["reason"].clean(request.POST.get("reason", ""))
        except ValidationError as error:
            words = f"The reason: {' '.join(error.messages)} Nothing was changed."
            self.message_user(request, words, messages.ERROR)
            return HttpResponseRedirect(request.get_full_path())
        context = None if extra_context is None else dict(extra_context)
        return super().changelist_view(request, context)

    def changeform_view(
        self,
        request: HttpRequest,
        object_id: str | None = None,
        form_url: str = "",
        extra_context: Mapping[str, Any] | None = None,
    ) -> HttpResponse:
        """Show or save one row; a refusal undoes all of it and is shown."""
        try:
            context = None if extra_context is None else dict(extra_context)
            return super().changeform_view(request, object_id, form_url, context)
        except ChangeRefusedError as error:
            self.message_user(request, error.words, messages.ERROR)
            return HttpResponseRedirect(request.get_full_path())

    def save_model(
        self,
        request: HttpRequest,
        obj: Model,
        form: ModelForm,
        change: bool,  # noqa: FBT001 - Django's signature
    ) -> None:
        """Save the edited fields with a record."""
        save_recorded(actor_of(request), obj, form, change=change)

    def save_formset(
        self,
        request: HttpRequest,
        form: ModelForm,
        formset: BaseModelFormSet,
        change: bool,  # noqa: FBT001 - Django's signature
    ) -> None:
        """Save the rows of an inline, each with a record."""
        formset.save(commit=False)
        for row in formset.deleted_objects:
            with recorded(actor_of(request), row):
                row.delete()
        for row_form in (*formset.initial_forms, *formset.extra_forms):
            if row_form.has_changed() and row_form not in formset.deleted_forms:
                save_recorded(
                    actor_of(request),
                    row_form.instance,
                    row_form,
                    change=row_form.instance.pk is not None,
                )
                self.save_row_grants(request, row_form)

    def save_row_grants(self, request: HttpRequest, form: ModelForm) -> None:
        """Save what a form of an inline has besides the fields of the row; nothing by default."""

    def delete_model(self, request: HttpRequest, obj: Model) -> None:
        """Delete with a record."""
        with recorded(actor_of(request), obj):
            obj.delete()

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[Model]) -> None:
        """Delete one by one, each with a record."""
        for obj in queryset:
            self.delete_model(request, obj)

    def run_for_each(
        self,
        request: HttpRequest,
        queryset: QuerySet[Any],
        verb: Callable[[Actor, Any, str], object],
        done: str,
    ) -> None:
        """Run a service verb on every chosen row, and say for each what came of it.

        :param verb: takes the actor, the row and the reason that was typed.
        :param done: how to say that it was done, such as "is now frozen".
        """
        reason = request.POST.get("reason", "").strip()
        for obj in queryset:
            try:
                verb(actor_of(request), obj, reason)
            except ChangeRefusedError as error:
                self.message_user(request, error.words, messages.ERROR)
            else:
                # The admin shows messages with a capital first letter, which an id must not get.
                words = f"{obj._meta.verbose_name} {obj} {done}."
                self.message_user(request, words, messages.SUCCESS)


def actor_of(request: HttpRequest) -> Actor:
    """Return the operator who is logged in, as the audit trail names the actor."""
    if not request.user.is_authenticated:
        raise PermissionError("the admin was reached without logging in")
    return Actor.user(request.user)


def save_recorded(actor: Actor, obj: Model, form: ModelForm, *, change: bool) -> None:
    """Save the fields of a row that a form edited, with a record.

    :raises ChangeRefusedError: where a constraint of the database refuses them.
    """
    columns = {column.name for column in obj._meta.concrete_fields}
    edited = [name for name in form.changed_data if name in columns]
    with saving.constraints_named(obj), recorded(actor, obj):
        if not change:
            obj.save(force_insert=True)
        elif edited:
            obj.save(update_fields=edited)
