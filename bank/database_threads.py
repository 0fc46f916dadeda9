"""A few threads for the bank's reading, so that the event loop never waits for the database."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from django.db import InterfaceError, OperationalError, connections

__all__ = ["DatabaseThreads"]

T = TypeVar("T")


class DatabaseThreads:
    """Runs functions that read the database, each thread with a connection of its own."""

    def __init__(self, count: int, *, using: str = "default") -> None:
        self._using = using
        self._count = count
        self._pool = ThreadPoolExecutor(count, thread_name_prefix="bank-reader")

    async def run(self, function: Callable[[], T]) -> T:
        """Return what ``function`` returns, or raise what it raises.

        It runs a second time where the connection turned out to be lost, so it must only read.
        """
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._read, function)

    def _read(self, function: Callable[[], T]) -> T:
        try:
            return function()
        except (OperationalError, InterfaceError):
            connections[self._using].close()
            return function()

    def close(self) -> None:
        """Finish what runs, close every thread's connection, and end."""
        # The barrier makes each thread take one of the tasks.
        barrier = threading.Barrier(self._count)
        for _ in range(self._count):
            self._pool.submit(self._close_connection, barrier)
        self._pool.shutdown()

    def _close_connection(self, barrier: threading.Barrier) -> None:
        barrier.wait()
        connections[self._using].close()
