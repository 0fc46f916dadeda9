"""The relay's tables, in the database alias ``relay``: who is known, who is here, what waits.

Nothing here can be opened by the relay: bodies are sealed, bundles are public.
"""

from __future__ import annotations

from typing import Any, ClassVar

from django.core.exceptions import ValidationError
from django.db import models
from django.db.models.functions import Lower

from protocol.frames import Kind, Role, State
from protocol.identifiers import check_client_id

__all__ = ["Client", "Connection", "Mail", "StoredStatus", "Worker"]

KINDS = [(kind.value, kind.value) for kind in Kind]
ROLES = [(role.value, role.value) for role in Role]
STATES = [(state.value, state.value) for state in State]


def _client_id(text: str) -> None:
    try:
        check_client_id(text)
    except ValueError as error:
        raise ValidationError(str(error)) from error


class ClientManager(models.Manager["Client"]):
    """Finds clients by their natural key."""

    def get_by_natural_key(self, id_key: str) -> Client:
        """Return the client with this id, in lower case."""
        return self.get(id_key=id_key)


class Client(models.Model):
    """An id, and the identity key that it belongs to.

    A row without a key is known but unbound: the next key that registers the id takes it.
    """

    class Status(models.TextChoices):
        """Whether the relay lets the client in."""

        ACTIVE = "active", "active"
        BLOCKED = "blocked", "blocked"

    client_id = models.CharField("id", max_length=64, validators=[_client_id])
    id_key = models.CharField(
        max_length=64,
        unique=True,
        editable=False,
        help_text="The id in lower case: two ids never differ in case alone.",
    )
    identity_key = models.BinaryField(max_length=32, null=True, editable=False)
    fingerprint = models.CharField(max_length=32, blank=True, editable=False, db_index=True)
    pin = models.CharField(
        max_length=32,
        blank=True,
        editable=False,
        help_text="The pinned fingerprint under which the id was bound, if it was pinned.",
    )
    bundle = models.JSONField(null=True, editable=False)
    generation = models.BigIntegerField(default=0, editable=False)
    first_name = models.CharField(max_length=100, blank=True, editable=False)
    last_name = models.CharField(max_length=100, blank=True, editable=False)
    name_digest = models.CharField(
        max_length=64,
        blank=True,
        editable=False,
        db_index=True,
        help_text='SHA-256 of the key under which "Last, First" is compared.',
    )
    reversed_name_digest = models.CharField(
        max_length=64, blank=True, editable=False, db_index=True
    )
    status = models.CharField(max_length=7, choices=Status.choices, default=Status.ACTIVE)
    may_be_service = models.BooleanField(
        default=False,
        help_text="Whether it may be a service: each message goes to one of its connections only.",
    )
    first_seen = models.DateTimeField(auto_now_add=True)
    last_seen = models.DateTimeField(null=True, editable=False)

    objects: ClassVar[ClientManager] = ClientManager()

    class Meta:
        verbose_name = "client"
        ordering = ["id_key"]
        constraints = [
            models.CheckConstraint(
                condition=models.Q(id_key=Lower("client_id")), name="relay_client_id_key"
            ),
            models.CheckConstraint(
                condition=models.Q(status__in=["active", "blocked"]), name="relay_client_status"
            ),
            models.CheckConstraint(
                condition=models.Q(identity_key__isnull=True, bundle__isnull=True, fingerprint="")
                | models.Q(identity_key__isnull=False, bundle__isnull=False)
                & ~models.Q(fingerprint=""),
                name="relay_client_bound_or_not",
            ),
        ]

    def __str__(self) -> str:
        return self.client_id

    def save(self, *args: Any, **kwargs: Any) -> None:
        """Keep the id in lower case beside the id."""
        self.id_key = self.client_id.lower()
        super().save(*args, **kwargs)

    def natural_key(self) -> tuple[str]:
        """Return the id in lower case."""
        return (self.id_key,)


class Mail(models.Model):
    """A message that waits for its recipient; it is deleted once the recipient has it safely."""

    recipient_key = models.CharField(max_length=64)
    recipient = models.CharField(max_length=64, help_text="The id as the sender wrote it.")
    sender_key = models.CharField(max_length=64)
    sender = models.CharField(max_length=64)
    message_id = models.UUIDField()
    kind = models.CharField(max_length=7, choices=KINDS)
    re = models.UUIDField(null=True)
    body = models.TextField()
    size = models.PositiveIntegerField(help_text="Characters of the body.")
    accepted_at = models.BigIntegerField(help_text="Milliseconds since the epoch.")
    expires_at = models.BigIntegerField(help_text="Milliseconds since the epoch.", db_index=True)
    position = models.BigIntegerField(help_text="Its place in the order of delivery.")
    attempts = models.PositiveIntegerField(default=0)
    revision = models.BigIntegerField(
        default=0, help_text="The place of what brought the body: it may have been sent again."
    )
    claim = models.CharField(
        max_length=36, blank=True, help_text="The process that hands it to a service just now."
    )

    class Meta:
        verbose_name_plural = "mail"
        constraints = [
            models.UniqueConstraint(
                fields=["recipient_key", "sender_key", "message_id"], name="relay_mail_once"
            ),
        ]
        indexes = [models.Index(fields=["recipient_key", "position"], name="relay_mail_in_order")]

    def __str__(self) -> str:
        return f"{self.kind} {self.message_id} for {self.recipient}"


class StoredStatus(models.Model):
    """What became of a message, kept until its sender has acknowledged that it knows."""

    sender_key = models.CharField(max_length=64)
    message_id = models.UUIDField()
    recipient = models.CharField(max_length=64)
    state = models.CharField(max_length=9, choices=STATES)
    code = models.CharField(max_length=40, blank=True)
    created_at = models.BigIntegerField(help_text="Milliseconds since the epoch.", db_index=True)

    class Meta:
        verbose_name_plural = "stored statuses"
        constraints = [
            models.UniqueConstraint(fields=["sender_key", "message_id"], name="relay_status_once"),
        ]

    def __str__(self) -> str:
        return f"{self.message_id} {self.state}"


class Worker(models.Model):
    """A process of the relay; past its lease it counts as dead, and its rows are swept away."""

    name = models.CharField(max_length=36, unique=True)
    channel = models.CharField(
        max_length=200, blank=True, help_text="Where other processes reach it; empty if nowhere."
    )
    started_at = models.DateTimeField(auto_now_add=True)
    lease_until = models.BigIntegerField(help_text="Milliseconds since the epoch.", db_index=True)

    def __str__(self) -> str:
        return self.name


class Connection(models.Model):
    """A registered connection, and the process that has it."""

    connection_id = models.UUIDField(unique=True)
    client_key = models.CharField(max_length=64, db_index=True)
    client_id = models.CharField(max_length=64)
    role = models.CharField(max_length=7, choices=ROLES)
    worker = models.ForeignKey(Worker, on_delete=models.CASCADE, related_name="connections")
    connected_at = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return f"{self.client_id} at {self.worker}"
