"""Keys: identities that sign, prekeys that decrypt.

An identity key (Ed25519) lives long and is what a client *is*; prekeys are what messages are
sealed to and are rotated. `protocol.bundles` publishes both.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import IntEnum
from functools import lru_cache
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import (
    AEAD,
    KDF,
    KEM,
    MLKEM768X25519PrivateKey,
    MLKEM768X25519PublicKey,
)
from cryptography.hazmat.primitives.hpke import Suite as Hpke

from protocol.curves import is_strong_ed25519
from protocol.encoding import b64u, pae
from protocol.errors import Code, MisuseError, RelayError

__all__ = [
    "FINGERPRINT_BYTES",
    "EncryptionKey",
    "IdentityKey",
    "Prekey",
    "RandomBytes",
    "Suite",
    "best_common_suite",
    "check_identity_key",
    "fingerprint",
    "format_fingerprint",
    "key_id",
    "parse_fingerprint",
    "safety_number",
    "verify",
]

RandomBytes = Callable[[int], bytes]
"""A source of that many random bytes; ``os.urandom`` in production."""

FINGERPRINT_BYTES: Final = 16
KEY_ID_BYTES: Final = 8
IDENTITY_BYTES: Final = 32
SIGNATURE_BYTES: Final = 64

HpkePrivateKey = MLKEM768X25519PrivateKey | X25519PrivateKey
HpkePublicKey = MLKEM768X25519PublicKey | X25519PublicKey


class Suite(IntEnum):
    """A set of algorithms for sealed messages; the lower number is the better suite."""

    HYBRID = 1
    """X-Wing (ML-KEM-768 with X25519, HPKE KEM 0x647a), HKDF-SHA256, AES-256-GCM, Ed25519."""
    CLASSIC = 2
    """DHKEM(X25519, HKDF-SHA256) (RFC 9180, KEM 0x0020), and the same otherwise."""

    @property
    def public_key_bytes(self) -> int:
        """The length of an encryption key's public part."""
        return 1_216 if self is Suite.HYBRID else 32

    @property
    def encapsulation_bytes(self) -> int:
        """The length of the encapsulated key in front of an HPKE ciphertext."""
        return 1_120 if self is Suite.HYBRID else 32

    @property
    def hpke(self) -> Hpke:
        """The HPKE of this suite (base mode, one message at a time)."""
        return _HPKE[self]


_HPKE: Final = {
    Suite.HYBRID: Hpke(KEM.MLKEM768_X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM),
    Suite.CLASSIC: Hpke(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM),
}


def best_common_suite(one: Iterable[Suite], other: Iterable[Suite]) -> Suite | None:
    """Return the best suite that both offer, or None."""
    return min(set(one) & set(other), default=None)


# --- Identities -----------------------------------------------------------------------------


class IdentityKey:
    """The private half of an identity (Ed25519). Its ``repr`` never shows the secret."""

    __slots__ = ("_key", "public")

    def __init__(self, seed: bytes) -> None:
        """:param seed: the 32 secret bytes (RFC 8032, section 5.1.5)."""
        self._key = Ed25519PrivateKey.from_private_bytes(seed)
        self.public: Final[bytes] = self._key.public_key().public_bytes_raw()

    @classmethod
    def generate(cls, random_bytes: RandomBytes) -> IdentityKey:
        """Return a new identity drawn from ``random_bytes``."""
        return cls(random_bytes(32))

    @property
    def seed(self) -> bytes:
        """The 32 secret bytes, for the key file."""
        return self._key.private_bytes_raw()

    def sign(self, message: bytes) -> bytes:
        """Return the 64-byte Ed25519 signature of ``message``."""
        return self._key.sign(message)

    def __repr__(self) -> str:
        return f"<IdentityKey public={b64u(self.public)}>"


def check_identity_key(key: bytes) -> bytes:
    """Return ``key`` if it may enter as somebody's identity.

    :raises RelayError: ``weak_key``, for small order, non-canonical encodings and non-points.
    """
    if not is_strong_ed25519(key):
        raise RelayError(Code.WEAK_KEY, "the identity key is not an acceptable Ed25519 key")
    return key


def verify(identity_key: bytes, signature: bytes, message: bytes) -> bool:
    """Return whether ``signature`` of ``message`` is by ``identity_key``."""
    try:
        _ed25519_public_key(identity_key).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


@lru_cache(maxsize=1_024)
def _ed25519_public_key(public: bytes) -> Ed25519PublicKey:
    """Load a public key; the same few are asked for again and again."""
    return Ed25519PublicKey.from_public_bytes(public)


