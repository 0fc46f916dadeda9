"""The operator's view of the relay: who is known and who is here; never a message.

Of the mailbox only counts are shown: not the bodies, which nobody but the recipient could open, and
not who wrote to whom either.
"""

from __future__ import annotations

import re
from typing import Any, ClassVar

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.db.models import Count, IntegerField, OuterRef, QuerySet, Subquery, Sum
from django.db.models.functions import Coalesce
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse

from protocol.keys import format_fingerprint
from relay import revocation
from relay.models import Client, Connection, Mail, Worker

__all__ = ["ClientAdmin", "ConnectionAdmin", "WorkerAdmin"]


class ClientForm(forms.ModelForm):
    """Adding an id that the next key may take, and editing what an operator decides."""

    class Meta:
        model = Client
        fields = ["client_id", "status", "may_be_service"]

    def clean_client_id(self) -> str:
        """Refuse an id that differs from a known one in case alone."""
        client_id: str = self.cleaned_data["client_id"]
        if Client.objects.filter(id_key=client_id.lower()).exclude(pk=self.instance.pk).exists():
            raise forms.ValidationError("This id is known already.")
        return client_id


def _per_client(model: Any, field: str, value: Any) -> Coalesce:
    """Return a count or sum over the rows of a client, 0 where there is none."""
    rows = model.objects.filter(**{field: OuterRef("id_key")}).order_by().values(field)
    total = rows.annotate(total=value).values("total")
    return Coalesce(Subquery(total, output_field=IntegerField()), 0)


