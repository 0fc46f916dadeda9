"""Vectors of sealed messages and keyed replies, with every value in between."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Any

from tests.vectors.cast import ADA, BANK, BEN, CLASSIC, DAY, HYBRID, MALLORY, NOW, Client
from tests.vectors.primitives import (
    DHKEM_X25519,
    X_WING,
    b64u,
    compact,
    dhkem_derive_private,
    dhkem_encapsulate,
    gcm,
    hkdf_expand,
    hkdf_extract,
    key_schedule,
    ml_kem_768,
    pae,
    seed,
    sign,
    x25519,
    x_wing_encapsulate,
)

CONTEXT = b"tw1 message\0"
ORDER_CONTENT = {
    "operation": "transfer",
    "from_account": "account1",
    "to_account": "account2",
    "amount": "100",
    "currency": "TWC",
    "value_date": None,
    "memo": "für Ada",
}


@dataclass(frozen=True)
class Message:
    """A message to the bank, from which each step of sealing it can be done differently."""

    sender: Client
    suite: int
    id: str
    reply_key: bytes
    content: dict[str, Any]
    purpose: str = "bank.order"
    recipient: Client = BANK
    re: str | None = None

    def members(self, **changes: Any) -> dict[str, Any]:
        """Return the members of the inner JSON, with some of them changed."""
        return {
            "version": 1,
            "purpose": self.purpose,
            "id": self.id,
            "re": self.re,
            "from": self.sender.id,
            "from_fingerprint": b64u(self.sender.fingerprint),
            "to": self.recipient.id,
            "to_fingerprint": b64u(self.recipient.fingerprint),
            "issued_at": NOW,
            "expires_at": NOW + DAY,
            "reply_key_hash": b64u(hashlib.sha256(self.reply_key).digest()),
            "content": self.content,
        } | changes

    def inner(self, **changes: Any) -> bytes:
        return compact(self.members(**changes))

    def signature(self, inner: bytes) -> bytes:
        return sign(self.sender.identity_seed, CONTEXT + inner)

    def info(self) -> bytes:
        return pae(
            "tw1 seal",
            self.suite,
            self.id,
            self.re,
            self.sender.id,
            self.sender.fingerprint,
            self.recipient.id,
            self.recipient.fingerprint,
            self.recipient.prekey(self.suite).key_id,
        )

    def open_with(self, body: bytes) -> dict[str, Any]:
        """Return what the recipient opens a body with."""
        return {
            "body": body.hex(),
            "envelope": {
                "id": self.id,
                "re": self.re,
                "from": self.sender.id,
                "from_fingerprint": self.sender.fingerprint.hex(),
                "to": self.recipient.id,
                "to_fingerprint": self.recipient.fingerprint.hex(),
            },
            "prekeys": [
                {"suite": pair.suite, "secret": pair.secret.hex()}
                for pair in self.recipient.prekeys
            ],
            "sender_identity": self.sender.identity.hex(),
            "sender_suites": self.sender.suites,
            "now": NOW + 1_000,
        }


def padded(content: bytes, already: int) -> bytes:
    total = already + 4 + len(content)
    return len(content).to_bytes(4, "big") + content + bytes(-total % 256)


def plaintext_of(signature: bytes, reply_key: bytes, inner: bytes) -> bytes:
    return signature + reply_key + padded(inner, 96)


def encapsulate(message: Message, randomness: bytes) -> tuple[bytes, bytes, bytes]:
    """Return (ephemeral randomness as used, shared secret, encapsulated key)."""
    public = message.recipient.prekey(message.suite).public
    if message.suite == HYBRID:
        return (randomness, *x_wing_encapsulate(public, randomness))
    ephemeral = dhkem_derive_private(randomness)
    return (ephemeral, *dhkem_encapsulate(public, ephemeral))


def agreed(message: Message, ephemeral: bytes) -> dict[str, str]:
    """Return what the shared secret is made of: the results of X25519 and, in suite 1, ML-KEM."""
    public = message.recipient.prekey(message.suite).public
    if message.suite == CLASSIC:
        return {"dh": x25519(ephemeral, public).hex()}
    ml_kem_secret, _ = ml_kem_768(ephemeral[:32]).encaps(public[:1184])
    dh = x25519(ephemeral[32:], public[1184:])
    return {"ml_kem_secret": ml_kem_secret.hex(), "dh": dh.hex()}


def seal(message: Message, plaintext: bytes, label: str) -> bytes:
    _, shared, encapsulated = encapsulate(message, seed(label, 64))
    kem = X_WING if message.suite == HYBRID else DHKEM_X25519
    schedule = key_schedule(kem, shared, message.info())
    key_id = message.recipient.prekey(message.suite).key_id
    ciphertext = gcm(schedule.key, schedule.base_nonce, plaintext)
    return bytes((message.suite,)) + key_id + encapsulated + ciphertext


HYBRID_ORDER = Message(
    ADA, HYBRID, "01a0d0a3-1c00-7000-8000-000000000001", seed("reply key 1"), ORDER_CONTENT
)
CLASSIC_ORDER = Message(
    BEN, CLASSIC, "01a0d0a3-1c00-7000-8000-000000000002", seed("reply key 2"), ORDER_CONTENT
)
TEXT = Message(
    ADA,
    CLASSIC,
    "01a0d0a3-1c00-7000-8000-000000000003",
    seed("reply key 3"),
    {"text": "Grüße, Ben!"},
    "person.message",
    BEN,
)


def described(name: str, message: Message) -> dict[str, Any]:
    """Return a message with all its intermediate values."""
    inner = message.inner()
    signature = message.signature(inner)
    plaintext = plaintext_of(signature, message.reply_key, inner)
    randomness = seed(name, 64)
    ephemeral, shared, encapsulated = encapsulate(message, randomness)
    kem = X_WING if message.suite == HYBRID else DHKEM_X25519
    schedule = key_schedule(kem, shared, message.info())
    body = seal(message, plaintext, name)
    return {
        "name": name,
        "suite": message.suite,
        "sender_identity_seed": message.sender.identity_seed.hex(),
        "reply_key": message.reply_key.hex(),
        "inner": inner.decode("utf-8"),
        "signed_bytes": (CONTEXT + inner).hex(),
        "signature": signature.hex(),
        "evidence_hash": hashlib.sha256(signature + inner).hexdigest(),
        "plaintext": plaintext.hex(),
        "recipient_public": message.recipient.prekey(message.suite).public.hex(),
        "key_id": message.recipient.prekey(message.suite).key_id.hex(),
        "info": message.info().hex(),
        "ephemeral": ephemeral.hex(),
        "enc": encapsulated.hex(),
        **agreed(message, ephemeral),
        "shared_secret": shared.hex(),
        "key_schedule_context": schedule.context.hex(),
        "key_schedule_secret": schedule.secret.hex(),
        "key": schedule.key.hex(),
        "nonce": schedule.base_nonce.hex(),
        "ciphertext": gcm(schedule.key, schedule.base_nonce, plaintext).hex(),
        "open": message.open_with(body),
    }


def sealed() -> dict[str, Any]:
    cases = [
        described("suite 1", HYBRID_ORDER),
        described("suite 2", CLASSIC_ORDER),
        described("between persons", TEXT),
    ]
    return {"accepted": cases, "refused": _refused(CLASSIC_ORDER, cases[1])}


def _refused(message: Message, case: dict[str, Any]) -> list[dict[str, Any]]:
    """Return changes to what ``case`` is opened with, each with the code that they end in."""
    good = bytes.fromhex(case["open"]["body"])
    return [
        *_refused_bodies(message, good),
        *_refused_envelopes(),
        *_refused_inners(message),
        *_refused_by_context(message),
    ]


def _change(name: str, code: str, **changes: Any) -> dict[str, Any]:
    return {"name": name, "of": "suite 2", "with": changes, "code": code}


def _refused_bodies(message: Message, good: bytes) -> list[dict[str, Any]]:
    def flipped(position: int) -> str:
        changed = bytearray(good)
        changed[position] ^= 1
        return changed.hex()

    inner = message.inner()
    signature, reply_key = message.signature(inner), message.reply_key
    plaintext = plaintext_of(signature, reply_key, inner)
    unsigned = bytes(64)
    other = sign(MALLORY.identity_seed, CONTEXT + inner)
    bare = sign(message.sender.identity_seed, inner)
    long_length = signature + reply_key + b"\xff\xff\xff\xff" + inner

    def resealed(name: str, changed: bytes) -> dict[str, Any]:
        return _change(name, "not_authentic", body=seal(message, changed, name).hex())

    return [
        _change("the suite altered", "not_authentic", body=flipped(0)),
        _change("the key id altered", "unknown_key_id", body=flipped(8)),
        _change("the encapsulated key altered", "not_authentic", body=flipped(9)),
        _change("the first byte of the ciphertext altered", "not_authentic", body=flipped(41)),
        _change("the last byte of the tag altered", "not_authentic", body=flipped(len(good) - 1)),
        _change("cut off", "not_authentic", body=good[:-1].hex()),
        _change("something appended", "not_authentic", body=(good + b"\0").hex()),
        _change("empty", "not_authentic", body=""),
        _change("nothing after the key id", "not_authentic", body=good[:9].hex()),
        resealed("not signed", plaintext_of(unsigned, reply_key, inner)),
        resealed("signed by another", plaintext_of(other, reply_key, inner)),
        resealed("signed without the context", plaintext_of(bare, reply_key, inner)),
        resealed(
            "edited after it was signed",
            plaintext_of(signature, reply_key, inner.replace(b'"100"', b'"900"')),
        ),
        resealed("padded with other bytes than zero", plaintext[:-1] + b"\1"),
        resealed("padded too far", plaintext + bytes(256)),
        resealed("not padded", plaintext.rstrip(b"\0")),
        resealed("a length beyond the end", long_length + bytes(-len(long_length) % 256)),
        resealed("too short for its fixed part", plaintext[:99]),
    ]


def _refused_envelopes() -> list[dict[str, Any]]:
    changes = {
        "id": "01a0d0a3-1c00-7000-8000-00000000000f",
        "re": "01a0d0a3-1c00-7000-8000-00000000000f",
        "from": "mallory",
        "from_fingerprint": MALLORY.fingerprint.hex(),
        "to": "mallory",
        "to_fingerprint": MALLORY.fingerprint.hex(),
    }
    return [
        _change(f"outside: {member} altered", "not_authentic", envelope={member: value})
        for member, value in changes.items()
    ]


def _refused_inners(message: Message) -> list[dict[str, Any]]:
    other_id = "01a0d0a3-1c00-7000-8000-00000000000f"
    changes: list[tuple[str, Any]] = [
        ("version", 2),
        ("purpose", ""),
        ("id", other_id),
        ("re", other_id),
        ("from", "mallory"),
        ("from_fingerprint", b64u(MALLORY.fingerprint)),
        ("to", "mallory"),
        ("to_fingerprint", b64u(MALLORY.fingerprint)),
        ("issued_at", NOW + 2 * DAY),
        ("issued_at", NOW - 30 * DAY),
        ("issued_at", 1.5),
        ("expires_at", "never"),
        ("reply_key_hash", b64u(bytes(32))),
        ("extra", 1),
    ]
    refused = [
        _signed_anew(message, f"inside: {member} is {value!r}", message.inner(**{member: value}))
        for member, value in changes
    ]
    good = message.inner()
    return [
        *refused,
        _signed_anew(message, "inside: a member twice", good[:-1] + b',"version":1}'),
        _signed_anew(
            message,
            "inside: a member of the content twice",
            good.replace(b'"amount":"100"', b'"amount":"1","amount":"100"'),
        ),
        _signed_anew(message, "inside: no JSON", b"{"),
        _signed_anew(message, "inside: no content", _without_content(message)),
        _signed_anew(message, "inside: bytes that are not UTF-8", _not_utf8(good)),
        # White space is all that is too much about it.
        _signed_anew(message, "inside: 65537 bytes", good[:-1].ljust(65_536) + b"}"),
    ]


def _without_content(message: Message) -> bytes:
    members = message.members()
    del members["content"]
    return compact(members)


def _not_utf8(good: bytes) -> bytes:
    """Return the inner JSON with half a surrogate pair, encoded as if it were a character."""
    return good.replace("für".encode(), b"\xed\xa0\x80")


def _signed_anew(message: Message, name: str, inner: bytes) -> dict[str, Any]:
    plaintext = plaintext_of(message.signature(inner), message.reply_key, inner)
    return _change(name, "bad_message", body=seal(message, plaintext, name).hex())


def _refused_by_context(message: Message) -> list[dict[str, Any]]:
    other_prekey = {"suite": CLASSIC, "secret": seed("another prekey").hex()}
    downgraded = replace(message, sender=ADA)
    inner = downgraded.inner()
    plaintext = plaintext_of(downgraded.signature(inner), downgraded.reply_key, inner)
    body = seal(downgraded, plaintext, "downgraded")
    return [
        _change("expired", "message_expired", now=NOW + DAY),
        _change("issued in the future", "clock_skew", now=NOW - 60_001),
        _change("a prekey that is not held any more", "unknown_key_id", prekeys=[other_prekey]),
        _change("another sender's key", "not_authentic", sender_identity=MALLORY.identity.hex()),
        _change(
            "suite 2 where both offer suite 1",
            "downgrade_refused",
            **downgraded.open_with(body),
        ),
    ]


# --- Replies ------------------------------------------------------------------------------------


def reply() -> dict[str, Any]:
    inner = CLASSIC_ORDER.inner()
    request_hash = hashlib.sha256(CLASSIC_ORDER.signature(inner) + inner).digest()
    reply_key, nonce = CLASSIC_ORDER.reply_key, seed("reply nonce", 16)
    answer = compact({"version": 1, "re": CLASSIC_ORDER.id, "code": "busy", "retry": "same"})
    prk = hkdf_extract(nonce + request_hash, reply_key)
    derived = hkdf_expand(prk, b"tw1 reply", 44)
    plaintext = padded(answer, 0)

    def body(content: bytes) -> bytes:
        return b"\1" + nonce + gcm(derived[:32], derived[32:], content)

    good = body(plaintext)
    refusal = b'\0{"code":"unknown_key_id"}'
    return {
        "accepted": {
            "reply_key": reply_key.hex(),
            "request_hash": request_hash.hex(),
            "nonce": nonce.hex(),
            "salt": (nonce + request_hash).hex(),
            "prk": prk.hex(),
            "derived": derived.hex(),
            "key": derived[:32].hex(),
            "iv": derived[32:].hex(),
            "answer": answer.decode("utf-8"),
            "plaintext": plaintext.hex(),
            "body": good.hex(),
        },
        "unsealed_refusal": {"code": "unknown_key_id", "body": refusal.hex()},
        "refused": [
            {"name": name, "code": "not_authentic"} | change
            for name, change in _refused_replies(good, body, plaintext, answer).items()
        ],
    }


def _refused_replies(
    good: bytes, body: Any, plaintext: bytes, answer: bytes
) -> dict[str, dict[str, str]]:
    def flipped(position: int) -> dict[str, str]:
        changed = bytearray(good)
        changed[position] ^= 1
        return {"body": changed.hex()}

    too_long = (len(answer) + 1000).to_bytes(4, "big") + plaintext[4:]
    return {
        "the nonce altered": flipped(1),
        "the ciphertext altered": flipped(17),
        "the tag altered": flipped(len(good) - 1),
        "an unknown first byte": {"body": (b"\2" + good[1:]).hex()},
        "cut off": {"body": good[:-1].hex()},
        "empty": {"body": ""},
        "shorter than nonce and tag": {"body": good[:20].hex()},
        "under another reply key": {"reply_key": seed("another reply key").hex()},
        "to another request": {"request_hash": seed("another request").hex()},
        "padded with other bytes than zero": {"body": body(plaintext[:-1] + b"\1").hex()},
        "not padded": {"body": body(plaintext.rstrip(b"\0")).hex()},
        "a length beyond the end": {"body": body(too_long).hex()},
        "an unsealed refusal with an unknown code": {"body": b'\0{"code":"nonsense"}'.hex()},
        "an unsealed refusal with more in it": {"body": b'\0{"code":"busy","receipt":"x"}'.hex()},
        "an unsealed refusal that is not JSON": {"body": b"\0busy".hex()},
    }
