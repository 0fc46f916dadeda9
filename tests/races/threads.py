"""Threads with database connections of their own, and bookings that can be held up."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import pytest
from django.db import connections

from bank import locking
from bank.compiled import CompiledQuery
from bank.statements import Conversation
from bank.writer import PortableWriter, WriteSet

T = TypeVar("T")

PATIENCE_SECONDS = 20


def in_threads(functions: Sequence[Callable[[], T]]) -> list[T]:
    """Run all at the same time and return their results; raises what any of them raised."""

    def run(function: Callable[[], T]) -> T:
        try:
            return function()
        finally:
            connections["default"].close()

    with ThreadPoolExecutor(len(functions)) as pool:
        futures: list[Future[T]] = [pool.submit(run, function) for function in functions]
        return [future.result(PATIENCE_SECONDS) for future in futures]


class MeetingWriter(PortableWriter):
    """Waits before it writes until another booking is about to write, too, or for a while.

    With the locks on, nobody else gets that far: the wait ends by itself.
    """

    def __init__(self, parties: int, wait_seconds: float = 0.5) -> None:
        self._barrier = threading.Barrier(parties)
        self._wait_seconds = wait_seconds
        self.met = False

    def write(self, rows: WriteSet, talk: Conversation) -> None:
        try:
            self._barrier.wait(self._wait_seconds)
            self.met = True
        except threading.BrokenBarrierError:
            pass
        super().write(rows, talk)


class HeldWriter(PortableWriter):
    """Stops before it writes until it is told to go on."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.go_on = threading.Event()

    def write(self, rows: WriteSet, talk: Conversation) -> None:
        self.reached.set()
        assert self.go_on.wait(PATIENCE_SECONDS)
        super().write(rows, talk)


def switch_locks_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """For controls: what a test shows must come from the locks."""
    switch_shared_lock_off(monkeypatch)
    monkeypatch.setattr(locking, "for_update", lambda accounts: accounts)
    unlocked = CompiledQuery(locking._accounts_under_lock)
    monkeypatch.setattr(locking, "_ACCOUNTS_UNDER_LOCK", unlocked)


def switch_shared_lock_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let bookings share no lock, so that whoever takes something away waits for none."""
    monkeypatch.setattr(locking, "share_booking", lambda _: None)


def wait_until_somebody_waits_for_a_lock() -> None:
    """Return once a connection to this server is blocked by another one."""
    for _ in range(PATIENCE_SECONDS * 100):
        if somebody_waits_for_a_lock():
            return
        time.sleep(0.01)
    raise AssertionError("nobody waits for a lock")


def somebody_waits_for_a_lock() -> bool:
    """Return whether a connection to this server is blocked by another one."""
    with connections["default"].cursor() as cursor:
        # Not pg_stat_activity: within a transaction that shows the same again and again.
        cursor.execute("SELECT count(*) FROM pg_locks WHERE NOT granted")
        return bool(cursor.fetchone()[0])
