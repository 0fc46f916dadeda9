from __future__ import annotations

import hashlib
import inspect
from typing import Any

import pytest

from protocol.bundles import open_bundle
from protocol.registration import check_proof, make_proof, proof_message
from tests.protocol.cast import NOW, ada, mallory, refusal

PARTS: dict[str, Any] = {
    "relay_name": "relay.example",
    "relay_nonce": bytes(32),
    "client_nonce": bytes(range(32)),
    "role": "person",
}
FLIPS: dict[str, Any] = {
    "relay_name": "other.example",
    "relay_nonce": b"\1" + bytes(31),
    "client_nonce": b"\1" + bytes(31),
    "client_id": "mallory",
    "version": 2,
    "role": "service",
    "bundle_hash": hashlib.sha256(b"another bundle").digest(),
}


def _proof() -> bytes:
    return make_proof(ada().identity, ada().bundle, **PARTS)


def _check(proof: bytes, **changes: Any) -> None:
    known: dict[str, Any] = {"bundle": ada().bundle, "claimed_id": "ada", "version": 1} | PARTS
    check_proof(proof, **(known | changes))


def _code(proof: bytes, **changes: Any) -> str | None:
    return refusal(lambda: _check(proof, **changes))


def test_a_proof_is_accepted_where_it_was_made_for() -> None:
    _check(_proof())


def test_everything_that_the_proof_signs_has_a_flip() -> None:
    assert set(FLIPS) == set(inspect.signature(proof_message).parameters)


@pytest.mark.parametrize("part", FLIPS)
def test_every_flipped_part_gives_another_message(part: str) -> None:
    whole = PARTS | {"client_id": "ada", "version": 1, "bundle_hash": ada().bundle.hash}
    assert proof_message(**whole) != proof_message(**(whole | {part: FLIPS[part]}))


@pytest.mark.parametrize("part", PARTS)
def test_every_flipped_part_is_refused(part: str) -> None:
    assert _code(_proof(), **{part: FLIPS[part]}) == "proof_refused"


def test_another_id_version_or_bundle_is_refused() -> None:
    assert _code(_proof(), claimed_id="mallory") == "bad_bundle"
    assert _code(_proof(), version=2) == "unsupported_version"
    assert _code(_proof(), bundle=mallory().bundle) == "bad_bundle"
    assert _code(_proof(), bundle=mallory().bundle, claimed_id="mallory") == "proof_refused"


def test_who_only_knows_the_bundle_can_prove_nothing() -> None:
    bundle = open_bundle(ada().signed_bundle, NOW)
    forged = make_proof(mallory().identity, bundle, **PARTS)
    assert _code(forged) == "proof_refused"


@pytest.mark.parametrize("proof", [b"", bytes(64), bytes(63)])
def test_what_is_no_signature_is_refused(proof: bytes) -> None:
    assert _code(proof) == "proof_refused"
