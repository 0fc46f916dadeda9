from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.encoding import b64u
from protocol.errors import MisuseError
from protocol.keys import (
    EncryptionKey,
    IdentityKey,
    Prekey,
    Suite,
    best_common_suite,
    check_identity_key,
    fingerprint,
    format_fingerprint,
    key_id,
    parse_fingerprint,
    safety_number,
    verify,
)
from tests.protocol.cast import NOW, ada, fixed_bytes, refusal
from tests.protocol.weak_keys import WEAK_IDENTITIES
from tests.vectors.cases_keys import ED25519_SMALL_ORDER


@pytest.mark.parametrize("key", WEAK_IDENTITIES, ids=bytes.hex)
def test_a_weak_identity_key_is_refused_by_itself(key: bytes) -> None:
    assert refusal(lambda: check_identity_key(key)) == "weak_key"


def test_a_weak_identity_can_sign_whatever_it_likes() -> None:
    # Why it matters: under the neutral point one signature fits every message.
    neutral, forged = ED25519_SMALL_ORDER[0], ED25519_SMALL_ORDER[0] + bytes(32)
    assert verify(neutral, forged, b"I owe you 100")
    assert verify(neutral, forged, b"I owe you nothing")


def test_the_best_common_suite_is_the_lowest_number() -> None:
    both = list(Suite)
    assert best_common_suite(both, both) is Suite.HYBRID
    assert best_common_suite(both, [Suite.CLASSIC]) is Suite.CLASSIC
    assert best_common_suite([Suite.HYBRID], [Suite.CLASSIC]) is None


# --- Fingerprints ---------------------------------------------------------------------------------


@given(st.binary(min_size=16, max_size=16), st.sampled_from([" ", ":", "-", ""]))
def test_a_typed_fingerprint_is_understood(value: bytes, separator: str) -> None:
    shown = format_fingerprint(value)
    assert re.fullmatch(r"([0-9a-f]{4} ){7}[0-9a-f]{4}", shown)
    assert parse_fingerprint(shown.replace(" ", separator)) == value
    assert parse_fingerprint(shown.upper() + "\n") == value


@pytest.mark.parametrize("text", ["", "00", "0" * 31, "0" * 33, "g" * 32, "\uff10" * 32])
def test_what_is_no_fingerprint_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="32 hexadecimal digits"):
        parse_fingerprint(text)


def test_a_fingerprint_binds_the_id() -> None:
    assert fingerprint("ada", ada().identity.public) != fingerprint("eve", ada().identity.public)


@given(st.binary(min_size=16, max_size=16), st.binary(min_size=16, max_size=16))
def test_a_safety_number_is_the_same_for_both(one: bytes, other: bytes) -> None:
    number = safety_number(one, other)
    assert re.fullmatch(r"(\d{5} ){11}\d{5}", number)
    assert number == safety_number(other, one)


# --- Secrets --------------------------------------------------------------------------------------


def test_no_repr_shows_a_secret_or_a_body() -> None:
    prekey = Prekey(Suite.CLASSIC, fixed_bytes("prekey")(32), NOW)
    shown = repr([ada(), ada().identity, ada().prekeys, prekey, ada().bundle, ada().signed_bundle])
    secrets = [ada().identity.seed, prekey.secret, *(item.secret for item in ada().prekeys)]
    for secret in secrets:
        assert secret.hex() not in shown
        assert b64u(secret) not in shown
        assert repr(secret) not in shown
    assert ada().signed_bundle.bundle not in shown


def test_a_prekey_needs_32_bytes() -> None:
    with pytest.raises(MisuseError, match="32 bytes"):
        Prekey(Suite.HYBRID, bytes(31), NOW)


def test_a_key_id_depends_on_the_suite() -> None:
    public = ada().bundle.encryption_key(Suite.CLASSIC).public
    assert key_id(Suite.CLASSIC, public) != key_id(Suite.HYBRID, public)
    assert len(EncryptionKey(Suite.CLASSIC, key_id(Suite.CLASSIC, public), public).key_id) == 8


def test_a_signature_is_good_for_its_key_and_message_alone() -> None:
    identity = IdentityKey(fixed_bytes("identity")(32))
    signature = identity.sign(b"words")
    assert verify(identity.public, signature, b"words")
    assert not verify(identity.public, signature, b"other words")
    assert not verify(ada().identity.public, signature, b"words")
    assert not verify(identity.public, signature[:-1], b"words")
    assert not verify(identity.public[:-1], signature, b"words")
