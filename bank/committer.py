"""Collects orders while one batch commits, and books what has come together in the next.

Nobody waits when there is nothing to wait for: a single order is a batch of one. Under load the
batches grow by themselves, because more orders arrive during each commit. Who has several to give
puts them in one by one, and wakes the thread once (:mod:`bank.handover`).
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Final

import structlog
from django.db import connections

from bank.errors import BankError
from bank.incoming import IncomingOrder, OrderOutcome
from protocol.errors import Code

__all__ = ["Book", "GroupCommitter"]

Book = Callable[[Sequence[IncomingOrder]], list[OrderOutcome]]
"""Books a batch; ``bank.ledger.book`` with its other arguments given."""

RETRY_AFTER_MS: Final = 1_000
"""What somebody is told to wait who finds the queue full."""

logger = structlog.get_logger(__name__)


class GroupCommitter:
    """One thread that books; any thread may put orders in.

    :param book: called in the committer's own thread, with its own database connection.
    :param batch_orders_max: how many orders share a transaction at the most.
    :param queue_orders_max: how many orders wait at the most.
    """

    def __init__(
        self, book: Book, *, batch_orders_max: int, queue_orders_max: int, using: str = "default"
    ) -> None:
        self._book = book
        self._batch_orders_max = batch_orders_max
        self._queue_orders_max = queue_orders_max
        self._using = using
        self._waiting: deque[tuple[IncomingOrder, Future[OrderOutcome]]] = deque()
        self._released = 0  # how many of those that wait the thread may take
        self._changed = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="group-committer", daemon=True)
        self._thread.start()

    def put(self, incoming: IncomingOrder) -> Future[OrderOutcome]:
        """Queue an order, to be booked after the next :meth:`wake`.

        The future has its outcome once that is committed, and raises ``LedgerError`` where the
        database failed.

        :raises BankError: ``busy`` where too many orders wait, or the bank is about to stop; the
            order was not taken.
        """
        future: Future[OrderOutcome] = Future()
        with self._changed:
            if self._closing or len(self._waiting) >= self._queue_orders_max:
                raise BankError(Code.BUSY, "too many orders wait at the bank", RETRY_AFTER_MS)
            self._waiting.append((incoming, future))
        return future

    def wake(self) -> None:
        """Let all orders be booked that wait now."""
        with self._changed:
            self._released = len(self._waiting)
            self._changed.notify()

    def close(self) -> None:
        """Book what waits, then end; returns when that is done."""
        with self._changed:
            self._closing = True
            self._released = len(self._waiting)
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        try:
            while taken := self._next():
                # From here on nobody can cancel; who did so before has given the order up.
                batch = [pair for pair in taken if pair[1].set_running_or_notify_cancel()]
                self._commit(batch)
        finally:
            connections[self._using].close()

    def _next(self) -> list[tuple[IncomingOrder, Future[OrderOutcome]]]:
        """Wait for orders and take a batch of them; an empty one means that it is over."""
        with self._changed:
            self._changed.wait_for(lambda: self._released or self._closing)
            count = min(self._released, self._batch_orders_max)
            self._released -= count
            return [self._waiting.popleft() for _ in range(count)]

    def _commit(self, batch: list[tuple[IncomingOrder, Future[OrderOutcome]]]) -> None:
        try:
            outcomes = self._book([incoming for incoming, _ in batch])
        except Exception as error:  # everybody who waits must hear of it
            logger.exception("batch_failed", orders=len(batch))
            for _, future in batch:
                future.set_exception(error)
            return
        for (_, future), outcome in zip(batch, outcomes, strict=True):
            future.set_result(outcome)
