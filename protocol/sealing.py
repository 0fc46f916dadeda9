"""Sealed messages between two clients, and keyed replies to them.

A message is signed by its sender, then encrypted to the recipient's prekey together with a fresh
reply key; everything outside the seal that must not be altered is bound into HPKE's ``info``. A
reply is encrypted under that reply key, so it can only come from whoever could open the request.

What is kept as evidence is the *signed message*: signature and inner JSON. A retry seals the same
signed message again, perhaps to a newer prekey, and is still the same message.

Sources: HPKE (RFC 9180), X-Wing (draft-connolly-cfrg-xwing-kem), the response encryption of
Oblivious HTTP (RFC 9458, section 4.4), padding before encryption.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Final

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from protocol import limits
from protocol.encoding import b64u, decode_strict, pae
from protocol.errors import Code, EndToEndError, MisuseError, TellerwireError
from protocol.identifiers import ClientId, Milliseconds, UuidText
from protocol.keys import (
    KEY_ID_BYTES,
    SIGNATURE_BYTES,
    EncryptionKey,
    IdentityKey,
    Prekey,
    Suite,
    best_common_suite,
    verify,
)

__all__ = [
    "REPLY_KEY_BYTES",
    "REPLY_NONCE_BYTES",
    "Envelope",
    "Inner",
    "Opened",
    "SignedMessage",
    "UnsealedRefusalError",
    "check_times",
    "compose",
    "held_key",
    "open_reply",
    "open_sealed",
    "refusal_body",
    "seal",
    "seal_info",
    "seal_reply",
    "sealed_to",
    "verify_evidence",
]

REPLY_KEY_BYTES: Final = 32
REPLY_NONCE_BYTES: Final = 16
_MESSAGE_CONTEXT: Final = b"tw1 message\0"
_LENGTH_BYTES: Final = 4
_TAG_BYTES: Final = 16
_REFUSAL: Final = 0x00
_KEYED: Final = 0x01


@dataclass(frozen=True, slots=True)
class Envelope:
    """What is known of a message outside its seal, with whom both sides take each other for.

    :param re: the id of the request, where this message belongs to an earlier one; else None.
    """

    id: str
    re: str | None
    sender: str
    sender_fingerprint: bytes
    recipient: str
    recipient_fingerprint: bytes


class Inner(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The signed JSON inside a sealed message."""

    version: int
    purpose: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    id: UuidText
    re: UuidText | None
    sender: ClientId = msgspec.field(name="from")
    sender_fingerprint: str = msgspec.field(name="from_fingerprint")
    recipient: ClientId = msgspec.field(name="to")
    recipient_fingerprint: str = msgspec.field(name="to_fingerprint")
    issued_at: Milliseconds
    expires_at: Milliseconds
    reply_key_hash: str
    content: msgspec.Raw

    def __repr__(self) -> str:
        return f"<Inner {self.purpose} {self.id} from {self.sender} to {self.recipient}>"


@dataclass(frozen=True, slots=True)
class SignedMessage:
    """A signature and exactly the bytes that it signs: what both sides keep as evidence."""

    signature: bytes
    inner: bytes

    @property
    def evidence(self) -> bytes:
        """The signature followed by the inner bytes."""
        return self.signature + self.inner

    @property
    def hash(self) -> bytes:
        """SHA-256 of the evidence; what a receipt and a reply refer to."""
        return hashlib.sha256(self.evidence).digest()

    @classmethod
    def from_evidence(cls, evidence: bytes) -> SignedMessage:
        """Split evidence into signature and inner bytes; neither is checked here."""
        return cls(evidence[:SIGNATURE_BYTES], evidence[SIGNATURE_BYTES:])

    def __repr__(self) -> str:
        return f"<SignedMessage {len(self.inner)} bytes>"


@dataclass(frozen=True, slots=True)
class Opened:
    """A sealed message that was opened, with everything about it verified."""

    signed: SignedMessage
    inner: Inner
    reply_key: bytes

    def __repr__(self) -> str:
        return f"<Opened {self.inner!r}>"


# --- Writing ----------------------------------------------------------------------------------


