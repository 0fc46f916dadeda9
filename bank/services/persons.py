"""Persons: registering them with the bank, renaming, blocking and releasing them."""

from __future__ import annotations

from bank.audit import Actor
from bank.conf import bank_settings
from bank.errors import ChangeFault, ChangeRefusedError
from bank.models import Person, PersonStatus
from bank.services import saving

__all__ = [
    "block_person",
    "check_not_the_bank",
    "has_stand_in_name",
    "register_nameless",
    "register_person",
    "release_person",
    "rename_person",
]


def register_person(actor: Actor, client_id: str, first_name: str, last_name: str) -> Person:
    """Add a person, who can do nothing until a key is enrolled.

    :raises ChangeRefusedError: ``bad_value`` or ``already_exists``.
    """
    person = Person(client_id=client_id, first_name=first_name, last_name=last_name)
    saving.add(actor, person)
    return person


def register_nameless(actor: Actor, client_id: str) -> Person:
    """Add a person whose name isn't known yet: the id stands in until a key bundle tells it.

    :raises ChangeRefusedError: ``bad_value`` or ``already_exists``.
    """
    return register_person(actor, client_id, client_id, client_id)


def has_stand_in_name(person: Person) -> bool:
    """Return whether the id stands where the name has to be."""
    return person.first_name == person.last_name == person.client_id


def rename_person(actor: Actor, person: Person, first_name: str, last_name: str) -> None:
    """Change the name under which the bank knows a person.

    :raises ChangeRefusedError: ``bad_value``.
    """
    saving.change(actor, person, first_name=first_name, last_name=last_name)


def block_person(actor: Actor, person: Person, reason: str) -> None:
    """Stop acting on anything that this person signs, from the next order on.

    :raises ChangeRefusedError: ``wrong_state`` if the person is blocked already, ``not_allowed``
        for the bank's own person.
    """
    check_not_the_bank(person)
    _require(person, PersonStatus.ACTIVE)
    saving.change(actor, person, reason, status=PersonStatus.BLOCKED)


def release_person(actor: Actor, person: Person, reason: str) -> None:
    """Act again on what this person signs.

    :raises ChangeRefusedError: ``wrong_state`` if the person is not blocked.
    """
    _require(person, PersonStatus.BLOCKED)
    saving.change(actor, person, reason, status=PersonStatus.ACTIVE)


def check_not_the_bank(person: Person) -> None:
    """Refuse to stop the bank itself: nothing could be booked, and no receipt signed.

    :raises ChangeRefusedError: ``not_allowed`` for the bank's own person.
    """
    if person.client_id == bank_settings.ID:
        raise ChangeRefusedError(
            ChangeFault.NOT_ALLOWED,
            f"{person} is the bank itself, which could book nothing then. If its key was lost or "
            f"stolen, put a new one in its place: `manage.py enrol {person.client_id} BUNDLE "
            "--replace`.",
        )


def _require(person: Person, status: PersonStatus) -> None:
    person.refresh_from_db(fields=["status"])
    if person.status != status:
        raise ChangeRefusedError(
            ChangeFault.WRONG_STATE, f"{person} is {person.get_status_display().lower()} already."
        )
