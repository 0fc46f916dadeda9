"""Writes to the mailbox in batches: what comes while one batch commits is the next batch.

So an idle relay stores a message at once, and a busy one pays for one transaction instead of
hundreds. Nothing is reported before its commit.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import structlog
from django.db import DatabaseError, IntegrityError

from relay.database import DatabaseThread, is_deadlock
from relay.limits import RelayLimits
from relay.mailbox import Batch, Outcome, Settled, Store, apply
from relay.messages import Ended, Message

__all__ = ["MailboxWriter"]

BATCH_MAX: Final = 500
TRIES_MAX: Final = 3

log = structlog.get_logger(__name__)

Results = dict[Message, Settled]


@dataclass(frozen=True, slots=True)
class _Request:
    """Something to write: how it joins a batch, and who hears of the commit."""

    join: Callable[[Batch], None]
    committed: Callable[[Results], None]
    failed: Callable[[], None]


class MailboxWriter:
    """The one task of a process that writes messages and statuses."""

    def __init__(
        self, database: DatabaseThread, limits: RelayLimits, clock: Callable[[], int]
    ) -> None:
        self._database = database
        self._limits = limits
        self._clock = clock
        self._requests: deque[_Request] = deque()
        self._writing = 0
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def is_full(self) -> bool:
        """Whether so much waits for the database that no more messages are taken."""
        return len(self._requests) >= self._limits.store_queue_max

    @property
    def unwritten(self) -> int:
        """How much was asked for and is not committed yet."""
        return len(self._requests) + self._writing

    def store(self, message: Message, done: Callable[[Store], None]) -> None:
        """Store a message; ``done`` is called after the commit, or after it failed."""
        store = Store(message)

        def failed() -> None:
            store.outcome = Outcome.FAILED
            done(store)

        self._add(lambda batch: batch.stores.append(store), lambda _: done(store), failed)

    def settle(self, message: Message, done: Callable[[Settled], None]) -> None:
        """Delete an acknowledged message and keep its status.

        ``done`` hears what became of it; where the database fails the message stays, and is
        delivered again.
        """
        self._add(
            lambda batch: batch.settled.append(message),
            lambda results: done(results[message]),
            lambda: done(Settled.ABSENT),
        )

    def keep_status(self, ended: Ended, done: Callable[[], None]) -> None:
        """Keep a status for a sender who is away; ``done`` is called after the commit."""
        self._add(lambda batch: batch.ended.append(ended), lambda _: done(), _nothing)

    def forget_status(self, sender_key: str, message_id: str, done: Callable[[], None]) -> None:
        """Drop a status that its sender acknowledged; ``done`` is called however it ends."""
        known = (sender_key, message_id)
        self._add(lambda batch: batch.known.append(known), lambda _: done(), done)

    def unclaim(self, rows: list[int]) -> None:
        """Let other processes hand out rows that this one claimed."""
        self._add(lambda batch: batch.unclaimed.extend(rows), _no_news, _nothing)

    async def run(self) -> None:
        """Write until cancelled."""
        while True:
            await self._wake.wait()
            requests = self._take()
            self._writing = len(requests)
            await self._write(requests)
            self._writing = 0
            if not self._requests:
                self._wake.clear()
                self._idle.set()

    async def flush(self) -> None:
        """Return once everything that was asked for is written, or has failed."""
        await self._idle.wait()

    def _add(
        self,
        join: Callable[[Batch], None],
        committed: Callable[[Results], None],
        failed: Callable[[], None],
    ) -> None:
        self._requests.append(_Request(join, committed, failed))
        self._idle.clear()
        self._wake.set()

    def _take(self) -> list[_Request]:
        count = min(BATCH_MAX, len(self._requests))
        return [self._requests.popleft() for _ in range(count)]

    async def _write(self, requests: list[_Request]) -> None:
        results = await self._commit(requests)
        for request in requests:
            try:
                if results is None:
                    request.failed()
                else:
                    request.committed(results)
            except Exception:
                log.exception("mailbox.answer_failed")

    async def _commit(self, requests: list[_Request]) -> Results | None:
        # Another process may have stored the same message meanwhile: then the second try sees it.
        # Or each waited for rows of the other, and this one gave way: the other is done by now.
        for tries_left in reversed(range(TRIES_MAX)):
            batch = Batch()
            for request in requests:
                request.join(batch)
            try:
                return await self._database.run(apply, batch, self._limits, self._clock())
            except DatabaseError as error:
                if tries_left and (isinstance(error, IntegrityError) or is_deadlock(error)):
                    continue
                log.error(
                    "mailbox.write_failed", requests=len(requests), error=type(error).__name__
                )
                return None
            except Exception:
                log.exception("mailbox.write_failed")
                return None
        return None


def _nothing() -> None:
    pass


def _no_news(results: Results) -> None:
    pass
