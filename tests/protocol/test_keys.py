from __future__ import annotations

import functools
import re
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol import keys, limits
from protocol.encoding import b64u, unb64u
from protocol.errors import MisuseError
from protocol.keys import (
    EncryptionKey,
    IdentityKey,
    Prekey,
    SignedBundle,
    Suite,
    best_common_suite,
    check_identity_key,
    check_succession,
    fingerprint,
    format_fingerprint,
    key_id,
    make_bundle,
    open_bundle,
    parse_fingerprint,
    safety_number,
    verify,
)
from tests.protocol.cast import DAY, NOW, ada, bank, fixed_bytes, mallory, refusal
from tests.vectors.cases_keys import ED25519_SMALL_ORDER, X25519_SMALL_ORDER

WEAK_IDENTITIES = [
    *ED25519_SMALL_ORDER,
    (2**255 - 19 + 3).to_bytes(32, "little"),  # not canonical
    (2).to_bytes(32, "little"),  # no point
    bytes(31),
]


def _bundle_members(signed: SignedBundle) -> dict[str, Any]:
    members: dict[str, Any] = msgspec.json.decode(unb64u(signed.bundle))
    return members


def _signed_by_ada(members: dict[str, Any], previous_signature: str | None = None) -> SignedBundle:
    raw = msgspec.json.encode(members)
    signature = b64u(ada().identity.sign(b"tw1 bundle\0" + raw))
    return SignedBundle(b64u(raw), signature, previous_signature)


# --- Weak keys, wherever a public key enters ------------------------------------------------------


@pytest.mark.parametrize("key", WEAK_IDENTITIES, ids=bytes.hex)
def test_a_weak_identity_key_is_refused_by_itself(key: bytes) -> None:
    assert refusal(lambda: check_identity_key(key)) == "weak_key"


@pytest.mark.parametrize("key", WEAK_IDENTITIES, ids=bytes.hex)
def test_a_weak_identity_key_is_refused_in_a_bundle(key: bytes) -> None:
    members = _bundle_members(ada().signed_bundle) | {"identity_key": b64u(key)}
    assert refusal(lambda: open_bundle(_signed_by_ada(members))) == "weak_key"


def test_a_weak_identity_can_sign_whatever_it_likes() -> None:
    # Why it matters: under the neutral point one signature fits every message.
    neutral, forged = ED25519_SMALL_ORDER[0], ED25519_SMALL_ORDER[0] + bytes(32)
    assert verify(neutral, forged, b"I owe you 100")
    assert verify(neutral, forged, b"I owe you nothing")


@pytest.mark.parametrize("suite", list(Suite))
@pytest.mark.parametrize("weak", X25519_SMALL_ORDER, ids=bytes.hex)
def test_a_weak_encryption_key_is_refused_in_a_bundle(suite: Suite, weak: bytes) -> None:
    public = ada().bundle.encryption_key(suite).public[:-32] + weak
    key = {
        "suite": suite.value,
        "key_id": b64u(key_id(suite, public)),
        "public": b64u(public),
    }
    members = _bundle_members(ada().signed_bundle) | {"encryption_keys": [key]}
    assert refusal(lambda: open_bundle(_signed_by_ada(members))) == "weak_key"


def test_a_hybrid_key_whose_ml_kem_half_is_not_reduced_is_refused() -> None:
    public = b"\xff" * 1_184 + ada().bundle.encryption_key(Suite.HYBRID).public[1_184:]
    key = {
        "suite": 1,
        "key_id": b64u(key_id(Suite.HYBRID, public)),
        "public": b64u(public),
    }
    members = _bundle_members(ada().signed_bundle) | {"encryption_keys": [key]}
    assert refusal(lambda: open_bundle(_signed_by_ada(members))) == "weak_key"


# --- Bundles --------------------------------------------------------------------------------------


def test_a_bundle_says_what_its_maker_said() -> None:
    bundle = ada().bundle
    assert open_bundle(bundle.signed, NOW) == bundle
    assert (bundle.id, bundle.name, bundle.generation) == ("ada", "Ada, Demo", 1)
    assert bundle.suites == (Suite.HYBRID, Suite.CLASSIC)
    assert bundle.fingerprint == fingerprint("ada", ada().identity.public)


BUNDLE_FLIPS: dict[str, Any] = {
    "version": 2,
    "id": "eve",
    "first_name": "Eve",
    "last_name": "Eve",
    "generation": 2,
    "identity_key": b64u(mallory().identity.public),
    "encryption_keys": [],
    "valid_from": NOW - 1,
    "valid_to": NOW + 1,
    "previous_fingerprint": b64u(bytes(16)),
}


def test_every_member_of_a_bundle_has_a_flip() -> None:
    assert set(BUNDLE_FLIPS) == set(_bundle_members(ada().signed_bundle))


