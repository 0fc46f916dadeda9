"""The event loop that clients run in: the fast one where there is one."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

__all__ = ["run"]

T = TypeVar("T")


_new_loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
with contextlib.suppress(ImportError):  # it doesn't exist for every system
    _new_loop = importlib.import_module("uvloop").new_event_loop


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run a program's main coroutine.

    uvloop takes a fraction of the time that asyncio's own loop takes over a frame.
    """
    with asyncio.Runner(loop_factory=_new_loop) as runner:
        return runner.run(main)