def compose(
    identity: IdentityKey,
    envelope: Envelope,
    *,
    purpose: str,
    content: msgspec.Struct,
    issued_at: int,
    expires_at: int,
    reply_key: bytes,
) -> SignedMessage:
    """Write and sign the inner JSON of a message.

    :param issued_at: and ``expires_at``: milliseconds since the epoch.
    :param reply_key: 32 random bytes, new for every message, the same on every retry of it.
    :raises MisuseError: if the reply key or the length is wrong.
    """
    if len(reply_key) != REPLY_KEY_BYTES:
        raise MisuseError("a reply key has 32 bytes")
    inner = msgspec.json.encode(
        Inner(
            version=limits.PROTOCOL_VERSION,
            purpose=purpose,
            id=envelope.id,
            re=envelope.re,
            sender=envelope.sender,
            sender_fingerprint=b64u(envelope.sender_fingerprint),
            recipient=envelope.recipient,
            recipient_fingerprint=b64u(envelope.recipient_fingerprint),
            issued_at=issued_at,
            expires_at=expires_at,
            reply_key_hash=b64u(hashlib.sha256(reply_key).digest()),
            content=msgspec.Raw(msgspec.json.encode(content)),
        )
    )
    if len(inner) > limits.INNER_BYTES_MAX:
        raise MisuseError(f"a message has at most {limits.INNER_BYTES_MAX} bytes")
    return SignedMessage(identity.sign(_MESSAGE_CONTEXT + inner), inner)


def seal_info(suite: Suite, envelope: Envelope, key_id: bytes) -> bytes:
    """Return HPKE's ``info``: everything that a sealed message is bound to."""
    return pae(
        "tw1 seal",
        suite.value,
        envelope.id,
        envelope.re,
        envelope.sender,
        envelope.sender_fingerprint,
        envelope.recipient,
        envelope.recipient_fingerprint,
        key_id,
    )


def seal(signed: SignedMessage, reply_key: bytes, envelope: Envelope, key: EncryptionKey) -> bytes:
    """Return the body of a message: suite (1), key id (8), HPKE ciphertext.

    Sealing the same signed message twice gives different bodies of the same message.
    """
    plaintext = signed.signature + reply_key + _pad(signed.inner, SIGNATURE_BYTES + REPLY_KEY_BYTES)
    info = seal_info(key.suite, envelope, key.key_id)
    ciphertext = key.suite.hpke.encrypt(plaintext, key.hpke_key(), info)
    return bytes((key.suite.value,)) + key.key_id + ciphertext


def _pad(content: bytes, already: int = 0) -> bytes:
    """Return length (4, big-endian), content, zeros up to a multiple of 256 with ``already``."""
    length = already + _LENGTH_BYTES + len(content)
    return struct.pack(">I", len(content)) + content + bytes(-length % limits.SEAL_PADDING_BYTES)


def _unpad(padded: bytes, already: int = 0) -> bytes:
    """Return what :func:`_pad` was given; any other padding than its own is refused."""
    if len(padded) < _LENGTH_BYTES:
        raise ValueError("too short")
    (length,) = struct.unpack(">I", padded[:_LENGTH_BYTES])
    content = padded[_LENGTH_BYTES : _LENGTH_BYTES + length]
    if len(content) != length or _pad(content, already) != padded:
        raise ValueError("the padding is wrong")
    return content


# --- Reading ----------------------------------------------------------------------------------


def sealed_to(body: bytes) -> tuple[Suite, bytes]:
    """Return suite and key id of a sealed body, the cheapest checks first.

    :raises EndToEndError: ``not_authentic`` for a length or a suite that can't be.
    """
    if not 1 + KEY_ID_BYTES < len(body) <= limits.BODY_BYTES_MAX:
        raise EndToEndError(Code.NOT_AUTHENTIC, "the length is impossible")
    try:
        suite = Suite(body[0])
    except ValueError as error:
        raise EndToEndError(Code.NOT_AUTHENTIC, "the suite is not known") from error
    return suite, body[1 : 1 + KEY_ID_BYTES]


