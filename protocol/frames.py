"""Frames between a client and the relay, and the one place that reads and writes their JSON.

Every frame is one WebSocket text message: a JSON object with a ``type``. The codec refuses
unknown types and members, wrong types and values out of bounds with ``bad_frame``, and what is too
long with ``frame_too_large``; nothing else ever comes out of it. A ``repr`` shows no body.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Final, TypeVar

import msgspec

from protocol import limits
from protocol.bundles import SignedBundle
from protocol.encoding import unb64u
from protocol.errors import Code, RelayError, Retry
from protocol.identifiers import ClientId, Milliseconds, UuidText

__all__ = [
    "Ack",
    "Challenge",
    "ClientFrame",
    "Deliver",
    "Drain",
    "Error",
    "Found",
    "Kind",
    "Limits",
    "Lookup",
    "Publish",
    "Published",
    "Register",
    "RelayFrame",
    "Role",
    "Send",
    "State",
    "Status",
    "Welcome",
    "decode_client_frame",
    "decode_nonce",
    "decode_relay_frame",
    "encode",
]

T = TypeVar("T")

Body = Annotated[str, msgspec.Meta(min_length=1, max_length=limits.BODY_CHARS_MAX)]
Nonce = Annotated[str, msgspec.Meta(min_length=43, max_length=43)]
Signature = Annotated[str, msgspec.Meta(min_length=86, max_length=86)]
QueryText = Annotated[str, msgspec.Meta(min_length=1, max_length=limits.QUERY_CHARS_MAX)]
Detail = Annotated[str, msgspec.Meta(max_length=limits.DETAIL_CHARS_MAX)]
RelayName = Annotated[str, msgspec.Meta(min_length=1, max_length=limits.RELAY_NAME_CHARS_MAX)]


class Role(StrEnum):
    """How the relay spreads messages over several connections of one client."""

    PERSON = "person"
    """Each message goes to every connection."""
    SERVICE = "service"
    """Each message goes to one connection, the least busy one."""


class Kind(StrEnum):
    """What a message is to its sender."""

    REQUEST = "request"
    REPLY = "reply"
    NOTICE = "notice"


class State(StrEnum):
    """What became of a message, as far as the relay can know."""

    QUEUED = "queued"
    """Stored in the recipient's mailbox; it survives a restart of the relay."""
    DELIVERED = "delivered"
    """The recipient acknowledged that it has it safely."""
    EXPIRED = "expired"
    """Its time to live ended before it was delivered."""
    FAILED = "failed"
    """It was not, and will not be, delivered; the code says why."""


