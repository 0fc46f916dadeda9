"""The cryptography underneath against vectors that others published.

What is shown is that the primitives which ``protocol`` uses, as it uses them, give the published
results and refuse what must be refused. ``cryptography`` offers no derandomized encapsulation: so
messages are opened with it that were sealed by the second implementation, which is itself checked
against RFC 9180 value by value.
"""

from __future__ import annotations

from typing import Any

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM
from cryptography.hazmat.primitives.hpke import Suite as Hpke
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from protocol.curves import is_strong_ed25519, is_strong_x25519
from protocol.keys import EncryptionKey, Prekey, Suite, key_id, verify
from tests.protocol.cast import NOW, fixed_bytes
from tests.protocol.published import hpke_pq, rfc_9180, wycheproof
from tests.vectors.primitives import (
    AES_256_GCM,
    DHKEM_X25519,
    HKDF_SHA256,
    X_WING,
    dhkem_derive_private,
    dhkem_encapsulate,
    gcm,
    key_schedule,
    x_wing_encapsulate,
    x_wing_key,
)

unhex = bytes.fromhex
BASE_MODE = 0
_AEAD_CLASSES: dict[int, Any] = {1: AESGCM, 2: AESGCM, 3: ChaCha20Poly1305}
AEADS = {1: AEAD.AES_128_GCM, 2: AEAD.AES_256_GCM, 3: AEAD.CHACHA20_POLY1305}


def _base_mode(vectors: list[dict[str, Any]], kem: int) -> list[dict[str, Any]]:
    wanted = (BASE_MODE, kem, HKDF_SHA256)
    found = [
        case
        for case in vectors
        if (case["mode"], case["kem_id"], case["kdf_id"]) == wanted and case["aead_id"] in AEADS
    ]
    assert found
    return found


@pytest.mark.parametrize("case", _base_mode(rfc_9180(), DHKEM_X25519))
def test_cryptography_opens_the_messages_of_rfc_9180(case: dict[str, Any]) -> None:
    suite = Hpke(KEM.X25519, KDF.HKDF_SHA256, AEADS[case["aead_id"]])
    private = X25519PrivateKey.from_private_bytes(unhex(case["skRm"]))
    ephemeral = dhkem_derive_private(unhex(case["ikmE"]))
    shared, encapsulated = dhkem_encapsulate(unhex(case["pkRm"]), ephemeral)
    assert (shared.hex(), encapsulated.hex()) == (case["shared_secret"], case["enc"])
    # The published messages have associated data, which this protocol does not use: one without,
    # under the published key and nonce, stands for them.
    key, nonce = unhex(case["key"]), unhex(case["base_nonce"])
    plaintext = unhex(case["encryptions"][0]["pt"])
    sealed = encapsulated + _aead(case["aead_id"], key, nonce, plaintext)
    assert suite.decrypt(sealed, private, unhex(case["info"])) == plaintext
    with pytest.raises(InvalidTag):
        suite.decrypt(sealed, private, unhex(case["info"]) + b"x")


def _aead(aead_id: int, key: bytes, nonce: bytes, plaintext: bytes) -> bytes:
    sealed: bytes = _AEAD_CLASSES[aead_id](key).encrypt(nonce, plaintext, None)
    return sealed


def test_the_second_hpke_gives_every_value_of_rfc_9180() -> None:
    (case,) = [
        vector
        for vector in _base_mode(rfc_9180(), DHKEM_X25519)
        if vector["aead_id"] == AES_256_GCM
    ]
    ephemeral = dhkem_derive_private(unhex(case["ikmE"]))
    assert ephemeral.hex() == case["skEm"]
    shared, encapsulated = dhkem_encapsulate(unhex(case["pkRm"]), ephemeral)
    assert (shared.hex(), encapsulated.hex()) == (case["shared_secret"], case["enc"])
    schedule = key_schedule(DHKEM_X25519, shared, unhex(case["info"]))
    assert schedule.context.hex() == case["key_schedule_context"]
    assert schedule.secret.hex() == case["secret"]
    assert (schedule.key.hex(), schedule.base_nonce.hex()) == (case["key"], case["base_nonce"])
    first = case["encryptions"][0]
    ciphertext = gcm(schedule.key, schedule.base_nonce, unhex(first["pt"]), unhex(first["aad"]))
    assert ciphertext.hex() == first["ct"]


@pytest.mark.parametrize("case", _base_mode(hpke_pq(), X_WING))
def test_x_wing_gives_the_published_keys_and_secrets(case: dict[str, Any]) -> None:
    key = x_wing_key(unhex(case["skRm"]))
    assert key.public.hex() == case["pkRm"]
    assert Prekey(Suite.HYBRID, unhex(case["skRm"]), NOW).public.public.hex() == case["pkRm"]
    shared, encapsulated = x_wing_encapsulate(key.public, unhex(case["ikmE"]))
    assert (shared.hex(), encapsulated.hex()) == (case["shared_secret"], case["enc"])