@pytest.mark.parametrize("member", BUNDLE_FLIPS)
def test_every_flipped_member_of_a_bundle_is_refused(member: str) -> None:
    members = _bundle_members(ada().signed_bundle)
    assert members[member] != BUNDLE_FLIPS[member]
    raw = msgspec.json.encode(members | {member: BUNDLE_FLIPS[member]})
    edited = msgspec.structs.replace(ada().signed_bundle, bundle=b64u(raw))
    assert refusal(lambda: open_bundle(edited)) == "bad_bundle"


@pytest.mark.parametrize("position", range(0, 64, 7))
def test_every_flipped_byte_of_its_signature_is_refused(position: int) -> None:
    signature = bytearray(unb64u(ada().signed_bundle.signature))
    signature[position] ^= 1
    edited = msgspec.structs.replace(ada().signed_bundle, signature=b64u(bytes(signature)))
    assert refusal(lambda: open_bundle(edited)) == "bad_bundle"


@given(st.text(max_size=200), st.text(max_size=86), st.none() | st.text(max_size=86))
def test_only_named_errors_come_out_of_the_parser(
    bundle: str, signature: str, previous: str | None
) -> None:
    signed = SignedBundle(bundle, signature, previous)
    assert refusal(lambda: open_bundle(signed)) == "bad_bundle"


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=8,
)


@given(st.sampled_from(sorted(BUNDLE_FLIPS)), _json)
def test_only_named_errors_come_out_of_a_signed_bundle(member: str, value: Any) -> None:
    members = _bundle_members(ada().signed_bundle)
    signed = _signed_by_ada(members | {member: value})
    code = refusal(lambda: open_bundle(signed))
    assert code in {"bad_bundle", "weak_key", None}


def test_validity_is_checked_against_the_clock() -> None:
    bundle = ada().bundle
    signed = bundle.signed
    assert open_bundle(signed, bundle.valid_to).id == "ada"
    assert open_bundle(signed, bundle.valid_from - limits.CLOCK_TOLERANCE_MS).id == "ada"
    assert refusal(lambda: open_bundle(signed, bundle.valid_to + 1)) == "bad_bundle"
    too_early = bundle.valid_from - limits.CLOCK_TOLERANCE_MS - 1
    assert refusal(lambda: open_bundle(signed, too_early)) == "bad_bundle"


def test_a_bundle_that_fits_no_frame_is_not_made() -> None:
    prekeys = [Prekey(Suite.HYBRID, bytes((number,)) * 32, NOW).public for number in range(8)]

    def make(count: int) -> SignedBundle:
        return make_bundle(
            ada().identity,
            client_id="ada",
            first_name="Ada",
            last_name="Ada",
            generation=1,
            encryption_keys=prekeys[:count],
            valid_from=NOW,
            valid_to=NOW + DAY,
        )

    fits = make(4)
    assert msgspec.json.decode(msgspec.json.encode(fits), type=SignedBundle) == fits
    assert refusal(lambda: make(5)) == "bad_bundle"


def test_a_bundle_that_would_be_refused_is_not_made() -> None:
    def make(**changes: Any) -> SignedBundle:
        arguments: dict[str, Any] = {
            "client_id": "ada",
            "first_name": "Ada",
            "last_name": "Ada",
            "generation": 1,
            "encryption_keys": [prekey.public for prekey in ada().prekeys],
            "valid_from": NOW,
            "valid_to": NOW + DAY,
        }
        return make_bundle(ada().identity, **(arguments | changes))

    assert open_bundle(make()).id == "ada"
    refused: list[dict[str, Any]] = [
        {"client_id": "no id"},
        {"first_name": "a,b"},
        {"generation": 0},
        {"encryption_keys": []},
        {"encryption_keys": [ada().prekeys[0].public] * 2},
        {"valid_to": NOW},
        {"valid_to": NOW + limits.BUNDLE_VALIDITY_MS_MAX + 1},
    ]
    for changes in refused:
        assert refusal(functools.partial(make, **changes)) == "bad_bundle"


def test_a_key_of_a_suite_that_is_not_offered_is_a_mistake() -> None:
    classic = keys.Bundle(
        **{
            name: getattr(ada().bundle, name)
            for name in keys.Bundle.__dataclass_fields__
            if name != "encryption_keys"
        },
        encryption_keys=(ada().bundle.encryption_key(Suite.CLASSIC),),
    )
    with pytest.raises(MisuseError, match="no key of suite 1"):
        classic.encryption_key(Suite.HYBRID)


def test_bundles_of_two_ids_do_not_succeed_each_other() -> None:
    with pytest.raises(MisuseError, match="two ids"):
        check_succession(ada().bundle, bank().bundle)


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
