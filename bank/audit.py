"""The audit trail: every change outside the ledger, with who made it, old values and new ones.

A record is written in the transaction that makes the change, so there is neither a change
without a record nor a record without a change. After the commit the same is logged.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, Self

import structlog
from django.contrib.auth.models import AbstractBaseUser
from django.db import models, transaction

from bank.models import AuditAction, AuditRecord, Employee, PersonKey, Role

__all__ = ["Actor", "Values", "record", "recorded", "stored_values"]

Values = Mapping[str, Any]
"""The values of a row by field, in terms that JSON has and people read; empty for no row."""

_log = structlog.get_logger("bank.audit")

# Long or unreadable; the fingerprint and the generation say which bundle it is.
_LEFT_OUT: Final[dict[type[models.Model], set[str]]] = {PersonKey: {"bundle", "identity_key"}}
_LABEL_CHARACTERS_MAX: Final = 400


@dataclass(frozen=True, slots=True)
class Actor:
    """Who makes a change: an admin user or a command.

    :param name: "user:" or "command:" and the name.
    """

    name: str

    @classmethod
    def user(cls, user: AbstractBaseUser) -> Self:
        """Return the actor for somebody who is logged in to the admin."""
        return cls(f"user:{user.get_username()}")

    @classmethod
    def command(cls, name: str) -> Self:
        """Return the actor for a management command."""
        return cls(f"command:{name}")


def stored_values(instance: models.Model) -> Values:
    """Return what the database holds of this row now; empty where there is no such row.

    Roles and permissions of an employee count as its values, and so do permissions of a role and
    the employees who have it: when it is deleted, they lose what it gave.
    """
    if instance.pk is None:
        return {}
    model = type(instance)
    stored = model._base_manager.filter(pk=instance.pk).first()
    if stored is None:
        return {}
    left_out = _LEFT_OUT.get(model, set())
    values = {
        column.name: _readable(getattr(stored, column.name))
        for column in model._meta.concrete_fields
        if not column.primary_key and column.name not in left_out
    }
    for relation in model._meta.many_to_many:
        related = relation.value_from_object(stored)
        values[relation.name] = sorted(str(one) for one in related)
    if isinstance(stored, Employee | Role):
        values["permissions"] = sorted(stored.permissions.values_list("permission", flat=True))
    if isinstance(stored, Role):
        employees = stored.employees.select_related("person", "organization")
        values["employees"] = sorted(str(employee) for employee in employees)
    return values


def record(
    actor: Actor,
    instance: models.Model,
    key: object,
    *,
    before: Values,
    after: Values,
    reason: str = "",
) -> AuditRecord | None:
    """Write what changed between two states of one row; nothing where nothing did.

    :param key: the row's primary key (a deleted instance has lost its own).
    :param before: from :func:`stored_values`; empty where the row was added.
    :param after: the same, later; empty where the row was deleted.
    """
    changes = {
        name: [before.get(name), after.get(name)]
        for name in sorted({*before, *after})
        if before.get(name) != after.get(name)
    }
    if not changes:
        return None
    if not before:
        action = AuditAction.ADDED
    else:
        action = AuditAction.CHANGED if after else AuditAction.DELETED
    written = AuditRecord.objects.create(
        actor=actor.name,
        action=action,
        model=instance._meta.model_name or "",
        object_key=str(key),
        label=str(instance)[:_LABEL_CHARACTERS_MAX],
        changes=changes,
        reason=reason,
    )
    transaction.on_commit(
        lambda: _log.info(
            "bank.changed",
            actor=written.actor,
            action=written.action,
            model=written.model,
            label=written.label,
            fields=sorted(changes),
        )
    )
    return written


@contextmanager
def recorded(actor: Actor, instance: models.Model, reason: str = "") -> Iterator[None]:
    """Run a block that adds, changes or deletes one row, in a transaction that records it."""
    with transaction.atomic():
        key, before = instance.pk, stored_values(instance)
        yield
        # After a deletion Django has cleared the key, and there is nothing left to read.
        key = key if instance.pk is None else instance.pk
        after = stored_values(instance)
        record(actor, instance, key, before=before, after=after, reason=reason)


def _readable(value: Any) -> Any:
    """Return a field's value in terms that JSON has."""
    if isinstance(value, datetime.datetime):
        return value.isoformat()
    if isinstance(value, bytes | memoryview):
        return bytes(value).hex()
    return (
        value if value is None or isinstance(value, bool | int | str | list | dict) else str(value)
    )
