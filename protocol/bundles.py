"""Bundles: what a client publishes of its keys, and who may publish the next ones.

A bundle is the signed statement "these are my keys"; its generation only ever rises, and where the
identity changed the previous identity signs it too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Final

import msgspec

from protocol import limits
from protocol.curves import is_strong_x25519
from protocol.encoding import b64u, decode_strict, unb64u
from protocol.errors import Code, MisuseError, RelayError
from protocol.identifiers import ClientId, Milliseconds, check_name, display_name
from protocol.keys import (
    FINGERPRINT_BYTES,
    EncryptionKey,
    IdentityKey,
    Suite,
    check_identity_key,
    fingerprint,
    key_id,
    verify,
)

__all__ = ["Bundle", "SignedBundle", "check_succession", "make_bundle", "open_bundle"]

_BUNDLE_CONTEXT: Final = b"tw1 bundle\0"


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
