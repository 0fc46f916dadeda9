"""Enrolled keys: whose signature the bank accepts for whom, and until when."""

from __future__ import annotations

from typing import Any

import msgspec
from django.db import transaction
from django.utils import timezone

from bank.audit import Actor, recorded
from bank.errors import ChangeFault, ChangeRefusedError
from bank.models import Person, PersonKey
from bank.services import saving
from bank.services.persons import check_not_the_bank
from protocol.bundles import Bundle, SignedBundle, check_succession, open_bundle
from protocol.errors import Code, RelayError
from protocol.keys import format_fingerprint

__all__ = ["enrol_key", "enrolled_bundle", "key_in_force", "revoke_key", "rotate_key"]


def key_in_force(person: Person) -> PersonKey | None:
    """Return the key whose signature counts for this person, or ``None``."""
    return PersonKey.objects.filter(person=person, revoked_at__isnull=True).first()


def enrolled_bundle(key: PersonKey) -> Bundle:
    """Return the bundle of an enrolled key, with its signature checked once more.

    :raises protocol.errors.RelayError: if the stored bundle was altered.
    """
    return open_bundle(msgspec.convert(key.bundle, SignedBundle))


def enrol_key(actor: Actor, person: Person, signed: SignedBundle) -> PersonKey:
    """Enrol a key for a person who has none in force; whoever calls vouches for the fingerprint.

    The bundle that is in force already may come again: it is returned and nothing changes.

    :raises ChangeRefusedError: ``bad_value`` for a bundle that is broken, weak, expired or
        somebody else's; ``already_exists`` if another key is in force; ``not_allowed`` for a key
        that was revoked before.
    """
    bundle = _check_bundle(person, signed)
    with transaction.atomic():
        current = key_in_force(person)
        if current is not None and current.bundle == _stored_form(signed):
            return current
        if current is not None:
            raise ChangeRefusedError(
                ChangeFault.ALREADY_EXISTS,
                f"{person} has another key in force, "
                f"{format_fingerprint(bytes.fromhex(current.fingerprint))}.",
            )
        _refuse_revoked(person, bundle)
        return _insert(actor, person, bundle)


def rotate_key(
    actor: Actor, person: Person, signed: SignedBundle, *, confirmed: bool = False
) -> PersonKey:
    """Put a new bundle in the place of the one in force.

    The generation must rise. Where the identity changes, the old identity must have signed the
    new one, or the operator must have confirmed the new fingerprint with the person.

    :param confirmed: the operator vouches for a new identity that the old one did not sign.
    :raises ChangeRefusedError: ``needs_confirmation`` for such an identity, ``wrong_state`` if no
        key is in force, else as :func:`enrol_key`.
    """
    bundle = _check_bundle(person, signed)
    with transaction.atomic():
        current = key_in_force(person)
        if current is None:
            raise ChangeRefusedError(ChangeFault.WRONG_STATE, f"{person} has no key in force.")
        if current.bundle == _stored_form(signed):
            return current
        same_identity = bytes(current.identity_key) == bundle.identity_key
        if same_identity or not confirmed:
            _check_succession(enrolled_bundle(current), bundle)
        if not same_identity:
            _refuse_revoked(person, bundle)
        _end(actor, current, f"replaced by generation {bundle.generation}")
        return _insert(actor, person, bundle)


def revoke_key(actor: Actor, person: Person, reason: str) -> PersonKey:
    """Put the key in force out of force: what isn't booked when this returns never will be.

    A revoked key can never be enrolled again.

    :param reason: for the operators; 1 to 200 characters.
    :raises ChangeRefusedError: ``wrong_state`` if no key is in force, ``bad_value`` without a
        reason, ``not_allowed`` for the bank's own key: :func:`rotate_key` gives it another one.
    """
    check_not_the_bank(person)
    if not reason.strip():
        raise ChangeRefusedError(ChangeFault.BAD_VALUE, "A revocation needs a reason.")
    with transaction.atomic():
        current = key_in_force(person)
        if current is None:
            raise ChangeRefusedError(ChangeFault.WRONG_STATE, f"{person} has no key in force.")
        _end(actor, current, reason)
        return current


def _check_bundle(person: Person, signed: SignedBundle) -> Bundle:
    """Return the bundle if it is sound, in its time, and this person's."""
    try:
        bundle = open_bundle(signed, int(timezone.now().timestamp() * 1000))
    except RelayError as error:
        raise ChangeRefusedError(ChangeFault.BAD_VALUE, f"Bad key bundle: {error}.") from error
    if bundle.id != person.client_id:
        raise ChangeRefusedError(
            ChangeFault.BAD_VALUE, f"The key bundle is of {bundle.id}, not of {person.client_id}."
        )
    if bundle.name != person.full_name:
        raise ChangeRefusedError(
            ChangeFault.BAD_VALUE,
            f'The key bundle says "{bundle.name}", the bank knows "{person.full_name}".',
        )
    return bundle


def _check_succession(old: Bundle, new: Bundle) -> None:
    try:
        check_succession(old, new)
    except RelayError as error:
        if error.code is Code.ID_TAKEN:
            raise ChangeRefusedError(
                ChangeFault.NEEDS_CONFIRMATION,
                f"The new identity {format_fingerprint(new.fingerprint)} is not signed by the "
                f"old one, {format_fingerprint(old.fingerprint)}; "
                "compare it with the person, then confirm.",
            ) from error
        raise ChangeRefusedError(ChangeFault.BAD_VALUE, f"Bad key bundle: {error}.") from error


def _refuse_revoked(person: Person, bundle: Bundle) -> None:
    """Refuse an identity that this person had before: its secret may be in other hands."""
    if PersonKey.objects.filter(person=person, fingerprint=bundle.fingerprint.hex()).exists():
        raise ChangeRefusedError(
            ChangeFault.NOT_ALLOWED,
            f"The key {format_fingerprint(bundle.fingerprint)} of {person} was revoked; "
            "a revoked key can't come back.",
        )


def _end(actor: Actor, key: PersonKey, reason: str) -> None:
    longest = PersonKey._meta.get_field("revocation_reason").max_length
    if longest is not None and len(reason) > longest:
        raise ChangeRefusedError(
            ChangeFault.BAD_VALUE, f"A reason has at most {longest} characters."
        )
    with recorded(actor, key, reason):
        ended = PersonKey.objects.filter(pk=key.pk, revoked_at__isnull=True).update(
            revoked_at=timezone.now(), revocation_reason=reason
        )
        if not ended:
            raise ChangeRefusedError(ChangeFault.WRONG_STATE, f"{key} was revoked meanwhile.")
        key.refresh_from_db()


def _insert(actor: Actor, person: Person, bundle: Bundle) -> PersonKey:
    key = PersonKey(
        person=person,
        identity_key=bundle.identity_key,
        fingerprint=bundle.fingerprint.hex(),
        bundle=_stored_form(bundle.signed),
        generation=bundle.generation,
    )
    saving.add(actor, key)
    return key


def _stored_form(signed: SignedBundle) -> dict[str, Any]:
    """Return the bundle as the row holds it: its three texts, exactly as they travelled."""
    return dict(msgspec.to_builtins(signed))
