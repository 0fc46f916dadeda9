"""Ending in good order: on SIGTERM the clients are sent away before the server closes on them.

Servers tell an ASGI application too late: uvicorn closes every WebSocket (1012) before it ends the
lifespan, daphne cancels the consumers. So the relay puts itself in front of the server's own signal
handlers, drains, and then hands the signal on. A second signal goes to the server at once.
"""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Awaitable, Callable
from types import FrameType
from typing import Any, Final

import structlog

__all__ = ["DrainOnSignals"]

log = structlog.get_logger(__name__)

SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)

Handler = Callable[[int, FrameType | None], Any]


class DrainOnSignals:
    """Calls ``drain`` before the server learns of a signal.

    Only where a server has handlers of its own, in the main thread: elsewhere (`runserver` serves
    in a second thread) nothing is changed, and connections end the way the server ends them.
    """

    def __init__(self, drain: Callable[[], Awaitable[None]]) -> None:
        self._drain = drain
        self._loop = asyncio.get_running_loop()
        self._previous: dict[int, Handler] = {}
        self._draining: asyncio.Task[None] | None = None
        self._asked = False
        if threading.current_thread() is threading.main_thread():
            for signum in SIGNALS:
                self._get_in_front(signum)

    def undo(self) -> None:
        """Put the server's own handlers back."""
        for signum, handler in self._previous.items():
            if signal.getsignal(signum) == self._handle:
                signal.signal(signum, handler)

    def _get_in_front(self, signum: signal.Signals) -> None:
        handler = signal.getsignal(signum)
        if callable(handler) and handler is not signal.default_int_handler:
            self._previous[signum] = handler
            signal.signal(signum, self._handle)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if self._asked or self._loop.is_closed():
            self._previous[signum](signum, frame)
            return
        self._asked = True
        self._loop.call_soon_threadsafe(self._start, signum)

    def _start(self, signum: int) -> None:
        log.info("relay.draining", signal=signal.Signals(signum).name)
        self._draining = self._loop.create_task(self._run(signum))

    async def _run(self, signum: int) -> None:
        try:
            await self._drain()
        finally:
            self._previous[signum](signum, None)
