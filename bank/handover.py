"""From the thread that books to the event loop: one wake-up for a whole batch of outcomes."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future
from typing import Generic, TypeVar

__all__ = ["Handover"]

T = TypeVar("T")


class Handover(Generic[T]):
    """Lets coroutines of one event loop wait for futures that a thread completes.

    ``asyncio.wrap_future`` does the same with a wake-up of the loop for each future, which for a
    batch of a thousand orders is a thousand.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._done: list[tuple[asyncio.Future[T], Future[T]]] = []

    async def wait(self, booked: Future[T]) -> T:
        """Return or raise what the future does; cancelled meanwhile, it cancels the future."""
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[T] = loop.create_future()
        booked.add_done_callback(lambda done: self._put(loop, waiter, done))
        try:
            return await waiter
        except asyncio.CancelledError:
            booked.cancel()
            raise

    def _put(
        self, loop: asyncio.AbstractEventLoop, waiter: asyncio.Future[T], done: Future[T]
    ) -> None:
        """Called in the thread that books; who comes first wakes the loop for all who follow."""
        with self._lock:
            first = not self._done
            self._done.append((waiter, done))
        if first and not loop.is_closed():
            loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        with self._lock:
            batch, self._done = self._done, []
        for waiter, done in batch:
            if waiter.done():
                continue
            if done.cancelled():
                waiter.cancel()
            elif (error := done.exception()) is not None:
                waiter.set_exception(error)
            else:
                waiter.set_result(done.result())
