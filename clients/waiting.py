"""Waiting for whatever comes first, and failing what somebody may wait for."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

__all__ = ["fail", "first_of"]


def fail(done: asyncio.Future[Any], error: BaseException) -> None:
    """Let a future raise an error, without a complaint where nobody waits for it any more."""
    done.set_exception(error)
    done.exception()


async def first_of(
    wanted: asyncio.Future[Any], *others: Coroutine[Any, Any, object], seconds: float | None = None
) -> bool:
    """Wait until ``wanted`` is done, one of ``others`` is, or time is over.

    :return: whether ``wanted`` is done. It is left as it is; the others are cancelled.
    """
    tasks: list[asyncio.Future[Any]] = [asyncio.ensure_future(each) for each in others]
    try:
        await asyncio.wait([wanted, *tasks], timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
    return wanted.done()
