"""What many tests of the relay begin with, or wait for."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from django.test import override_settings

from tests.relay.conftest import QUICK, Begin, Relay
from tests.relay.peer import WAIT_SECONDS, Identity


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(WAIT_SECONDS):
        while not await condition():
            await asyncio.sleep(0.02)


def bounded(begin: Begin, **bounds: Any) -> Relay:
    with override_settings(RELAY={**QUICK, **bounds}):
        return begin()


async def known(relay: Relay, *clients: Identity) -> None:
    """Let the relay know clients that are absent then."""
    for client in clients:
        peer = await relay.join(client)
        await peer.wire.close()
