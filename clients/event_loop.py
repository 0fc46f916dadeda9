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

    uvloop writes what several frames have gathered with one system call, which is most of what
    sending a frame costs.
    """
    with asyncio.Runner(loop_factory=_new_loop) as runner:
        return runner.run(main)
