"""Keys: identities that sign, prekeys that decrypt, bundles that publish both.

An identity key (Ed25519) lives long and is what a client *is*; prekeys are what messages are
sealed to and are rotated. A bundle is the signed statement "these are my keys"; its generation only
ever rises, and where the identity changed the previous identity signs it too.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from functools import lru_cache
from typing import Annotated, Final

import msgspec
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

from protocol import limits
from protocol.curves import is_strong_ed25519, is_strong_x25519
from protocol.encoding import b64u, decode_strict, pae, unb64u
from protocol.errors import Code, MisuseError, RelayError
from protocol.identifiers import ClientId, Milliseconds, check_name, display_name

__all__ = [
    "Bundle",
    "EncryptionKey",
    "IdentityKey",
    "Prekey",
    "RandomBytes",
    "SignedBundle",
    "Suite",
    "best_common_suite",
    "check_identity_key",
    "check_succession",
    "fingerprint",
    "format_fingerprint",
    "make_bundle",
    "open_bundle",
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
_BUNDLE_CONTEXT: Final = b"tw1 bundle\0"

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
        Ed25519PublicKey.from_public_bytes(identity_key).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


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


# --- Bundles --------------------------------------------------------------------------------


class SignedBundle(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A bundle as it travels: its exact bytes and the signatures over them, as base64url."""

    bundle: Annotated[str, msgspec.Meta(max_length=limits.BUNDLE_BYTES_MAX * 4 // 3 + 4)]
    signature: Annotated[str, msgspec.Meta(max_length=86)]
    previous_signature: Annotated[str, msgspec.Meta(max_length=86)] | None = None

    def __repr__(self) -> str:
        return f"<SignedBundle {len(self.bundle)} characters>"


class _WireKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    suite: int
    key_id: str
    public: str


class _WireBundle(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    version: int
    id: ClientId
    first_name: str
    last_name: str
    generation: Annotated[int, msgspec.Meta(ge=1, le=limits.MILLISECONDS_MAX)]
    identity_key: str
    encryption_keys: list[_WireKey]
    valid_from: Milliseconds
    valid_to: Milliseconds
    previous_fingerprint: str | None


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle that was opened: every field checked, every signature verified."""

    id: str
    first_name: str
    last_name: str
    generation: int
    identity_key: bytes
    encryption_keys: tuple[EncryptionKey, ...]
    valid_from: int
    valid_to: int
    previous_fingerprint: bytes | None
    signed: SignedBundle

    @property
    def fingerprint(self) -> bytes:
        """The fingerprint of the id and the identity key."""
        return fingerprint(self.id, self.identity_key)

    @property
    def name(self) -> str:
        """The name as people see it."""
        return display_name(self.first_name, self.last_name)

    @property
    def suites(self) -> tuple[Suite, ...]:
        """The suites offered, best first."""
        return tuple(sorted({key.suite for key in self.encryption_keys}))

    def encryption_key(self, suite: Suite) -> EncryptionKey:
        """Return the key to seal to with ``suite``: the first of that suite in the bundle.

        :raises MisuseError: if the bundle doesn't offer the suite.
        """
        for key in self.encryption_keys:
            if key.suite is suite:
                return key
        raise MisuseError(f"the bundle of {self.id} offers no key of suite {suite.value}")

    @property
    def hash(self) -> bytes:
        """SHA-256 of the bundle's exact bytes; what a registration proof signs."""
        return hashlib.sha256(unb64u(self.signed.bundle)).digest()


def best_common_suite(one: Iterable[Suite], other: Iterable[Suite]) -> Suite | None:
    """Return the best suite that both offer, or None."""
    return min(set(one) & set(other), default=None)


def make_bundle(
    identity: IdentityKey,
    *,
    client_id: str,
    first_name: str,
    last_name: str,
    generation: int,
    encryption_keys: Sequence[EncryptionKey],
    valid_from: int,
    valid_to: int,
    previous: IdentityKey | None = None,
) -> SignedBundle:
    """Return a new bundle, signed by ``identity`` and, where that changed, by ``previous``.

    :param valid_from: and ``valid_to``: milliseconds since the epoch.
    :raises RelayError: ``bad_bundle`` or ``weak_key`` if it would be refused elsewhere.
    """
    wire = _WireBundle(
        version=limits.PROTOCOL_VERSION,
        id=client_id,
        first_name=first_name,
        last_name=last_name,
        generation=generation,
        identity_key=b64u(identity.public),
        encryption_keys=[
            _WireKey(key.suite.value, b64u(key.key_id), b64u(key.public)) for key in encryption_keys
        ],
        valid_from=valid_from,
        valid_to=valid_to,
        previous_fingerprint=(
            b64u(fingerprint(client_id, previous.public)) if previous is not None else None
        ),
    )
    raw = msgspec.json.encode(wire)
    signed = SignedBundle(
        bundle=b64u(raw),
        signature=b64u(identity.sign(_BUNDLE_CONTEXT + raw)),
        previous_signature=(
            b64u(previous.sign(_BUNDLE_CONTEXT + raw)) if previous is not None else None
        ),
    )
    open_bundle(signed)
    return signed


def open_bundle(signed: SignedBundle, now: int | None = None) -> Bundle:
    """Check a bundle and return what it says.

    The signature of a previous identity can only be checked by who knows that identity: see
    :func:`check_succession`.

    :param now: milliseconds since the epoch; where given, the validity is checked too.
    :raises RelayError: ``weak_key`` for a key that is never accepted, else ``bad_bundle``.
    """
    try:
        raw = unb64u(signed.bundle)
        if len(raw) > limits.BUNDLE_BYTES_MAX:
            raise ValueError(f"a bundle has at most {limits.BUNDLE_BYTES_MAX} bytes")
        signature = unb64u(signed.signature)
        if signed.previous_signature is not None:
            unb64u(signed.previous_signature)
        wire = decode_strict(raw, _WireBundle)
        bundle = _parse_bundle(wire, signed)
    except ValueError as error:
        raise RelayError(Code.BAD_BUNDLE, str(error)) from error
    check_identity_key(bundle.identity_key)
    for key in bundle.encryption_keys:
        _check_encryption_key(key)
    if not verify(bundle.identity_key, signature, _BUNDLE_CONTEXT + raw):
        raise RelayError(Code.BAD_BUNDLE, "the bundle's signature is wrong")
    if now is not None:
        _check_validity(bundle, now)
    return bundle


def _parse_bundle(wire: _WireBundle, signed: SignedBundle) -> Bundle:
    if wire.version != limits.PROTOCOL_VERSION:
        raise ValueError(f"bundle version {wire.version} is not known")
    if not 0 < wire.valid_to - wire.valid_from <= limits.BUNDLE_VALIDITY_MS_MAX:
        raise ValueError("the bundle's validity is empty or too long")
    if not 1 <= len(wire.encryption_keys) <= limits.BUNDLE_ENCRYPTION_KEYS_MAX:
        raise ValueError("a bundle has 1 to 8 encryption keys")
    if (wire.previous_fingerprint is None) != (signed.previous_signature is None):
        raise ValueError("a previous fingerprint and a previous signature come together")
    previous = wire.previous_fingerprint
    previous_fingerprint = unb64u(previous) if previous is not None else None
    if previous_fingerprint is not None and len(previous_fingerprint) != FINGERPRINT_BYTES:
        raise ValueError("a fingerprint has 16 bytes")
    keys = tuple(_parse_key(key) for key in wire.encryption_keys)
    if len({key.key_id for key in keys}) != len(keys):
        raise ValueError("an encryption key appears twice")
    return Bundle(
        id=wire.id,
        first_name=check_name(wire.first_name),
        last_name=check_name(wire.last_name),
        generation=wire.generation,
        identity_key=unb64u(wire.identity_key),
        encryption_keys=keys,
        valid_from=wire.valid_from,
        valid_to=wire.valid_to,
        previous_fingerprint=previous_fingerprint,
        signed=signed,
    )


def _parse_key(wire: _WireKey) -> EncryptionKey:
    suite = Suite(wire.suite)
    public = unb64u(wire.public)
    if len(public) != suite.public_key_bytes:
        raise ValueError(f"a key of suite {suite.value} has {suite.public_key_bytes} bytes")
    if unb64u(wire.key_id) != key_id(suite, public):
        raise ValueError("a key id does not fit its key")
    return EncryptionKey(suite, key_id(suite, public), public)


def _check_encryption_key(key: EncryptionKey) -> None:
    if not is_strong_x25519(key.public[-32:]):
        raise RelayError(Code.WEAK_KEY, "an encryption key is not an acceptable X25519 key")
    try:
        key.hpke_key()
    except ValueError as error:
        raise RelayError(Code.WEAK_KEY, "an encryption key is not acceptable") from error


def _check_validity(bundle: Bundle, now: int) -> None:
    if now > bundle.valid_to:
        raise RelayError(Code.BAD_BUNDLE, "the bundle has expired; publish a new one")
    if now + limits.CLOCK_TOLERANCE_MS < bundle.valid_from:
        raise RelayError(Code.BAD_BUNDLE, "the bundle is not valid yet; check the clock")


def check_succession(old: Bundle, new: Bundle) -> None:
    """Check that ``new`` may take the place of ``old`` without anybody being asked.

    The same bytes may always come again. Otherwise the generation must rise, and a new identity
    must be signed by the old one.

    :raises RelayError: ``bad_bundle`` for a generation that doesn't rise; ``id_taken`` for an
        identity that the old one did not sign.
    """
    if old.id != new.id:
        raise MisuseError("bundles of two ids don't succeed each other")
    if old.signed == new.signed:
        return
    if new.identity_key != old.identity_key:
        raw = unb64u(new.signed.bundle)
        previous_signature = new.signed.previous_signature
        if (
            new.previous_fingerprint != old.fingerprint
            or previous_signature is None
            or not verify(old.identity_key, unb64u(previous_signature), _BUNDLE_CONTEXT + raw)
        ):
            raise RelayError(
                Code.ID_TAKEN, f"{old.id} belongs to another key, which did not sign this one"
            )
    if new.generation <= old.generation:
        raise RelayError(
            Code.BAD_BUNDLE,
            f"generation {new.generation} does not rise above {old.generation}",
        )
