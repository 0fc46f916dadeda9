"""Bundles: what is refused of them, who made it as he wanted, and what may follow what."""

from __future__ import annotations

import functools
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol import limits
from protocol.bundles import Bundle, SignedBundle, check_succession, make_bundle, open_bundle
from protocol.encoding import b64u, unb64u
from protocol.errors import MisuseError
from protocol.keys import Prekey, Suite, fingerprint, key_id
from tests.protocol.cast import DAY, NOW, ada, bank, mallory, refusal
from tests.protocol.weak_keys import WEAK_IDENTITIES
from tests.vectors.cases_keys import X25519_SMALL_ORDER


def _bundle_members(signed: SignedBundle) -> dict[str, Any]:
    members: dict[str, Any] = msgspec.json.decode(unb64u(signed.bundle))
    return members


def _signed_by_ada(members: dict[str, Any], previous_signature: str | None = None) -> SignedBundle:
    raw = msgspec.json.encode(members)
    signature = b64u(ada().identity.sign(b"tw1 bundle\0" + raw))
    return SignedBundle(b64u(raw), signature, previous_signature)


# --- Weak keys ------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", WEAK_IDENTITIES, ids=bytes.hex)
def test_a_weak_identity_key_is_refused_in_a_bundle(key: bytes) -> None:
    members = _bundle_members(ada().signed_bundle) | {"identity_key": b64u(key)}
    assert refusal(lambda: open_bundle(_signed_by_ada(members))) == "weak_key"


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
    classic = Bundle(
        **{
            name: getattr(ada().bundle, name)
            for name in Bundle.__dataclass_fields__
            if name != "encryption_keys"
        },
        encryption_keys=(ada().bundle.encryption_key(Suite.CLASSIC),),
    )
    with pytest.raises(MisuseError, match="no key of suite 1"):
        classic.encryption_key(Suite.HYBRID)


def test_bundles_of_two_ids_do_not_succeed_each_other() -> None:
    with pytest.raises(MisuseError, match="two ids"):
        check_succession(ada().bundle, bank().bundle)