class _Frame(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type"):
    pass


class Challenge(_Frame, frozen=True, tag="challenge"):
    """The relay's first word on a connection."""

    relay: RelayName
    nonce: Nonce
    time: Milliseconds
    versions: Annotated[list[int], msgspec.Meta(min_length=1, max_length=16)]


class Register(_Frame, frozen=True, tag="register"):
    """A client says who it is and proves it."""

    id: ClientId
    bundle: SignedBundle
    nonce: Nonce
    version: int
    role: Role
    proof: Signature


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The bounds in force on this connection."""

    frame_bytes_max: int
    body_bytes_max: int
    ttl_ms_max: int
    in_flight_max: int
    """How many delivered messages may wait for this client's `ack`."""
    sends_per_second: int
    mailbox_messages_max: int
    idle_seconds_max: int


class Welcome(_Frame, frozen=True, tag="welcome"):
    """The client is registered."""

    connection: UuidText
    limits: Limits
    waiting: int
    """How many messages wait in the mailbox; they follow, oldest first."""
    time: Milliseconds


class Send(_Frame, frozen=True, tag="send"):
    """A message for another client."""

    id: UuidText
    to: ClientId
    kind: Kind
    ttl_ms: Annotated[int, msgspec.Meta(ge=0, le=limits.TTL_MS_MAX)]
    """How long it may wait for its recipient; 0 means now or not at all."""
    body: Body
    re: UuidText | None = None
    """For a reply: the id of the request that it answers."""

    def __repr__(self) -> str:
        return f"<Send {self.kind.value} {self.id} to {self.to}: {len(self.body)} characters>"


class Deliver(_Frame, frozen=True, tag="deliver"):
    """A message from another client; ``sender`` is the id that the relay authenticated."""

    id: UuidText
    sender: ClientId = msgspec.field(name="from")
    kind: Kind
    attempt: Annotated[int, msgspec.Meta(ge=1)]
    accepted_at: Milliseconds
    body: Body
    re: UuidText | None = None

    def __repr__(self) -> str:
        return f"<Deliver {self.kind.value} {self.id} from {self.sender}: {len(self.body)} chars>"


class Ack(_Frame, frozen=True, tag="ack"):
    """The client has a delivered message, or a status, safely."""

    id: UuidText
    sender: ClientId | None = msgspec.field(name="from", default=None)
    """Who sent the message; None acknowledges the status of one's own message."""


class Status(_Frame, frozen=True, tag="status"):
    """What became of a message that this client sent."""

    id: UuidText
    to: ClientId
    state: State
    code: Code | None = None


class Lookup(_Frame, frozen=True, tag="lookup"):
    """Ask for bundles by id or, with a comma in it, by name."""

    id: UuidText
    query: QueryText


class Found(_Frame, frozen=True, tag="found"):
    """The bundles that match a look-up; several where a name is not unique."""

    id: UuidText
    query: QueryText
    bundles: Annotated[list[SignedBundle], msgspec.Meta(max_length=limits.CANDIDATES_MAX)]


class Publish(_Frame, frozen=True, tag="publish"):
    """Replace the client's own bundle by one with a higher generation."""

    id: UuidText
    bundle: SignedBundle


class Published(_Frame, frozen=True, tag="published"):
    """The relay keeps the new bundle."""

    id: UuidText
    generation: int


class Error(_Frame, frozen=True, tag="error"):
    """Something was refused; ``id`` names the frame that it answers, where there is one."""

    code: Code
    retry: Retry
    retry_after_ms: Milliseconds | None = None
    id: UuidText | None = None
    detail: Detail = ""
    candidates: Annotated[list[ClientId], msgspec.Meta(max_length=limits.CANDIDATES_MAX)] = []


class Drain(_Frame, frozen=True, tag="drain"):
    """The server goes away: come back after this long."""

    reconnect_after_ms: Milliseconds


ClientFrame = Register | Send | Ack | Lookup | Publish
"""What a client may send."""
RelayFrame = Challenge | Welcome | Deliver | Status | Found | Published | Error | Drain
"""What the relay may send."""

_ALPHABET: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
_LETTERS: Final = _ALPHABET.encode("ascii")
_LAST_LETTERS: Final = (_ALPHABET, "", _ALPHABET[::16], _ALPHABET[::4])
"""With what canonical base64url may end, by the remainder of its length divided by 4: a rest of one
letter encodes nothing, and the unused bits of the last of two or three are zero."""

_encoder: Final = msgspec.json.Encoder()
_client_decoder: Final[msgspec.json.Decoder[ClientFrame]] = msgspec.json.Decoder(ClientFrame)
_relay_decoder: Final[msgspec.json.Decoder[RelayFrame]] = msgspec.json.Decoder(RelayFrame)


def encode(frame: ClientFrame | RelayFrame) -> str:
    """Return the JSON text of a frame."""
    return _encoder.encode(frame).decode("utf-8")


def decode_client_frame(text: str | bytes) -> ClientFrame:
    """Return the frame that a client sent.

    :raises RelayError: ``bad_frame`` or ``frame_too_large``; never anything else.
    """
    frame = _decode(text, _client_decoder)
    if isinstance(frame, Send):
        _check_send(frame)
    return frame


def decode_relay_frame(text: str | bytes) -> RelayFrame:
    """Return the frame that the relay sent.

    :raises RelayError: ``bad_frame`` or ``frame_too_large``; never anything else.
    """
    frame = _decode(text, _relay_decoder)
    if isinstance(frame, Deliver):
        _check_alphabet(frame.body)
    return frame


def decode_nonce(text: str) -> bytes:
    """Return the 32 bytes of a nonce.

    :raises RelayError: ``bad_frame``.
    """
    try:
        nonce = unb64u(text)
    except ValueError as error:
        raise RelayError(Code.BAD_FRAME, f"nonce: {error}") from error
    if len(nonce) != limits.NONCE_BYTES:
        raise RelayError(Code.BAD_FRAME, "a nonce has 32 bytes")
    return nonce


def _decode(text: str | bytes, decoder: msgspec.json.Decoder[T]) -> T:
    # Every character is at least a byte, so this refuses oversized text without encoding it.
    if len(text) > limits.FRAME_BYTES_MAX:
        raise RelayError(Code.FRAME_TOO_LARGE, f"more than {limits.FRAME_BYTES_MAX} bytes")
    try:
        raw = text.encode("utf-8") if isinstance(text, str) else text
        if len(raw) > limits.FRAME_BYTES_MAX:
            raise RelayError(Code.FRAME_TOO_LARGE, f"more than {limits.FRAME_BYTES_MAX} bytes")
        return decoder.decode(raw)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        detail = str(error)[: limits.DETAIL_CHARS_MAX]
        raise RelayError(Code.BAD_FRAME, detail or "not a frame") from error


def _check_send(frame: Send) -> None:
    if (frame.re is not None) != (frame.kind is Kind.REPLY):
        raise RelayError(Code.BAD_FRAME, "`re` belongs to a reply, and only to a reply")
    _check_alphabet(frame.body)
    if frame.body[-1] not in _LAST_LETTERS[len(frame.body) % 4]:
        raise RelayError(Code.BAD_FRAME, "`body` is not canonical base64url")


def _check_alphabet(body: str) -> None:
    # A pattern of the decoder's would take five times as long as all else that is read.
    if not body.isascii() or body.encode("ascii").translate(None, _LETTERS):
        raise RelayError(Code.BAD_FRAME, "`body` is not base64url")
