"""Enrolment, rotation and revocation of keys."""

from __future__ import annotations

import msgspec
import pytest
from django.utils import timezone

from bank.audit import Actor
from bank.authorization import decide
from bank.errors import ChangeFault, ChangeRefusedError
from bank.models import AuditRecord, Person, PersonKey
from bank.services import keys
from protocol.bundles import SignedBundle
from protocol.keys import IdentityKey
from tests.bank.parties import identity_of, make_account, make_person, signed_bundle
from tests.bank.unchanged import nothing_changed

pytestmark = pytest.mark.django_db

ACTOR = Actor("user:operator")


@pytest.fixture
def ada() -> Person:
    return make_person("demo-ada", with_key=False)


def bundle(
    *, generation: int = 1, version: int = 1, previous: IdentityKey | None = None
) -> SignedBundle:
    return signed_bundle("demo-ada", generation=generation, version=version, previous=previous)


def test_enrolment_keeps_the_bundle_exactly_and_its_fingerprint(ada: Person) -> None:
    signed = bundle()
    key = keys.enrol_key(ACTOR, ada, signed)
    key.refresh_from_db()
    opened = keys.enrolled_bundle(key)
    assert opened.signed == signed
    assert bytes(key.identity_key) == opened.identity_key == identity_of("demo-ada").public
    assert key.fingerprint == opened.fingerprint.hex()
    assert keys.key_in_force(ada) == key
    record = AuditRecord.objects.get()
    assert record.changes["fingerprint"] == [None, key.fingerprint]
    assert "bundle" not in record.changes


def test_the_same_bundle_again_changes_nothing(ada: Person) -> None:
    key = keys.enrol_key(ACTOR, ada, bundle())
    with nothing_changed():
        assert keys.enrol_key(ACTOR, ada, bundle()) == key
        assert keys.rotate_key(ACTOR, ada, bundle()) == key


def test_a_second_key_is_not_enrolled_over_the_one_in_force(ada: Person) -> None:
    keys.enrol_key(ACTOR, ada, bundle())
    with nothing_changed(), pytest.raises(ChangeRefusedError, match="another key") as caught:
        keys.enrol_key(ACTOR, ada, bundle(version=2, generation=2))
    assert caught.value.fault is ChangeFault.ALREADY_EXISTS


def test_a_bundle_of_somebody_else_is_refused(ada: Person) -> None:
    with nothing_changed(), pytest.raises(ChangeRefusedError, match="is of demo-ben") as caught:
        keys.enrol_key(ACTOR, ada, signed_bundle("demo-ben"))
    assert caught.value.fault is ChangeFault.BAD_VALUE


def test_a_bundle_with_another_name_is_refused(ada: Person) -> None:
    other = signed_bundle("demo-ada", first_name="Adele")
    with nothing_changed(), pytest.raises(ChangeRefusedError, match='says "Test, Adele"'):
        keys.enrol_key(ACTOR, ada, other)


def test_a_bundle_altered_after_signing_is_refused(ada: Person) -> None:
    altered = msgspec.structs.replace(bundle(), signature=bundle(generation=2).signature)
    with nothing_changed(), pytest.raises(ChangeRefusedError, match="bad_bundle"):
        keys.enrol_key(ACTOR, ada, altered)


def test_rotation_keeps_the_old_key_as_history(ada: Person) -> None:
    first = keys.enrol_key(ACTOR, ada, bundle())
    second = keys.rotate_key(ACTOR, ada, bundle(generation=2))
    first.refresh_from_db()
    assert not first.in_force
    assert first.revocation_reason == "replaced by generation 2"
    assert keys.key_in_force(ada) == second
    assert first.fingerprint == second.fingerprint


def test_a_generation_that_does_not_rise_is_refused(ada: Person) -> None:
    keys.enrol_key(ACTOR, ada, bundle(generation=5))
    for confirmed in (False, True):
        with nothing_changed(), pytest.raises(ChangeRefusedError, match="does not rise") as caught:
            keys.rotate_key(ACTOR, ada, bundle(generation=4), confirmed=confirmed)
        assert caught.value.fault is ChangeFault.BAD_VALUE


