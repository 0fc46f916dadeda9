"""Encodings and HPKE written a second time, from the specification alone.

The vectors are made with these, not with ``protocol``, so that a mistake there can't hide in
both. Nothing random is used: HPKE's encapsulations are derived from given seeds, and ML-KEM comes
from a pure-Python implementation of FIPS 203 that takes its randomness as an argument.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from kyber_py.ml_kem.default_parameters import DEFAULT_PARAMETERS
from kyber_py.ml_kem.ml_kem import ML_KEM

DHKEM_X25519 = 0x0020
X_WING = 0x647A
HKDF_SHA256 = 0x0001
AES_256_GCM = 0x0002
X_WING_LABEL = b"\\.//^\\"

Part = bytes | str | int | None


def seed(label: str, length: int = 32) -> bytes:
    """Return the fixed "random" bytes of the vectors that go by this label."""
    return hashlib.shake_256(b"tellerwire vectors: " + label.encode()).digest(length)


def b64u(data: bytes) -> str:
    return base64.b64encode(data, b"-_").decode("ascii").rstrip("=")


def unb64u(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), b"-_")


def pae(*parts: Part) -> bytes:
    out = len(parts).to_bytes(8, "little")
    for part in parts:
        if part is None:
            data = b""
        elif isinstance(part, bytes):
            data = part
        else:
            data = str(part).encode("utf-8")
        out += len(data).to_bytes(8, "little") + data
    return out


def compact(value: Any) -> bytes:
    """Return JSON as the reference implementation happens to write it; any other would do."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8")


def sign(identity_seed: bytes, message: bytes) -> bytes:
    return Ed25519PrivateKey.from_private_bytes(identity_seed).sign(message)


def ed25519_public(identity_seed: bytes) -> bytes:
    return Ed25519PrivateKey.from_private_bytes(identity_seed).public_key().public_bytes_raw()


def x25519_public(scalar: bytes) -> bytes:
    return X25519PrivateKey.from_private_bytes(scalar).public_key().public_bytes_raw()


def x25519(scalar: bytes, public: bytes) -> bytes:
    private = X25519PrivateKey.from_private_bytes(scalar)
    return private.exchange(X25519PublicKey.from_public_bytes(public))


def hkdf_extract(salt: bytes, ikm: bytes) -> bytes:
    return hmac.digest(salt or bytes(32), ikm, "sha256")


def hkdf_expand(prk: bytes, info: bytes, length: int) -> bytes:
    out, block = b"", b""
    for counter in range(1, -(-length // 32) + 1):
        block = hmac.digest(prk, block + info + bytes((counter,)), "sha256")
        out += block
    return out[:length]


# --- ML-KEM-768 and X-Wing ----------------------------------------------------------------------


def ml_kem_768(randomness: bytes = b"") -> ML_KEM:
    """Return ML-KEM-768 whose randomness is given; it may be drawn once."""
    kem = ML_KEM(DEFAULT_PARAMETERS["ML768"])
    kem.random_bytes = lambda length: randomness[:length]
    return kem


@dataclass(frozen=True)
class XWingKey:
    """An X-Wing key pair, expanded from its 32-byte seed."""

    secret: bytes
    ml_kem_seed: bytes
    ml_kem_public: bytes
    x25519_scalar: bytes
    x25519_public: bytes

    @property
    def public(self) -> bytes:
        return self.ml_kem_public + self.x25519_public


def x_wing_key(secret: bytes) -> XWingKey:
    expanded = hashlib.shake_256(secret).digest(96)
    ml_kem_public, _ = ml_kem_768().key_derive(expanded[:64])
    scalar = expanded[64:]
    return XWingKey(secret, expanded[:64], ml_kem_public, scalar, x25519_public(scalar))


def x_wing_encapsulate(public: bytes, randomness: bytes) -> tuple[bytes, bytes]:
    """Return (shared secret, encapsulated key); 64 bytes of randomness."""
    ml_kem_public, x_public = public[:1184], public[1184:]
    ml_kem_secret, ml_kem_ciphertext = ml_kem_768(randomness[:32]).encaps(ml_kem_public)
    ephemeral = randomness[32:]
    x_ciphertext = x25519_public(ephemeral)
    x_secret = x25519(ephemeral, x_public)
    combined = ml_kem_secret + x_secret + x_ciphertext + x_public + X_WING_LABEL
    return hashlib.sha3_256(combined).digest(), ml_kem_ciphertext + x_ciphertext


# --- HPKE, base mode, one message (RFC 9180) ----------------------------------------------------


def _suite_id(kem: int, aead: int) -> bytes:
    return (
        b"HPKE" + kem.to_bytes(2, "big") + HKDF_SHA256.to_bytes(2, "big") + aead.to_bytes(2, "big")
    )


def _labeled_extract(suite_id: bytes, salt: bytes, label: bytes, ikm: bytes) -> bytes:
    return hkdf_extract(salt, b"HPKE-v1" + suite_id + label + ikm)


def _labeled_expand(suite_id: bytes, prk: bytes, label: bytes, info: bytes, length: int) -> bytes:
    labeled = length.to_bytes(2, "big") + b"HPKE-v1" + suite_id + label + info
    return hkdf_expand(prk, labeled, length)


def dhkem_derive_private(ikm: bytes) -> bytes:
    suite_id = b"KEM" + DHKEM_X25519.to_bytes(2, "big")
    prk = _labeled_extract(suite_id, b"", b"dkp_prk", ikm)
    return _labeled_expand(suite_id, prk, b"sk", b"", 32)


def dhkem_encapsulate(public: bytes, ephemeral: bytes) -> tuple[bytes, bytes]:
    """Return (shared secret, encapsulated key) for an ephemeral X25519 private key."""
    suite_id = b"KEM" + DHKEM_X25519.to_bytes(2, "big")
    encapsulated = x25519_public(ephemeral)
    prk = _labeled_extract(suite_id, b"", b"eae_prk", x25519(ephemeral, public))
    context = encapsulated + public
    return _labeled_expand(suite_id, prk, b"shared_secret", context, 32), encapsulated


@dataclass(frozen=True)
class Schedule:
    """What HPKE's key schedule comes to, for base mode."""

    context: bytes
    secret: bytes
    key: bytes
    base_nonce: bytes


def key_schedule(kem: int, shared_secret: bytes, info: bytes, aead: int = AES_256_GCM) -> Schedule:
    suite_id = _suite_id(kem, aead)
    psk_id_hash = _labeled_extract(suite_id, b"", b"psk_id_hash", b"")
    info_hash = _labeled_extract(suite_id, b"", b"info_hash", info)
    context = b"\x00" + psk_id_hash + info_hash
    secret = _labeled_extract(suite_id, shared_secret, b"secret", b"")
    return Schedule(
        context,
        secret,
        _labeled_expand(suite_id, secret, b"key", context, 32),
        _labeled_expand(suite_id, secret, b"base_nonce", context, 12),
    )


def gcm(key: bytes, nonce: bytes, plaintext: bytes, associated: bytes | None = None) -> bytes:
    return AESGCM(key).encrypt(nonce, plaintext, associated)


def unhex_lines(text: str) -> tuple[bytes, ...]:
    """Return the byte strings that stand in ``text``, one a line, as hexadecimal digits."""
    return tuple(bytes.fromhex(line) for line in text.split())