@lru_cache(maxsize=4_096)
def fingerprint(client_id: str, identity_key: bytes) -> bytes:
    """Return the 16-byte fingerprint that binds an id to an identity key."""
    encoded = pae("tw1 fingerprint", client_id, identity_key)
    return hashlib.sha256(encoded).digest()[:FINGERPRINT_BYTES]


def format_fingerprint(value: bytes) -> str:
    """Return a fingerprint as people read it: eight groups of four hexadecimal digits."""
    digits = value.hex()
    return " ".join(digits[start : start + 4] for start in range(0, len(digits), 4))


def parse_fingerprint(text: str) -> bytes:
    """Return the fingerprint that a person typed, with or without separators.

    :raises ValueError: if it is not 32 hexadecimal digits.
    """
    digits = re.sub(r"[\s:-]", "", text).lower()
    if not re.fullmatch(r"[0-9a-f]{32}", digits):
        raise ValueError("a fingerprint is 32 hexadecimal digits, in groups or not")
    return bytes.fromhex(digits)


def safety_number(one: bytes, other: bytes) -> str:
    """Return the 60 digits that two people compare, made from both fingerprints."""
    digest = hashlib.sha512(pae("tw1 safety number", *sorted((one, other)))).digest()
    groups = (digest[start : start + 5] for start in range(0, 60, 5))
    return " ".join(f"{int.from_bytes(group, 'big') % 100_000:05}" for group in groups)


# --- Prekeys --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class EncryptionKey:
    """The public half of a prekey: what others seal messages to."""

    suite: Suite
    key_id: bytes
    public: bytes = field(repr=False)

    def hpke_key(self) -> HpkePublicKey:
        """Return the key object that HPKE takes."""
        return _hpke_public_key(self.suite, self.public)


@lru_cache(maxsize=1_024)
def _hpke_public_key(suite: Suite, public: bytes) -> HpkePublicKey:
    """Load a public key; that takes as long as a third of a sealing, so it is remembered."""
    if suite is Suite.CLASSIC:
        return X25519PublicKey.from_public_bytes(public)
    return MLKEM768X25519PublicKey(
        MLKEM768PublicKey.from_public_bytes(public[:1_184]),
        X25519PublicKey.from_public_bytes(public[1_184:]),
    )


class Prekey:
    """A private encryption key with its public half. Its ``repr`` never shows the secret."""

    __slots__ = ("created_at", "hpke_key", "public", "secret")

    def __init__(self, suite: Suite, secret: bytes, created_at: int) -> None:
        """Expand a 32-byte secret.

        For suite 1 it is the X-Wing seed: SHAKE-256 stretches it to the 64-byte seed of ML-KEM-768
        and the X25519 scalar (draft-connolly-cfrg-xwing-kem, section 5.2).

        :param created_at: milliseconds since the epoch; tells when to rotate.
        """
        if len(secret) != 32:
            raise MisuseError("a prekey's secret has 32 bytes")
        self.secret: Final[bytes] = secret
        self.created_at: Final[int] = created_at
        self.hpke_key: HpkePrivateKey
        if suite is Suite.CLASSIC:
            scalar = X25519PrivateKey.from_private_bytes(secret)
            self.hpke_key, public = scalar, scalar.public_key().public_bytes_raw()
        else:
            expanded = hashlib.shake_256(secret).digest(96)
            kem = MLKEM768PrivateKey.from_seed_bytes(expanded[:64])
            scalar = X25519PrivateKey.from_private_bytes(expanded[64:])
            self.hpke_key = MLKEM768X25519PrivateKey(kem, scalar)
            public = kem.public_key().public_bytes_raw() + scalar.public_key().public_bytes_raw()
        self.public: Final[EncryptionKey] = EncryptionKey(suite, key_id(suite, public), public)

    @classmethod
    def generate(cls, suite: Suite, created_at: int, random_bytes: RandomBytes) -> Prekey:
        """Return a new prekey drawn from ``random_bytes``."""
        return cls(suite, random_bytes(32), created_at)

    def __repr__(self) -> str:
        return f"<Prekey suite={self.public.suite.value} key_id={b64u(self.public.key_id)}>"


def key_id(suite: Suite, public: bytes) -> bytes:
    """Return the 8-byte id of an encryption key: a hash, so an id can't be claimed."""
    return hashlib.sha256(pae("tw1 key id", suite.value, public)).digest()[:KEY_ID_BYTES]
