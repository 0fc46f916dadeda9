"""When to try again: how often, how long a try takes, and how long to pause between tries."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

__all__ = ["CONNECT_JITTER", "TRY_JITTER", "FullJitter", "RetryPolicy"]

_SPREAD: Final = 1 << 30


def _fraction() -> float:
    return secrets.randbelow(_SPREAD) / _SPREAD


@dataclass(frozen=True, slots=True)
class FullJitter:
    """A pause drawn evenly from nothing to a ceiling that doubles with every try.

    Drawing from the whole range spreads clients that lost the same server furthest apart
    (M. Brooker, "Exponential Backoff And Jitter").

    :param fraction: draws from 0 up to, and without, 1.
    """

    base_ms: int
    cap_ms: int
    fraction: Callable[[], float] = _fraction

    def pause_ms(self, tries_made: int) -> int:
        """Return the pause after that many tries, in milliseconds."""
        exponent = min(max(tries_made - 1, 0), 20)
        return int(min(self.cap_ms, self.base_ms * 2**exponent) * self.fraction())


CONNECT_JITTER: Final = FullJitter(base_ms=200, cap_ms=15_000)
"""Between attempts to connect."""
TRY_JITTER: Final = FullJitter(base_ms=200, cap_ms=5_000)
"""Between tries of one message."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How much patience there is for one message.

    :param tries: how often it is sent at the most.
    :param try_ms: how long each try waits for an answer.
    """

    tries: int = 3
    try_ms: int = 10_000

    @property
    def patience_ms(self) -> int:
        """How long all tries take together at the most, pauses included."""
        return self.tries * (self.try_ms + TRY_JITTER.cap_ms)
