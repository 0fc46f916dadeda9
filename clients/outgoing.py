"""A message on its way: what its author tells the client about it, and hears of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from protocol.bundles import Bundle
from protocol.client_exchange import Stage
from protocol.errors import Code
from protocol.frames import Kind

__all__ = ["Again", "Answered", "Hopeless", "Outgoing", "Unbelievable", "Verdict"]


@dataclass(frozen=True, slots=True)
class Answered:
    """The reply is the answer: the message has ended."""


@dataclass(frozen=True, slots=True)
class Again:
    """The reply asks for another try."""

    code: Code
    after_ms: int | None = None
    refetch: bool = False


@dataclass(frozen=True, slots=True)
class Hopeless:
    """The reply says that sending the same again can't help."""

    code: Code
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Unbelievable:
    """Whoever made this reply was not who was asked: it never happened."""


Verdict = Answered | Again | Hopeless | Unbelievable


class Outgoing(Protocol):
    """A message on its way, with what only its author knows about it."""

    @property
    def id(self) -> str:
        """Its id, the same on every try."""

    @property
    def to(self) -> str:
        """The recipient's id."""

    @property
    def kind(self) -> Kind:
        """Request or notice."""

    def wrap(self, recipient: Bundle) -> bytes:
        """Return the body, sealed to the recipient's current key."""

    def ttl_ms(self, now: int) -> int:
        """How long it may wait for its recipient."""

    def judge(self, body: bytes) -> Verdict:
        """Open a reply and say what it is worth."""

    def progressed(self, stage: Stage, code: Code | None) -> None:
        """Hear what the relay says about it."""
