"""The clients that the tests of the protocol play with; keys from fixed seeds."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable

from protocol.banking import ORDER_PURPOSE, Transfer
from protocol.errors import Code, ProtocolError
from protocol.keyfile import KeyFile, new_key_file
from protocol.keys import Suite
from protocol.sealing import Envelope, Opened, SignedMessage, compose, open_sealed, seal

NOW = 1_790_000_000_000
DAY = 86_400_000
MESSAGE_ID = "01a0d0a3-1c00-7000-8000-000000000001"
OTHER_ID = "01a0d0a3-1c00-7000-8000-00000000000f"
REPLY_KEY = hashlib.sha256(b"reply key").digest()
ORDER = Transfer("account1", "account2", "100", memo="secret memo")


def fixed_bytes(label: str) -> Callable[[int], bytes]:
    """Return a source of bytes that is always the same for a label."""
    drawn = iter(range(1_000_000))

    def draw(length: int) -> bytes:
        return hashlib.shake_256(f"{label} {next(drawn)}".encode()).digest(length)

    return draw


@functools.cache
def client(client_id: str, *suites: Suite) -> KeyFile:
    """Return the key file of a client with these suites, or with both."""
    return new_key_file(
        client_id,
        "Demo",
        client_id.capitalize(),
        now=NOW - DAY,
        random_bytes=fixed_bytes(client_id),
        suites=suites or (Suite.HYBRID, Suite.CLASSIC),
    )


def ada() -> KeyFile:
    return client("ada")


def bank() -> KeyFile:
    return client("bank")


def mallory() -> KeyFile:
    return client("mallory")


def envelope() -> Envelope:
    """Return what both sides know of a message from Ada to the bank."""
    return Envelope(MESSAGE_ID, None, "ada", ada().fingerprint, "bank", bank().fingerprint)


def signed_order() -> SignedMessage:
    return compose(
        ada().identity,
        envelope(),
        purpose=ORDER_PURPOSE,
        content=ORDER,
        issued_at=NOW,
        expires_at=NOW + DAY,
        reply_key=REPLY_KEY,
    )


def seal_to_bank(signed: SignedMessage, suite: Suite = Suite.HYBRID) -> bytes:
    return seal(signed, REPLY_KEY, envelope(), bank().bundle.encryption_key(suite))


def open_at_bank(
    body: bytes, outside: Envelope | None = None, sender: KeyFile | None = None, now: int = NOW
) -> Opened:
    """Open a body as the bank does that takes it for a message of ``sender``, Ada by default."""
    known = sender or ada()
    return open_sealed(
        body,
        outside or envelope(),
        prekeys=bank().prekeys,
        sender_identity=known.identity.public,
        sender_suites=known.bundle.suites,
        now=now,
    )


def refusal(action: Callable[[], object]) -> Code | None:
    """Return the code of the named error that comes out, or None; any other error passes."""
    try:
        action()
    except ProtocolError as error:
        return error.code
    return None