def held_key(body: bytes, prekeys: Iterable[Prekey]) -> Prekey:
    """Return which of the recipient's own prekeys a body is sealed to; whose body it is is open.

    :raises EndToEndError: ``not_authentic`` as :func:`sealed_to`, ``unknown_key_id``.
    """
    suite, key_id = sealed_to(body)
    for prekey in prekeys:
        if prekey.public.suite is suite and prekey.public.key_id == key_id:
            return prekey
    raise EndToEndError(Code.UNKNOWN_KEY_ID, "sealed to a key that is not held any more")


def open_sealed(
    body: bytes,
    envelope: Envelope,
    *,
    prekeys: Iterable[Prekey],
    sender_identity: bytes,
    sender_suites: Iterable[Suite],
    now: int | None,
) -> Opened:
    """Open a sealed message and check everything about it but what it asks for.

    :param envelope: as the recipient sees it: the sender that the relay named, with the fingerprint
        under which the recipient knows that sender.
    :param prekeys: the recipient's own.
    :param sender_suites: what the sender's known bundle offers; a message in a worse suite than the
        best that both sides offer is refused.
    :param now: milliseconds since the epoch, or None to leave the times to the caller
        (:func:`check_times`), as the bank does, whose recorded orders are answered for ever.
    :raises EndToEndError: ``unknown_key_id``, ``downgrade_refused``, ``not_authentic`` for all that
        fails up to the signature, ``bad_message``, ``message_expired``, ``clock_skew``.
    """
    held = tuple(prekeys)
    own = held_key(body, held)
    suite = own.public.suite
    signed, reply_key = _open(body, suite, own, envelope)
    if not verify(sender_identity, signed.signature, _MESSAGE_CONTEXT + signed.inner):
        raise EndToEndError(Code.NOT_AUTHENTIC)
    # Told only now: before the signature, a stranger could learn who offers what.
    best = best_common_suite(sender_suites, {prekey.public.suite for prekey in held})
    if best is not None and suite > best:
        raise EndToEndError(Code.DOWNGRADE_REFUSED, f"both sides offer suite {best.value}")
    inner = _read_inner(signed.inner)
    _check_agreement(inner, envelope, reply_key)
    if now is not None:
        check_times(inner, now)
    return Opened(signed, inner, reply_key)


def _open(
    body: bytes, suite: Suite, prekey: Prekey, envelope: Envelope
) -> tuple[SignedMessage, bytes]:
    info = seal_info(suite, envelope, prekey.public.key_id)
    try:
        plaintext = suite.hpke.decrypt(body[1 + KEY_ID_BYTES :], prekey.hpke_key, info)
        front = SIGNATURE_BYTES + REPLY_KEY_BYTES
        inner = _unpad(plaintext[front:], front)
    except (InvalidTag, ValueError) as error:
        raise EndToEndError(Code.NOT_AUTHENTIC) from error
    return SignedMessage(plaintext[:SIGNATURE_BYTES], inner), plaintext[SIGNATURE_BYTES:front]


def _read_inner(raw: bytes) -> Inner:
    if len(raw) > limits.INNER_BYTES_MAX:
        raise EndToEndError(Code.BAD_MESSAGE, "the message is too long")
    try:
        inner = decode_strict(raw, Inner)
    except ValueError as error:
        raise EndToEndError(Code.BAD_MESSAGE, str(error)) from error
    if inner.version != limits.PROTOCOL_VERSION:
        raise EndToEndError(Code.BAD_MESSAGE, f"message version {inner.version} is not known")
    lifetime = inner.expires_at - inner.issued_at
    if not 0 < lifetime <= limits.MESSAGE_LIFETIME_MS_MAX:
        raise EndToEndError(Code.BAD_MESSAGE, "it expires before it was issued, or too late")
    return inner


def _check_agreement(inner: Inner, envelope: Envelope, reply_key: bytes) -> None:
    claims = {
        "id": (inner.id, envelope.id),
        "re": (inner.re, envelope.re),
        "from": (inner.sender, envelope.sender),
        "from_fingerprint": (inner.sender_fingerprint, b64u(envelope.sender_fingerprint)),
        "to": (inner.recipient, envelope.recipient),
        "to_fingerprint": (inner.recipient_fingerprint, b64u(envelope.recipient_fingerprint)),
        "reply_key_hash": (inner.reply_key_hash, b64u(hashlib.sha256(reply_key).digest())),
    }
    for name, (inside, outside) in claims.items():
        if inside != outside:
            raise EndToEndError(Code.BAD_MESSAGE, f"{name} inside and outside differ")