@pytest.mark.parametrize("suite", list(Suite))
def test_each_side_opens_what_the_other_sealed(suite: Suite) -> None:
    draw = fixed_bytes(f"each side {suite}")
    prekey = Prekey.generate(suite, NOW, draw)
    public = prekey.public.public
    if suite is Suite.HYBRID:
        kem, (shared, encapsulated) = X_WING, x_wing_encapsulate(public, draw(64))
    else:
        ephemeral = draw(32)
        kem, (shared, encapsulated) = DHKEM_X25519, dhkem_encapsulate(public, ephemeral)
    schedule = key_schedule(kem, shared, b"info")
    sealed = encapsulated + gcm(schedule.key, schedule.base_nonce, b"words")
    assert suite.hpke.decrypt(sealed, prekey.hpke_key, b"info") == b"words"


# --- Wycheproof -----------------------------------------------------------------------------------


def test_ed25519_signatures_of_wycheproof() -> None:
    for case in wycheproof("Signature", "ed25519_test"):
        public = unhex(case["publicKey"]["pk"])
        accepted = verify(public, unhex(case["sig"]), unhex(case["msg"]))
        # "acceptable" are signatures under keys of small or mixed order: they verify, but the
        # keys of small order never enter (next test).
        assert accepted == (case["result"] in {"valid", "acceptable"}), case["comment"]


def test_keys_under_which_one_signature_fits_many_messages_are_refused() -> None:
    cases = wycheproof("Signature", "ed25519_test")
    weak = [case for case in cases if "SmallOrderPublicKey" in case["flags"]]
    assert len(weak) == 8
    for case in cases:
        strong = is_strong_ed25519(unhex(case["publicKey"]["pk"]))
        assert strong == (case not in weak), case["comment"]


def test_x25519_exchanges_of_wycheproof() -> None:
    refused = 0
    for case in wycheproof("Protocol", "x25519_test"):
        private = X25519PrivateKey.from_private_bytes(unhex(case["private"]))
        public = unhex(case["public"])
        if not is_strong_x25519(public):
            refused += 1
            continue
        shared = private.exchange(X25519PublicKey.from_public_bytes(public))
        assert shared.hex() == case["shared"], case["comment"]
    assert refused > 30


def test_what_wycheproof_calls_weak_is_refused_as_a_public_key() -> None:
    bad = {"ZeroSharedSecret", "LowOrderPublic", "NonCanonicalPublic"}
    found = [case for case in wycheproof("Protocol", "x25519_test") if bad & set(case["flags"])]
    assert len(found) > 30
    assert not [case["comment"] for case in found if is_strong_x25519(unhex(case["public"]))]


def test_aes_256_gcm_of_wycheproof() -> None:
    cases = [
        case
        for case in wycheproof("Cipher", "aes_gcm_test")
        if (case["keySize"], case["ivSize"], case["tagSize"]) == (256, 96, 128)
    ]
    assert len(cases) > 50
    for case in cases:
        cipher, iv = AESGCM(unhex(case["key"])), unhex(case["iv"])
        sealed, associated = unhex(case["ct"] + case["tag"]), unhex(case["aad"])
        if case["result"] == "valid":
            assert cipher.decrypt(iv, sealed, associated).hex() == case["msg"]
        else:
            with pytest.raises(InvalidTag):
                cipher.decrypt(iv, sealed, associated)


def test_hkdf_sha256_of_wycheproof() -> None:
    for case in wycheproof("Protocol", "hkdf_sha256_test"):
        salt, info = unhex(case["salt"]), unhex(case["info"])
        if case["result"] == "valid":
            derived = HKDF(SHA256(), length=case["size"], salt=salt, info=info)
            assert derived.derive(unhex(case["ikm"])).hex() == case["okm"]
        else:
            with pytest.raises(ValueError, match="Cannot derive keys"):
                HKDF(SHA256(), length=case["size"], salt=salt, info=info)


def test_ml_kem_768_keys_of_wycheproof() -> None:
    for case in wycheproof("Protocol", "mlkem_768_keygen_seed_test"):
        key = MLKEM768PrivateKey.from_seed_bytes(unhex(case["seed"]))
        assert key.public_key().public_bytes_raw().hex() == case["ek"]


def test_ml_kem_768_decapsulations_of_wycheproof() -> None:
    for case in wycheproof("Protocol", "mlkem_768_test"):
        if len(unhex(case["seed"])) != 64:
            continue
        key = MLKEM768PrivateKey.from_seed_bytes(unhex(case["seed"]))
        if case["result"] == "valid":
            assert key.decapsulate(unhex(case["c"])).hex() == case["K"]
        else:
            with pytest.raises(ValueError, match=r".+"):
                key.decapsulate(unhex(case["c"]))


def test_ml_kem_keys_that_are_not_reduced_are_refused() -> None:
    cases = [
        case
        for case in wycheproof("Protocol", "mlkem_768_encaps_test")
        if case["result"] == "invalid"
    ]
    assert len(cases) > 100
    scalar = fixed_bytes("scalar")(32)
    x_public = X25519PrivateKey.from_private_bytes(scalar).public_key().public_bytes_raw()
    for case in cases:
        public = unhex(case["ek"])
        with pytest.raises(ValueError, match=r".+"):
            MLKEM768PublicKey.from_public_bytes(public)
        hybrid = public + x_public
        key = EncryptionKey(Suite.HYBRID, key_id(Suite.HYBRID, hybrid), hybrid)
        with pytest.raises(ValueError, match=r".+"):
            key.hpke_key()
