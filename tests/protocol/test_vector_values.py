"""The intermediate values of the published sealed messages, worked out from the recipient's side.

The vectors were made by a sender; whoever finds his own message unreadable compares these.
"""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tests.vectors.files import named, vectors
from tests.vectors.primitives import (
    X_WING_LABEL,
    hkdf_expand,
    ml_kem_768,
    x25519,
    x_wing_key,
)

HYBRID = 1
CIPHERTEXT_BYTES = 1088
SUITE_IDS = {1: b"HPKE\x64\x7a\x00\x01\x00\x02", 2: b"HPKE\x00\x20\x00\x01\x00\x02"}

unhex = bytes.fromhex


def secret_of(case: dict[str, Any]) -> bytes:
    """Return the recipient's secret of the suite that a message is sealed with."""
    found = [pair for pair in case["open"]["prekeys"] if pair["suite"] == case["suite"]]
    assert len(found) == 1
    return unhex(found[0]["secret"])


@pytest.mark.parametrize(**named(vectors("sealed")["accepted"]))
def test_the_shared_secret(case: dict[str, Any]) -> None:
    secret, enc = secret_of(case), unhex(case["enc"])
    if case["suite"] != HYBRID:
        assert "ml_kem_secret" not in case
        assert x25519(secret, enc).hex() == case["dh"]
        return
    key = x_wing_key(secret)
    ciphertext, ephemeral = enc[:CIPHERTEXT_BYTES], enc[CIPHERTEXT_BYTES:]
    _, decapsulation_key = ml_kem_768().key_derive(key.ml_kem_seed)
    ml_kem_secret = ml_kem_768().decaps(decapsulation_key, ciphertext)
    dh = x25519(key.x25519_scalar, ephemeral)
    assert ml_kem_secret.hex() == case["ml_kem_secret"]
    assert dh.hex() == case["dh"]
    combined = ml_kem_secret + dh + ephemeral + key.x25519_public + X_WING_LABEL
    assert hashlib.sha3_256(combined).hexdigest() == case["shared_secret"]


@pytest.mark.parametrize(**named(vectors("sealed")["accepted"]))
def test_from_the_key_schedule_to_the_plaintext(case: dict[str, Any]) -> None:
    secret, context = unhex(case["key_schedule_secret"]), unhex(case["key_schedule_context"])
    for label, name, length in ((b"key", "key", 32), (b"base_nonce", "nonce", 12)):
        info = length.to_bytes(2, "big") + b"HPKE-v1" + SUITE_IDS[case["suite"]] + label + context
        assert hkdf_expand(secret, info, length).hex() == case[name]
    key, nonce = unhex(case["key"]), unhex(case["nonce"])
    assert AESGCM(key).decrypt(nonce, unhex(case["ciphertext"]), None).hex() == case["plaintext"]
