"""Waiting for whatever comes first."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

__all__ = ["first_of"]


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