def check_times(inner: Inner, now: int) -> None:
    """Check when a message was issued and expires, with 60 seconds of tolerance ahead.

    :param now: milliseconds since the epoch.
    :raises EndToEndError: ``clock_skew`` or ``message_expired``.
    """
    if inner.issued_at > now + limits.CLOCK_TOLERANCE_MS:
        raise EndToEndError(Code.CLOCK_SKEW, "issued in the future; check both clocks")
    if inner.expires_at <= now:
        raise EndToEndError(Code.MESSAGE_EXPIRED, "the message has expired")


def verify_evidence(evidence: bytes, identity_key: bytes) -> Inner:
    """Check stored evidence again, years later and offline; return what was signed.

    :raises EndToEndError: ``not_authentic`` or ``bad_message``.
    """
    signed = SignedMessage.from_evidence(evidence)
    if not verify(identity_key, signed.signature, _MESSAGE_CONTEXT + signed.inner):
        raise EndToEndError(Code.NOT_AUTHENTIC, "the evidence is not signed by this key")
    return _read_inner(signed.inner)


# --- Replies ----------------------------------------------------------------------------------


class UnsealedRefusalError(TellerwireError):
    """The other side says that it could not open the request.

    Nothing vouches for it: a client may fetch keys again and resend the same signed bytes, and
    never takes an order for ended because of it.
    """

    def __init__(self, code: Code) -> None:
        super().__init__(code.value)
        self.code = code


class _Refusal(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    code: Code


def refusal_body(code: Code) -> bytes:
    """Return the body of a reply to a request that could not be opened: 0x00, then JSON."""
    return bytes((_REFUSAL,)) + msgspec.json.encode(_Refusal(code))


def _reply_cipher(reply_key: bytes, request_hash: bytes, nonce: bytes) -> tuple[AESGCM, bytes]:
    salt = nonce + request_hash
    derived = HKDF(SHA256(), length=44, salt=salt, info=b"tw1 reply").derive(reply_key)
    return AESGCM(derived[:32]), derived[32:]


def seal_reply(reply_key: bytes, request_hash: bytes, answer: bytes, nonce: bytes) -> bytes:
    """Return the body of a reply: 0x01, nonce (16), AES-256-GCM of the padded answer.

    :param request_hash: the hash of the signed message that is answered.
    :param nonce: 16 random bytes; two workers may answer one retried request.
    :raises MisuseError: if the nonce or the length of the answer is wrong.
    """
    if len(nonce) != REPLY_NONCE_BYTES:
        raise MisuseError("a reply's nonce has 16 bytes")
    if len(answer) > limits.INNER_BYTES_MAX:
        raise MisuseError(f"an answer has at most {limits.INNER_BYTES_MAX} bytes")
    cipher, iv = _reply_cipher(reply_key, request_hash, nonce)
    return bytes((_KEYED,)) + nonce + cipher.encrypt(iv, _pad(answer), None)


def open_reply(body: bytes, reply_key: bytes, request_hash: bytes) -> bytes:
    """Return the answer inside a reply.

    :raises UnsealedRefusalError: the other side could not open the request, or somebody claims so.
    :raises EndToEndError: ``not_authentic``.
    """
    if body[:1] == bytes((_REFUSAL,)):
        raise UnsealedRefusalError(_read_refusal(body[1:]))
    if body[:1] != bytes((_KEYED,)) or len(body) < 1 + REPLY_NONCE_BYTES + _TAG_BYTES:
        raise EndToEndError(Code.NOT_AUTHENTIC)
    nonce = body[1 : 1 + REPLY_NONCE_BYTES]
    cipher, iv = _reply_cipher(reply_key, request_hash, nonce)
    try:
        return _unpad(cipher.decrypt(iv, body[1 + REPLY_NONCE_BYTES :], None))
    except (InvalidTag, ValueError) as error:
        raise EndToEndError(Code.NOT_AUTHENTIC) from error


def _read_refusal(raw: bytes) -> Code:
    try:
        return decode_strict(raw, _Refusal).code
    except ValueError as error:
        raise EndToEndError(Code.NOT_AUTHENTIC) from error
