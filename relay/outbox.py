"""One connection's outbox: bounded, and emptied by a task of its own.

So nobody ever awaits another client's socket.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

from protocol.relay_events import CloseReason

__all__ = ["HeldBytes", "Outbox"]

AsgiSend = Callable[[dict[str, Any]], Awaitable[None]]


class HeldBytes:
    """How much is delivered and not acknowledged yet, over all connections of a process."""

    __slots__ = ("_bytes", "_bytes_max")

    def __init__(self, bytes_max: int) -> None:
        self._bytes = 0
        self._bytes_max = bytes_max

    def has_room(self, size: int) -> bool:
        """Return whether so much more may be held."""
        return self._bytes + size <= self._bytes_max

    def add(self, size: int) -> None:
        """Hold so much more, or with a negative number less."""
        self._bytes += size


class Outbox:
    """Frames that wait for one client's socket.

    ``put`` never waits. Where the bound is reached it refuses, and the caller closes the
    connection: it reads too slowly.
    """

    __slots__ = (
        "_bytes",
        "_bytes_max",
        "_close",
        "_frames",
        "_frames_max",
        "_wake",
        "write_now",
        "writing_since",
    )

    def __init__(self, *, frames_max: int, bytes_max: int) -> None:
        self._frames: deque[str] = deque()
        self._bytes = 0
        self._frames_max = frames_max
        self._bytes_max = bytes_max
        self._close: CloseReason | None = None
        self._wake: asyncio.Future[None] | None = None
        self.write_now: Callable[[str], bool] | None = None
        """Writes a frame at once, or returns False; where it is given, the writer is woken only for
        what has to wait."""
        self.writing_since: float | None = None
        """The event loop's time at which the write began that has not ended yet."""

    def has_room(self, size: int) -> bool:
        """Return whether a frame of about this many characters would be taken."""
        return len(self._frames) < self._frames_max and self._bytes + size <= self._bytes_max

    def put(self, text: str) -> bool:
        """Take a frame; False, and nothing is taken, where the outbox is full or closed."""
        if self._close is not None or not self.has_room(len(text)):
            return False
        nothing_waits = not self._frames and self.writing_since is None
        if nothing_waits and self.write_now is not None and self.write_now(text):
            return True
        self._frames.append(text)
        self._bytes += len(text)
        self._wake_writer()
        return True

    def close(self, reason: CloseReason, last: list[str] | None = None) -> None:
        """Close the WebSocket once everything is written.

        :param last: if given, these frames take the place of all that is still waiting.
        """
        if self._close is not None:
            return
        if last is not None:
            self._frames = deque(last)
            self._bytes = sum(map(len, last))
        self._close = reason
        self._wake_writer()

    async def run(self, send: AsgiSend) -> None:
        """Write until the outbox is closed and empty."""
        loop = asyncio.get_running_loop()
        while True:
            while self._frames:
                text = self._frames.popleft()
                self._bytes -= len(text)
                self.writing_since = loop.time()
                await send({"type": "websocket.send", "text": text})
                self.writing_since = None
            if self._close is not None:
                self.writing_since = loop.time()
                await send(
                    {
                        "type": "websocket.close",
                        "code": self._close.code,
                        "reason": self._close.reason,
                    }
                )
                return
            self._wake = loop.create_future()
            try:
                await self._wake
            finally:
                self._wake = None

    def _wake_writer(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)
