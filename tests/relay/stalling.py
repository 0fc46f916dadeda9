"""Peers that stop reading, which only a real socket can do."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from tests.relay.peer import Peer, Socket

__all__ = ["read_again", "stop_reading", "transport_of", "until"]


def transport_of(peer: Peer) -> Any:
    """Return the transport under a peer's WebSocket, for what no WebSocket would send."""
    assert isinstance(peer.wire, Socket)
    return peer.wire.connection.transport


def stop_reading(peer: Peer) -> None:
    """Let a peer read nothing any more: its kernel's buffer fills, then the server's."""
    transport_of(peer).pause_reading()


def read_again(peer: Peer) -> None:
    """Let a peer read again what has come meanwhile."""
    transport_of(peer).resume_reading()


async def until(condition: Callable[[], bool]) -> None:
    """Wait until something is true, for 15 seconds at the most."""
    async with asyncio.timeout(15):
        while not condition():
            await asyncio.sleep(0.05)
