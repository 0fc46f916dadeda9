"""What the relay's processes tell each other, as MessagePack inside one channel-layer message."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from protocol.errors import Code
from protocol.frames import Kind, Role, State
from relay.messages import Message, MessageKey, RemoteOrigin

__all__ = [
    "MESSAGE_TYPE",
    "Ask",
    "Batch",
    "BusFrame",
    "Drained",
    "Forward",
    "Gone",
    "Held",
    "Hello",
    "Here",
    "MailStored",
    "Report",
    "Revoke",
    "Settled",
    "StatusKept",
    "decode",
    "encode",
]

MESSAGE_TYPE: Final = "relay.batch"


class _BusFrame(msgspec.Struct, frozen=True, array_like=True):
    pass


class Hello(_BusFrame, frozen=True, tag="hello"):
    """A process has started; its name and channel stand on every batch."""


class Gone(_BusFrame, frozen=True, tag="gone"):
    """A process ends: it has no connections any more."""


class Here(_BusFrame, frozen=True, tag="here"):
    """How many connections of a client the process has now."""

    client: str
    role: Role
    count: int


class Forward(_BusFrame, frozen=True, tag="forward"):
    """A message for a client of the other process."""

    id: str
    sender: str
    recipient: str
    kind: Kind
    re: str | None
    body: str
    accepted_at: int
    expires_at: int
    position: int
    attempt: int

    @classmethod
    def of(cls, message: Message) -> Forward:
        """Return the frame that carries a message."""
        return cls(
            message.id,
            message.sender,
            message.recipient,
            message.kind,
            message.re,
            message.body,
            message.accepted_at,
            message.expires_at,
            message.position,
            message.attempt,
        )

    @property
    def key(self) -> MessageKey:
        """What names the message."""
        return (self.recipient.lower(), self.sender.lower(), self.id)

    def message(self, worker: str) -> Message:
        """Return the message, as one that came from that process."""
        return Message(
            id=self.id,
            sender=self.sender,
            recipient=self.recipient,
            kind=self.kind,
            re=self.re,
            body=self.body,
            accepted_at=self.accepted_at,
            expires_at=self.expires_at,
            position=self.position,
            attempt=self.attempt,
            origin=RemoteOrigin(worker),
        )

    def __repr__(self) -> str:
        return f"<Forward {self.kind.value} {self.id} from {self.sender} to {self.recipient}>"


class Report(_BusFrame, frozen=True, tag="report"):
    """What became of a message that the other process forwarded."""

    key: MessageKey
    state: State
    code: Code | None


class Settled(_BusFrame, frozen=True, tag="settled"):
    """A message that was forwarded to several processes needs no delivery any more."""

    key: MessageKey


class MailStored(_BusFrame, frozen=True, tag="mail"):
    """There is mail for a client of the other process."""

    client: str


class StatusKept(_BusFrame, frozen=True, tag="status"):
    """A status waits for a client of the other process."""

    client: str


class Drained(_BusFrame, frozen=True, tag="drained"):
    """All mail of a client up to this row is handed out."""

    client: str
    through: int


class Ask(_BusFrame, frozen=True, tag="ask"):
    """Do you still have these messages?"""

    keys: list[MessageKey]


class Held(_BusFrame, frozen=True, tag="held"):
    """The answer to `ask`: what is on its way, and what this process knows nothing of."""

    held: list[MessageKey]
    unknown: list[MessageKey]


class Revoke(_BusFrame, frozen=True, tag="revoke"):
    """A client was blocked or released: its connections end."""

    client: str


BusFrame = (
    Hello
    | Gone
    | Here
    | Forward
    | Report
    | Settled
    | MailStored
    | StatusKept
    | Drained
    | Ask
    | Held
    | Revoke
)


class Batch(msgspec.Struct, frozen=True, array_like=True):
    """Frames of one process; ``channel`` is where it is reached."""

    worker: str
    channel: str
    frames: list[BusFrame]


_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final[msgspec.msgpack.Decoder[Batch]] = msgspec.msgpack.Decoder(Batch)


def encode(batch: Batch) -> dict[str, Any]:
    """Return the channel-layer message that carries a batch."""
    return {"type": MESSAGE_TYPE, "batch": _encoder.encode(batch)}


def decode(message: dict[str, Any]) -> Batch:
    """Return the batch in a channel-layer message.

    :raises ValueError: if there is none; a version before or after this one may speak otherwise.
    """
    raw = message.get("batch")
    if not isinstance(raw, bytes):
        raise ValueError("a message without a batch")
    try:
        return _decoder.decode(raw)
    except msgspec.DecodeError as error:
        raise ValueError(str(error)) from error
