"""Saving one row so that whatever is wrong with it becomes one sentence for the operator."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from django.core.exceptions import NON_FIELD_ERRORS, ValidationError
from django.db import IntegrityError, models, transaction

from bank.audit import Actor, recorded
from bank.errors import ChangeFault, ChangeRefusedError

__all__ = ["add", "change", "constraints_named", "validate"]


def add(actor: Actor, instance: models.Model, reason: str = "") -> None:
    """Validate and insert a new row, with its record in the audit trail.

    :raises ChangeRefusedError: ``bad_value``, or ``already_exists`` where it clashes.
    """
    with constraints_named(instance), recorded(actor, instance, reason):
        validate(instance)
        instance.save(force_insert=True)


def change(actor: Actor, instance: models.Model, reason: str = "", **values: object) -> None:
    """Set these fields of a row, and no others, with a record in the audit trail.

    Writing the named fields alone matters: the ledger may change the balance of the same row
    at the same time.

    :raises ChangeRefusedError: ``bad_value``, or ``already_exists`` where it clashes.
    """
    with constraints_named(instance), recorded(actor, instance, reason):
        for name, value in values.items():
            setattr(instance, name, value)
        validate(instance, only=set(values))
        instance.save(update_fields=list(values))


@contextmanager
def constraints_named(instance: models.Model) -> Iterator[None]:
    """Turn the database's refusal into the sentence that its constraint carries.

    This is the second line of defence: what validation overlooked, or another transaction made
    true in between.
    """
    try:
        with transaction.atomic():
            yield
    except IntegrityError as error:
        for constraint in type(instance)._meta.constraints:
            if constraint.name in str(error):
                words = str(constraint.get_violation_error_message())
                raise ChangeRefusedError(_fault_of(constraint), words) from error
        raise ChangeRefusedError(
            ChangeFault.ALREADY_EXISTS, f"{instance} clashes with what is already there."
        ) from error


def validate(instance: models.Model, only: set[str] | None = None) -> None:
    """Check a row before it is written: its fields, what must be unique, its constraints.

    :param only: the names of the fields to look at; all of them by default.
    :raises ChangeRefusedError: ``bad_value``, or ``already_exists`` where it clashes.
    """
    exclude = None
    if only is not None:
        exclude = {column.name for column in instance._meta.concrete_fields} - only
    try:
        instance.clean_fields(exclude=exclude)
        instance.clean()
    except ValidationError as error:
        raise ChangeRefusedError(ChangeFault.BAD_VALUE, _sentence(error)) from error
    try:
        instance.validate_unique(exclude=exclude)
    except ValidationError as error:
        raise ChangeRefusedError(ChangeFault.ALREADY_EXISTS, _sentence(error)) from error
    for constraint in instance._meta.constraints:
        try:
            constraint.validate(type(instance), instance)
        except ValidationError as error:
            raise ChangeRefusedError(_fault_of(constraint), _sentence(error)) from error


def _fault_of(constraint: models.BaseConstraint) -> ChangeFault:
    unique = isinstance(constraint, models.UniqueConstraint)
    return ChangeFault.ALREADY_EXISTS if unique else ChangeFault.BAD_VALUE


def _sentence(error: ValidationError) -> str:
    if not hasattr(error, "error_dict"):
        return " ".join(error.messages)
    parts = [
        message if field == NON_FIELD_ERRORS else f"{field.replace('_', ' ')}: {message}"
        for field, messages in error.message_dict.items()
        for message in messages
    ]
    return " ".join(parts)
