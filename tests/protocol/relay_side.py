"""Connections of the relay in every phase, and frames for them: what its tests start from."""

from __future__ import annotations

from typing import Any

from protocol import limits
from protocol.bundles import Bundle, make_bundle, open_bundle
from protocol.encoding import b64u
from protocol.errors import RETRY, Code
from protocol.frames import (
    Challenge,
    Deliver,
    Drain,
    Error,
    Kind,
    Limits,
    Register,
    Role,
    Send,
    encode,
)
from protocol.identifiers import uuid7
from protocol.keys import IdentityKey, Prekey, Suite
from protocol.registration import make_proof
from protocol.relay_events import (
    ConnectionBounds,
    RegistrationRequested,
)
from protocol.relay_protocol import Phase, RelayConnection

NOW = 1_800_000_000_000
DAY_MS = 86_400_000
RELAY = "relay.example"
NONCE = bytes(range(32))
CLIENT_NONCE = bytes(range(32, 64))
BODY = b64u(b"sealed")
ADA = IdentityKey(b"\x01" * 32)
BOUNDS = ConnectionBounds(
    in_flight_max=3,
    in_flight_bytes_max=100,
    sends_per_second=10,
    sends_burst=5,
    bad_frames_max=3,
)
TERMS = Limits(
    frame_bytes_max=limits.FRAME_BYTES_MAX,
    body_bytes_max=limits.BODY_BYTES_MAX,
    ttl_ms_max=limits.TTL_MS_MAX,
    in_flight_max=3,
    sends_per_second=10,
    mailbox_messages_max=1_000,
    idle_seconds_max=60,
)

Connection = RelayConnection[str]


def message_id(number: int) -> str:
    return uuid7(NOW, number.to_bytes(10, "big"))


def bundle_of(client_id: str, key: IdentityKey = ADA, generation: int = 1) -> Bundle:
    return open_bundle(
        make_bundle(
            key,
            client_id=client_id,
            first_name="Ada",
            last_name="Test",
            generation=generation,
            encryption_keys=[Prekey(Suite.CLASSIC, bytes([generation]) * 32, NOW).public],
            valid_from=NOW - DAY_MS,
            valid_to=NOW + DAY_MS,
        )
    )


BUNDLE = bundle_of("ada")


def registration(**changes: Any) -> Register:
    proof = make_proof(
        ADA,
        BUNDLE,
        relay_name=RELAY,
        relay_nonce=NONCE,
        client_nonce=CLIENT_NONCE,
        role=Role.PERSON.value,
    )
    members: dict[str, Any] = {
        "id": BUNDLE.id,
        "bundle": BUNDLE.signed,
        "nonce": b64u(CLIENT_NONCE),
        "version": limits.PROTOCOL_VERSION,
        "role": Role.PERSON,
        "proof": b64u(proof),
        **changes,
    }
    return Register(**members)


def send(number: int = 1) -> Send:
    return Send(id=message_id(number), to="ben", kind=Kind.REQUEST, ttl_ms=1_000, body=BODY)


def deliver(number: int = 1, sender: str = "ben", body: str = BODY) -> Deliver:
    return Deliver(
        id=message_id(number),
        sender=sender,
        kind=Kind.REQUEST,
        attempt=1,
        accepted_at=NOW,
        body=body,
    )


def challenged() -> Connection:
    connection: Connection = RelayConnection(relay_name=RELAY, nonce=NONCE, bounds=BOUNDS)
    connection.challenge(NOW)
    assert connection.frames_to_send() == [
        Challenge(relay=RELAY, nonce=b64u(NONCE), time=NOW, versions=[1])
    ]
    return connection


def registering() -> Connection:
    connection = challenged()
    event = connection.receive(encode(registration()), NOW)
    assert isinstance(event, RegistrationRequested)
    return connection


def registered() -> Connection:
    connection = registering()
    connection.accept(connection=message_id(0), bounds=BOUNDS, terms=TERMS, waiting=0, now=NOW)
    connection.frames_to_send()
    return connection


def draining() -> Connection:
    connection = registered()
    connection.drain(500)
    assert connection.frames_to_send() == [Drain(reconnect_after_ms=500)]
    return connection


def closed() -> Connection:
    connection = registered()
    connection.fail(Code.REVOKED)
    connection.frames_to_send()
    return connection


IN_PHASE = {
    Phase.CHALLENGED: challenged,
    Phase.REGISTERING: registering,
    Phase.REGISTERED: registered,
    Phase.DRAINING: draining,
    Phase.CLOSED: closed,
}


def only_error(connection: Connection) -> Error:
    (frame,) = connection.frames_to_send()
    assert isinstance(frame, Error)
    assert frame.retry is RETRY[frame.code]
    return frame


def phase_of(connection: Connection) -> Phase:
    """Return the phase; a type checker would take it for what it was before."""
    return connection.phase
