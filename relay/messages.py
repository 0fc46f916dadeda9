"""A message on its way through this process, and what is told to its sender."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from protocol.errors import Code
from protocol.frames import Deliver, Kind, Send, State

__all__ = ["Ended", "Message", "MessageKey", "RemoteOrigin"]

MessageKey = tuple[str, str, str]
"""Recipient, sender (both in lower case) and message id."""


@dataclass(frozen=True, slots=True)
class RemoteOrigin:
    """The process that a forwarded message came from; it tells the sender what became of it."""

    worker: str


class Message:
    """One message, from the frame that brought it until it is acknowledged, stored or given up.

    It is held by every connection that it was delivered to; the first `ack` settles it. The body is
    sealed; a ``repr`` shows none of it.
    """

    __slots__ = (
        "accepted_at",
        "attempt",
        "body",
        "expires_at",
        "forwards",
        "holders",
        "id",
        "kind",
        "origin",
        "position",
        "re",
        "recipient",
        "recipient_key",
        "revision",
        "row",
        "sender",
        "sender_key",
        "settled",
    )

    def __init__(
        self,
        *,
        id: str,  # noqa: A002 - the name that it has on the wire
        sender: str,
        recipient: str,
        kind: Kind,
        re: str | None,
        body: str,
        accepted_at: int,
        expires_at: int,
        position: int,
        attempt: int = 0,
        origin: Any = None,
        row: int | None = None,
        revision: int | None = None,
    ) -> None:
        """:param position: its place among the recipient's messages, whenever it is stored.

        :param attempt: how often it was delivered before.

        :param origin: the sender's connection, a :class:`RemoteOrigin`, or None where the message
            comes out of the mailbox.
        :param row: its row in the mailbox, if it has one.
        :param revision: the place of what brought its body, where that was sent again.
        """
        self.id = id
        self.sender = sender
        self.sender_key = sender.lower()
        self.recipient = recipient
        self.recipient_key = recipient.lower()
        self.kind = kind
        self.re = re
        self.body = body
        self.accepted_at = accepted_at
        self.expires_at = expires_at
        self.position = position
        self.attempt = attempt
        self.origin = origin
        self.row = row
        self.revision = position if revision is None else revision
        self.holders = 0
        self.settled = False
        self.forwards: set[str] = set()
        """The processes that were given it as well and haven't said what became of it."""

    @classmethod
    def accepted(
        cls, frame: Send, sender: str, origin: object, *, position: int, now: int
    ) -> Message:
        """Return the message that a `send` brought just now."""
        return cls(
            id=frame.id,
            sender=sender,
            recipient=frame.to,
            kind=frame.kind,
            re=frame.re,
            body=frame.body,
            accepted_at=now,
            expires_at=now + frame.ttl_ms,
            position=position,
            origin=origin,
        )

    @property
    def key(self) -> MessageKey:
        """What names the message."""
        return (self.recipient_key, self.sender_key, self.id)

    @property
    def is_immediate(self) -> bool:
        """Whether it is to be delivered now or not at all (a time to live of 0)."""
        return self.expires_at == self.accepted_at

    def frame(self) -> Deliver:
        """Return the frame of its next delivery."""
        return Deliver(
            id=self.id,
            sender=self.sender,
            kind=self.kind,
            attempt=self.attempt + 1,
            accepted_at=self.accepted_at,
            body=self.body,
            re=self.re,
        )

    def ended(self, state: State, code: Code | None = None) -> Ended:
        """Return what became of it, for its sender."""
        return Ended(self.sender_key, self.id, self.recipient, self.kind, state, code)

    def __repr__(self) -> str:
        return f"<Message {self.kind.value} {self.id} from {self.sender} to {self.recipient}>"


@dataclass(frozen=True, slots=True)
class Ended:
    """What became of a message, for its sender."""

    sender_key: str
    id: str
    recipient: str
    kind: Kind
    state: State
    code: Code | None = None

    @property
    def is_told(self) -> bool:
        """Whether the sender hears of it: of replies only that they failed."""
        return self.kind is not Kind.REPLY or self.state in (State.FAILED, State.EXPIRED)
