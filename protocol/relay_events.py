"""What the relay's side of a connection reports to whoever runs it, and the bounds it keeps."""

from __future__ import annotations

import math
from typing import Any, Final, Generic, TypeVar

import msgspec

from protocol.bundles import Bundle
from protocol.errors import MisuseError
from protocol.frames import Role, Send

__all__ = [
    "CLOSE_CODE",
    "CloseReason",
    "ConnectionBounds",
    "Delivery",
    "Event",
    "LookupRequested",
    "MessageAcked",
    "PublishRequested",
    "RegistrationRequested",
    "SendRequested",
    "StatusAcked",
    "TokenBucket",
]

T = TypeVar("T")

CLOSE_CODE: Final = 4000
"""The WebSocket close code after a fatal error; the reason is the error's code."""


class ConnectionBounds(msgspec.Struct, frozen=True):
    """The bounds of one connection that the relay enforces on it."""

    in_flight_max: int
    """How many delivered messages may wait for the client's `ack`."""
    in_flight_bytes_max: int
    """The same in bytes of their bodies' text; one message is always let through."""
    sends_per_second: int
    sends_burst: int
    """How many frames may come at once after a pause."""
    bad_frames_max: int
    """The connection ends with this many frames that were refused as such."""


class CloseReason(msgspec.Struct, frozen=True):
    """What to close the WebSocket with."""

    code: int
    reason: str


class RegistrationRequested(msgspec.Struct, frozen=True):
    """A client has proven that it holds this bundle's identity key.

    Ask the directory whether the id is that key's, then call ``accept`` or ``fail``.
    """

    bundle: Bundle
    role: Role


class SendRequested(msgspec.Struct, frozen=True):
    """Pass a message on; answer with ``status`` or ``refuse``."""

    frame: Send


class LookupRequested(msgspec.Struct, frozen=True):
    """Answer with `found` through ``send``, or ``refuse``."""

    id: str
    query: str


class PublishRequested(msgspec.Struct, frozen=True):
    """Keep the client's new bundle if it succeeds the old one: `published`, or ``refuse``."""

    id: str
    bundle: Bundle


class MessageAcked(msgspec.Struct, Generic[T], frozen=True):
    """The client has a delivered message safely; the window has room again."""

    token: T


class StatusAcked(msgspec.Struct, frozen=True):
    """The client has a stored status safely: it need not be told again."""

    id: str


Event = (
    RegistrationRequested
    | SendRequested
    | LookupRequested
    | PublishRequested
    | MessageAcked[Any]
    | StatusAcked
)


class Delivery(msgspec.Struct, Generic[T]):
    """A message that waits for the client's `ack`; ``token`` is the caller's own."""

    token: T
    size: int
    since: int
    """When it was handed over, in milliseconds."""


class TokenBucket:
    """So many actions a second on average, with a burst after a pause."""

    __slots__ = ("_burst", "_per_ms", "_tokens", "_updated")

    def __init__(self, per_second: float, burst: float, now: int) -> None:
        """:param now: milliseconds; any clock, as long as it is always the same one."""
        if per_second <= 0 or burst < 1:
            raise MisuseError("a bucket fills and holds at least one token")
        self._per_ms = per_second / 1_000
        self._burst = float(burst)
        self._tokens = float(burst)
        self._updated = now

    def take(self, now: int) -> int:
        """Take one token; return 0, or else in how many milliseconds there will be one."""
        # A clock that was set back must neither fill nor empty the bucket.
        elapsed = max(0, now - self._updated)
        self._updated = now
        self._tokens = min(self._burst, self._tokens + elapsed * self._per_ms)
        if self._tokens >= 1:
            self._tokens -= 1
            return 0
        return math.ceil((1 - self._tokens) / self._per_ms)
