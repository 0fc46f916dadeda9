"""The trail of what people changed: who, when, what, the old value and the new one."""

from __future__ import annotations

from typing import ClassVar

from django.db import models
from django.db.models import Q
from django.utils import timezone


class AuditAction(models.TextChoices):
    """What was done to a row."""

    ADDED = "added", "Added"
    CHANGED = "changed", "Changed"
    DELETED = "deleted", "Deleted"


class AuditRecord(models.Model):
    """One change of one row outside the ledger, written in the transaction that made it.

    The actor and the row are kept as text, not as references, so that the record outlives both.
    """

    recorded_at = models.DateTimeField(default=timezone.now, db_index=True, editable=False)
    actor = models.CharField(
        max_length=200, help_text='"user:" and the name of an admin user, or "command:" and a name.'
    )
    action = models.CharField(max_length=16, choices=AuditAction.choices)
    model = models.CharField(max_length=100)
    object_key = models.CharField(max_length=200)
    label = models.CharField(max_length=400)
    changes = models.JSONField(help_text="For each field the old and the new value.")
    reason = models.CharField(max_length=200, blank=True, default="")

    class Meta:
        ordering: ClassVar[list[str]] = ["-pk"]
        verbose_name = "audit record"
        verbose_name_plural = "audit trail"
        indexes: ClassVar[list[models.Index]] = [
            models.Index(fields=["model", "object_key"], name="bank_audit_object")
        ]
        constraints: ClassVar[list[models.BaseConstraint]] = [
            models.CheckConstraint(
                condition=Q(action__in=AuditAction.values),
                name="bank_audit_action_known",
                violation_error_message="There is no such action.",
            ),
            models.CheckConstraint(
                condition=~Q(actor=""),
                name="bank_audit_actor_given",
                violation_error_message="Every change has an actor.",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.actor} {self.action} {self.model} {self.label}"
