"""The relay's one way to its database: a thread of its own that keeps its connection open.

The event loop never waits for a database. `database_sync_to_async` alone would close and open the
connection for every call, wherever Django is told not to keep connections (as it should be told in
an ASGI process, whose threads come and go); this thread lives as long as the relay does.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, ParamSpec, TypeVar

from channels.db import DatabaseSyncToAsync
from django.db import DatabaseError, connections

__all__ = ["ALIAS", "DatabaseThread", "is_deadlock"]

P = ParamSpec("P")
R = TypeVar("R")

ALIAS: Final = "relay"
DEADLOCK_STATE: Final = "40P01"
CHECK_SECONDS: Final = 20.0
"""After this long without use, the connection is tried before it is trusted."""


def is_deadlock(error: DatabaseError) -> bool:
    """Return whether PostgreSQL gave a transaction up because two waited for each other."""
    return getattr(error.__cause__, "sqlstate", None) == DEADLOCK_STATE


class DatabaseThread:
    """Runs functions one after the other in one thread, outside of the event loop."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="relay-database")
        self._used_at = time.monotonic()

    async def run(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Call ``function`` in the thread and return what it returns."""
        call = _KeepsConnection(
            self._checked(function), thread_sensitive=False, executor=self._executor
        )
        return await call(*args, **kwargs)

    async def close(self) -> None:
        """Finish what is queued, close the connection, end the thread."""
        loop = asyncio.get_running_loop()
        try:
            await loop.run_in_executor(self._executor, _close_connection)
        finally:
            self._executor.shutdown(wait=False)

    def _checked(self, function: Callable[P, R]) -> Callable[P, R]:
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            self._drop_broken_connection()
            return function(*args, **kwargs)

        return call

    def _drop_broken_connection(self) -> None:
        connection = connections[ALIAS]
        now = time.monotonic()
        rested = now - self._used_at > CHECK_SECONDS
        self._used_at = now
        if connection.connection is None or connection.in_atomic_block:
            return
        if (rested or connection.errors_occurred) and not connection.is_usable():
            connection.close()
        connection.errors_occurred = False


class _KeepsConnection(DatabaseSyncToAsync):
    """Channels' bridge to the database, but the connection stays open."""

    def thread_handler(self, loop: asyncio.AbstractEventLoop, *args: Any, **kwargs: Any) -> Any:
        # Skips the one class that would close the connection before and after each call.
        return super(DatabaseSyncToAsync, self).thread_handler(loop, *args, **kwargs)


def _close_connection() -> None:
    connections[ALIAS].close()