def test_a_new_identity_signed_by_the_old_one_is_accepted(ada: Person) -> None:
    keys.enrol_key(ACTOR, ada, bundle())
    successor = bundle(version=2, generation=2, previous=identity_of("demo-ada"))
    key = keys.rotate_key(ACTOR, ada, successor)
    assert bytes(key.identity_key) == identity_of("demo-ada", 2).public


@pytest.mark.parametrize("signer", ["demo-ada", "demo-eve"])
def test_a_new_identity_that_the_old_one_did_not_sign_waits_for_the_operator(
    ada: Person, signer: str
) -> None:
    keys.enrol_key(ACTOR, ada, bundle())
    previous = identity_of(signer, 3)
    successor = bundle(version=2, generation=2, previous=previous)
    with nothing_changed(), pytest.raises(ChangeRefusedError, match="not signed") as caught:
        keys.rotate_key(ACTOR, ada, successor)
    assert caught.value.fault is ChangeFault.NEEDS_CONFIRMATION
    key = keys.rotate_key(ACTOR, ada, successor, confirmed=True)
    assert bytes(key.identity_key) == identity_of("demo-ada", 2).public


def test_who_lost_everything_starts_again_at_generation_one_if_confirmed(ada: Person) -> None:
    keys.enrol_key(ACTOR, ada, bundle(generation=9))
    key = keys.rotate_key(ACTOR, ada, bundle(version=2), confirmed=True)
    assert key.generation == 1


def test_rotation_needs_a_key_in_force(ada: Person) -> None:
    with nothing_changed(), pytest.raises(ChangeRefusedError, match="no key in force") as caught:
        keys.rotate_key(ACTOR, ada, bundle())
    assert caught.value.fault is ChangeFault.WRONG_STATE


def test_a_revoked_key_counts_no_more_and_never_comes_back(ada: Person) -> None:
    account = make_account("account2", ada)
    keys.enrol_key(ACTOR, ada, bundle())
    assert decide(ada, account, "transfer")
    revoked = keys.revoke_key(ACTOR, ada, "laptop stolen")
    assert not decide(ada, account, "transfer")
    assert revoked.revocation_reason == "laptop stolen"
    assert revoked.revoked_at is not None
    assert revoked.revoked_at <= timezone.now()
    for signed in (bundle(), bundle(generation=2)):
        with nothing_changed(), pytest.raises(ChangeRefusedError, match="was revoked") as caught:
            keys.enrol_key(ACTOR, ada, signed)
        assert caught.value.fault is ChangeFault.NOT_ALLOWED
    fresh = keys.enrol_key(ACTOR, ada, bundle(version=2))
    assert decide(ada, account, "transfer")
    successor = bundle(generation=2, previous=identity_of("demo-ada", 2))
    with nothing_changed(), pytest.raises(ChangeRefusedError, match="was revoked"):
        keys.rotate_key(ACTOR, ada, successor)
    assert keys.key_in_force(ada) == fresh


def test_a_revocation_needs_a_key_and_a_reason(ada: Person) -> None:
    with nothing_changed(), pytest.raises(ChangeRefusedError, match="no key in force"):
        keys.revoke_key(ACTOR, ada, "stolen")
    keys.enrol_key(ACTOR, ada, bundle())
    for reason in ("", "  ", "x" * 201):
        with nothing_changed(), pytest.raises(ChangeRefusedError, match="reason"):
            keys.revoke_key(ACTOR, ada, reason)


def test_the_banks_own_key_is_replaced_and_never_just_revoked() -> None:
    bank = make_person("bank")
    with nothing_changed(), pytest.raises(ChangeRefusedError, match="enrol bank BUNDLE") as caught:
        keys.revoke_key(ACTOR, bank, "stolen")
    assert caught.value.fault is ChangeFault.NOT_ALLOWED
    other = signed_bundle("bank", generation=2, version=2)
    assert keys.rotate_key(ACTOR, bank, other, confirmed=True) == keys.key_in_force(bank)


def test_the_table_holds_one_key_in_force_for_each_person(ada: Person) -> None:
    keys.enrol_key(ACTOR, ada, bundle())
    assert PersonKey.objects.filter(person=ada, revoked_at__isnull=True).count() == 1
