"""Writing to the disk in batches, beside the event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final, Generic, TypeVar

from clients.errors import StorageError
from clients.waiting import fail

__all__ = ["DurableWriter"]

T = TypeVar("T")

IN_PLACE_SECONDS_MAX: Final = 0.002
"""Whoever's disk takes longer is not made to wait for it in place the next time."""


class DurableWriter(Generic[T]):
    """Writes things in a thread, as many at once as have gathered: one flush serves them all.

    :param write: makes a list of things safe on the disk, or raises :class:`StorageError`.
    :param gather_seconds: how long to let things gather; 0 begins at once if nothing is being
        written, and what comes meanwhile is the next batch.
    """

    def __init__(self, write: Callable[[list[T]], None], gather_seconds: float = 0.0) -> None:
        self._write = write
        self._gather_seconds = gather_seconds
        self._waiting: list[tuple[T, asyncio.Future[None]]] = []
        self._running: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._slow = False

    def put(self, thing: T) -> asyncio.Future[None]:
        """Write something; the future is done once it is safe.

        It raises :class:`StorageError` if the disk doesn't take it.
        """
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        self._waiting.append((thing, done))
        if self._running is None and self._timer is None:
            if self._gather_seconds:
                self._timer = loop.call_later(self._gather_seconds, self._start)
            else:
                self._start()
        return done

    def put_now(self, thing: T) -> bool:
        """Write something in place, unless others wait or the disk was slow the last time.

        For who would do nothing else meanwhile: a thread takes longer to be woken and to wake than
        a quick disk takes.

        :return: False where it wasn't written; then :meth:`put` it.
        :raises StorageError: the disk doesn't take it.
        """
        if self._running is not None or self._waiting or self._slow:
            self._slow = False
            return False
        began = time.monotonic()
        self._write([thing])
        self._slow = time.monotonic() - began > IN_PLACE_SECONDS_MAX
        return True

    async def flush(self) -> None:
        """Wait until everything that was handed over is safe, or has failed."""
        while self._running is not None or self._waiting:
            if self._running is None:
                self._start()
            elif not self._running.done():
                await asyncio.wait({self._running})
            else:
                await asyncio.sleep(0)

    def _start(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._running is not None or not self._waiting:
            return
        batch, self._waiting = self._waiting, []
        loop = asyncio.get_running_loop()
        things = [thing for thing, _ in batch]
        try:
            self._running = loop.run_in_executor(None, self._write, things)
        except RuntimeError as error:  # the loop is about to be closed
            failure = StorageError("nothing is written any more: the program ends")
            failure.__cause__ = error
            for _, done in batch:
                if not done.done():
                    fail(done, failure)
            return
        self._running.add_done_callback(lambda running: self._finish(batch, running))

    def _finish(
        self, batch: list[tuple[T, asyncio.Future[None]]], running: asyncio.Future[None]
    ) -> None:
        self._running = None
        error = None if running.cancelled() else running.exception()
        for _, done in batch:
            if done.done():
                continue
            if running.cancelled():
                done.cancel()
            elif error is not None:
                done.set_exception(error)
            else:
                done.set_result(None)
        self._start()