@admin.register(Client)
class ClientAdmin(admin.ModelAdmin):
    """Who is known to the relay, under which key."""

    form = ClientForm
    search_help_text = "Id, name, or at least four digits of a fingerprint."
    list_display = (
        "client_id",
        "name",
        "status",
        "may_be_service",
        "fingerprint_groups",
        "connections",
        "messages_waiting",
        "bytes_waiting",
        "last_seen",
    )
    list_filter = ("status", "may_be_service", "last_seen")
    search_fields = ("client_id", "first_name", "last_name")
    actions = ("block", "unblock", "release")
    fields = (
        "client_id",
        "status",
        "may_be_service",
        "name",
        "fingerprint_groups",
        "pinned",
        "generation",
        "connections",
        "messages_waiting",
        "bytes_waiting",
        "first_seen",
        "last_seen",
    )
    readonly_fields = (
        "name",
        "fingerprint_groups",
        "pinned",
        "generation",
        "connections",
        "messages_waiting",
        "bytes_waiting",
        "first_seen",
        "last_seen",
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[Client]:
        """Count for each client what waits and how often it is connected."""
        return (
            super()
            .get_queryset(request)
            .annotate(
                connection_count=_per_client(Connection, "client_key", Count("pk")),
                mail_count=_per_client(Mail, "recipient_key", Count("pk")),
                mail_size=_per_client(Mail, "recipient_key", Sum("size")),
            )
        )

    def get_readonly_fields(self, request: HttpRequest, obj: Client | None = None) -> Any:
        """An id is chosen once."""
        return (*self.readonly_fields, *(("client_id",) if obj is not None else ()))

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Client], search_term: str
    ) -> tuple[QuerySet[Client], bool]:
        """Find a part of a fingerprint as well, also as it is shown to people, in groups."""
        found, duplicates = super().get_search_results(request, queryset, search_term)
        digits = re.sub(r"[\s:-]", "", search_term).lower()
        if re.fullmatch(r"[0-9a-f]{4,32}", digits):
            found = found | queryset.filter(fingerprint__contains=digits)
        return found, duplicates

    def save_model(self, request: HttpRequest, obj: Client, form: Any, change: bool) -> None:  # noqa: FBT001 - Django's signature
        """Let a block take effect at once."""
        super().save_model(request, obj, form, change)
        if obj.status == Client.Status.BLOCKED:
            revocation.block([obj])

    def has_delete_permission(self, request: HttpRequest, obj: Client | None = None) -> bool:
        """An id is blocked or released; that it was known is not forgotten."""
        return False

    @admin.display(description="name")
    def name(self, client: Client) -> str:
        """Return the name as people see it."""
        return f"{client.last_name}, {client.first_name}" if client.fingerprint else ""

    @admin.display(description="fingerprint")
    def fingerprint_groups(self, client: Client) -> str:
        """Return the fingerprint in groups, to be compared by eye."""
        if not client.fingerprint:
            return "no key yet: the next one to register takes the id"
        return format_fingerprint(bytes.fromhex(client.fingerprint))

    @admin.display(boolean=True, description="bound by a pinned fingerprint")
    def pinned(self, client: Client) -> bool:
        """Return whether the settings named the key before it came."""
        return bool(client.pin)

    @admin.display(ordering="connection_count")
    def connections(self, client: Any) -> int:
        """Return how many connections it has."""
        return getattr(client, "connection_count", 0)

    @admin.display(ordering="mail_count")
    def messages_waiting(self, client: Any) -> int:
        """Return how many messages wait in its mailbox."""
        return getattr(client, "mail_count", 0)

    @admin.display(ordering="mail_size")
    def bytes_waiting(self, client: Any) -> int:
        """Return how much waits in its mailbox."""
        return getattr(client, "mail_size", 0)

    @admin.action(description="Block the selected clients", permissions=["change"])
    def block(self, request: HttpRequest, queryset: QuerySet[Client]) -> None:
        """Keep clients out and end their connections."""
        clients = list(queryset)
        revocation.block(clients)
        self._note(request, clients, "blocked")

    @admin.action(description="Unblock the selected clients", permissions=["change"])
    def unblock(self, request: HttpRequest, queryset: QuerySet[Client]) -> None:
        """Let clients in again."""
        clients = list(queryset)
        revocation.unblock(clients)
        self._note(request, clients, "unblocked")

    @admin.action(description="Release the selected ids for another key", permissions=["change"])
    def release(self, request: HttpRequest, queryset: QuerySet[Client]) -> HttpResponse | None:
        """Take the keys off ids, after the operator has confirmed it."""
        clients = list(queryset)
        if "confirmed" not in request.POST:
            context = {
                **self.admin_site.each_context(request),
                "title": "Release these ids?",
                "clients": clients,
                "opts": self.opts,
                "action_checkbox_name": ACTION_CHECKBOX_NAME,
            }
            return TemplateResponse(request, "admin/relay/release.html", context)
        for client in clients:
            revocation.release(client)
        self._note(request, clients, "released")
        return None

    def _note(self, request: HttpRequest, clients: list[Client], what: str) -> None:
        for client in clients:
            self.log_change(request, client, what)
        ids = ", ".join(client.client_id for client in clients)
        self.message_user(request, f"{what}: {ids}", messages.SUCCESS)


class ReadOnlyAdmin(admin.ModelAdmin):
    """Shown, never changed."""

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Nobody adds."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Nobody changes."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Nobody deletes."""
        return False


@admin.register(Connection)
class ConnectionAdmin(ReadOnlyAdmin):
    """Who is connected, as far as the database knows."""

    list_display = ("client_id", "role", "worker", "connected_at")
    list_filter: ClassVar[Any] = ("role",)
    list_select_related = ("worker",)
    search_fields = ("client_id",)
    ordering = ("client_key", "connected_at")


@admin.register(Worker)
class WorkerAdmin(ReadOnlyAdmin):
    """The relay's processes."""

    list_display = ("name", "started_at", "connected")
    fields = ("name", "started_at", "connected")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Worker]:
        """Count the connections of each process."""
        return super().get_queryset(request).annotate(connection_count=Count("connections"))

    @admin.display(description="connections")
    def connected(self, worker: Any) -> int:
        """Return how many connections it has."""
        return getattr(worker, "connection_count", 0)
