"""The life of one message that a client sends, as a table; part of :mod:`protocol.client_protocol`.

::

    WAITING ──> DUE ──> SENT ──> QUEUED ──> DELIVERED ──> ANSWERED
       ^         │        │         │           │            (or REFUSED, LAPSED: from anywhere)
       └─────────┴────────┴─────────┴───────────┘ lost, refused for now, or the connection broke

A relay may repeat, reorder or invent what it says. So what the table does not list is no error
of this side: :meth:`Exchange.advance` answers False and nothing changes.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from protocol.errors import Code

__all__ = ["ENDS", "STAGES", "Alarms", "Exchange", "Happening", "Stage"]


class Stage(StrEnum):
    """Where a message is, as far as its sender knows."""

    WAITING = "waiting"
    """Not on its way: it waits for a connection or for the end of a pause."""
    DUE = "due"
    """The caller was asked for its body."""
    SENT = "sent"
    """Handed to the relay, which has said nothing yet."""
    QUEUED = "queued"
    """The relay says that it is stored until the recipient comes."""
    DELIVERED = "delivered"
    """The relay says that the recipient has it."""
    ANSWERED = "answered"
    """The recipient itself said so, in a reply that nobody else can make."""
    REFUSED = "refused"
    """It was refused, and sending the same again can't help."""
    LAPSED = "lapsed"
    """Tries or time ran out without an answer; it may or may not have had an effect."""


class Happening(StrEnum):
    """What moves a message from stage to stage."""

    ASK = "ask"
    """Its time has come, and there is a connection."""
    SEND = "send"
    QUEUE = "queue"
    DELIVER = "deliver"
    AGAIN = "again"
    """It has to be sent once more, after a pause."""
    BREAK = "break"
    """The connection it was sent on is gone."""
    ANSWER = "answer"
    REFUSE = "refuse"
    LAPSE = "lapse"


ENDS: Final = frozenset({Stage.ANSWERED, Stage.REFUSED, Stage.LAPSED})
"""The stages after which nothing more happens to a message."""

_LIVE: Final = tuple(stage for stage in Stage if stage not in ENDS)
_OUT: Final = (Stage.SENT, Stage.QUEUED, Stage.DELIVERED)

STAGES: Final[dict[tuple[Stage, Happening], Stage]] = {
    (Stage.WAITING, Happening.ASK): Stage.DUE,
    (Stage.DUE, Happening.SEND): Stage.SENT,
    (Stage.SENT, Happening.QUEUE): Stage.QUEUED,
    # Status and reply may overtake each other, and a redelivery may be told twice.
    (Stage.SENT, Happening.DELIVER): Stage.DELIVERED,
    (Stage.QUEUED, Happening.DELIVER): Stage.DELIVERED,
    **{(stage, Happening.AGAIN): Stage.WAITING for stage in (Stage.DUE, *_OUT)},
    **{(stage, Happening.BREAK): Stage.WAITING for stage in (Stage.DUE, *_OUT)},
    **{(stage, Happening.ANSWER): Stage.ANSWERED for stage in _LIVE},
    **{(stage, Happening.REFUSE): Stage.REFUSED for stage in _LIVE},
    **{(stage, Happening.LAPSE): Stage.LAPSED for stage in _LIVE},
}
"""Every move that there is."""


@dataclass(slots=True)
class Exchange:
    """One message and what became of it so far. Times are milliseconds since the epoch."""

    id: str
    to: str
    wants_reply: bool
    tries_left: int
    try_ms: int
    lapses_at: int
    """After this time it is not tried any more, whatever is still to come."""
    stage: Stage = Stage.WAITING
    tries_made: int = 0
    paused_until: int = 0
    """Not sent again before this."""
    status_may_be_kept: bool = False
    """The relay may keep a status of it until it is acknowledged: the message was queued, or the
    connection on which it was sent broke."""
    refetch: bool = False
    """The recipient's keys have to be fetched again before the next try."""
    code: Code | None = None
    """The last reason that was heard, from whomever."""

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen to it."""
        return self.stage in ENDS

    def advance(self, happening: Happening) -> bool:
        """Move on by the table; False, and no change, where the table has no such move."""
        following = STAGES.get((self.stage, happening))
        if following is None:
            return False
        self.stage = following
        return True


class Alarms:
    """One alarm for each name: what has to be looked at again, and when."""

    def __init__(self) -> None:
        self._when: dict[str, int] = {}
        self._heap: list[tuple[int, str]] = []

    def set(self, name: str, when: int) -> None:
        """Wake ``name`` at ``when``, and not at the time that was set before."""
        self._when[name] = when
        if len(self._heap) > 4 * len(self._when) + 64:
            # What was set anew or cleared leaves its old entry behind: sweep before it piles up.
            self._heap = [(at, each) for each, at in self._when.items() if each != name]
            heapq.heapify(self._heap)
        heapq.heappush(self._heap, (when, name))

    def clear(self, name: str) -> None:
        """Let ``name`` sleep."""
        self._when.pop(name, None)

    @property
    def next(self) -> int | None:
        """When the next alarm rings; None for never."""
        while self._heap and self._when.get(self._heap[0][1]) != self._heap[0][0]:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def ring(self, now: int) -> list[str]:
        """Return the names whose time has come, earliest first, and forget their alarms."""
        names = []
        while (when := self.next) is not None and when <= now:
            name = heapq.heappop(self._heap)[1]
            del self._when[name]
            names.append(name)
        return names
