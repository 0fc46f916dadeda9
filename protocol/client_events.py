"""What a client's state machine knows and tells; part of :mod:`protocol.client_protocol`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from protocol.client_exchange import Stage
from protocol.errors import Code
from protocol.frames import (
    Challenge,
    ClientFrame,
    Deliver,
    Drain,
    Error,
    Found,
    Published,
    Status,
    Welcome,
)

__all__ = [
    "ACCEPTED",
    "CallEnded",
    "Counters",
    "Draining",
    "Due",
    "Ended",
    "Event",
    "Events",
    "Incoming",
    "Phase",
    "Progress",
    "Registered",
    "RegistrationRefused",
    "RelayRenamed",
    "RelayTrouble",
    "ReplyArrived",
    "StrayReply",
    "Transmit",
]


class Phase(StrEnum):
    """Where the connection to the relay is."""

    CLOSED = "closed"
    CONNECTING = "connecting"
    """Open; the relay's challenge is awaited."""
    REGISTERING = "registering"
    """The proof was sent; the relay's welcome is awaited."""
    READY = "ready"
    DRAINING = "draining"
    """The relay is going away: what is under way may end, nothing new begins."""


_ON_DUTY: Final = frozenset({Deliver, Status, Found, Published, Error, Drain})
ACCEPTED: Final[dict[Phase, frozenset[type]]] = {
    Phase.CLOSED: frozenset(),
    Phase.CONNECTING: frozenset({Challenge, Error}),
    Phase.REGISTERING: frozenset({Welcome, Error, Drain}),
    Phase.READY: _ON_DUTY,
    Phase.DRAINING: _ON_DUTY,
}
"""Which frames of the relay are in place in which phase."""


# --- Events -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Transmit:
    """Send this frame to the relay."""

    frame: ClientFrame


@dataclass(frozen=True, slots=True)
class Registered:
    """The relay welcomed this client; ``relay`` is the name that the proof was made for."""

    welcome: Welcome
    relay: str


@dataclass(frozen=True, slots=True)
class RegistrationRefused:
    """The relay refused the registration; close the connection."""

    error: Error


@dataclass(frozen=True, slots=True)
class RelayRenamed:
    """The relay gave another name than expected, and got no proof; close the connection."""

    expected: str
    actual: str


@dataclass(frozen=True, slots=True)
class Draining:
    """Finish what is under way, then reconnect after ``after_ms``."""

    after_ms: int


@dataclass(frozen=True, slots=True)
class Due:
    """Seal the message and call :meth:`ClientProtocol.dispatch`.

    :param refetch: the recipient's keys must be looked up again before that.
    """

    id: str
    attempt: int
    refetch: bool


@dataclass(frozen=True, slots=True)
class Progress:
    """The relay said something new about a message that has not ended."""

    id: str
    stage: Stage
    code: Code | None


@dataclass(frozen=True, slots=True)
class Ended:
    """A message ended; see the stage for how."""

    id: str
    stage: Stage
    code: Code | None
    detail: str
    candidates: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ReplyArrived:
    """A reply to message ``deliver.re``, from the client that it was sent to. Not acked yet."""

    deliver: Deliver


@dataclass(frozen=True, slots=True)
class StrayReply:
    """A reply to nothing that is under way here. Not acked yet."""

    deliver: Deliver


@dataclass(frozen=True, slots=True)
class Incoming:
    """A request or notice of another client. Not acked yet."""

    deliver: Deliver


@dataclass(frozen=True, slots=True)
class CallEnded:
    """A look-up or publication ended: with its frame, an error, or (None) out of time."""

    id: str
    result: Found | Published | Error | None


@dataclass(frozen=True, slots=True)
class RelayTrouble:
    """The relay reported an error that belongs to nothing under way."""

    error: Error


Event = (
    Transmit
    | Registered
    | RegistrationRefused
    | RelayRenamed
    | Draining
    | Due
    | Progress
    | Ended
    | ReplyArrived
    | StrayReply
    | Incoming
    | CallEnded
    | RelayTrouble
)
Events = list[Event]


@dataclass(slots=True)
class Counters:
    """What was ignored, for whoever watches."""

    unknown_replies: int = 0
    late_replies: int = 0
    statuses_out_of_place: int = 0
    unknown_statuses: int = 0
    unknown_calls: int = 0
