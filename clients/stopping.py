"""Being told to end: a service manager's SIGTERM is what Ctrl-C is at a terminal."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine
from typing import Any, Final, TypeVar

from clients.event_loop import run as run_loop

__all__ = [
    "INTERRUPTED_STATUS",
    "TERMINATED_STATUS",
    "TerminatedError",
    "run_until_stopped",
    "stop_on_signals",
]

T = TypeVar("T")

TERMINATED_STATUS: Final = 128 + signal.SIGTERM
INTERRUPTED_STATUS: Final = 128 + signal.SIGINT
"""The exit status of a program that SIGTERM, or Ctrl-C, has ended, as shells tell it."""


class TerminatedError(KeyboardInterrupt):
    """SIGTERM came; whatever is to be said where Ctrl-C comes is to be said here."""


def run_until_stopped(main: Coroutine[Any, Any, T]) -> T:
    """Run a program's main coroutine; what is in hand is put down in order when it is to end.

    :raises KeyboardInterrupt: Ctrl-C came.
    :raises TerminatedError: SIGTERM came.
    """
    terminated = False

    async def run() -> T:
        task = asyncio.current_task()
        assert task is not None  # a coroutine that runs is in a task

        def terminate() -> None:
            nonlocal terminated
            terminated = True
            task.cancel()

        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, terminate)
        return await main

    try:
        return run_loop(run())
    except asyncio.CancelledError:
        if terminated:
            raise TerminatedError from None
        raise


def stop_on_signals(stop: asyncio.Event) -> None:
    """Let Ctrl-C and a service manager end the program in good order."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
