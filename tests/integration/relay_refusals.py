"""What tests of the relay's codes share: how a refusal looks, and what lives on."""

from __future__ import annotations

import os

from asgiref.sync import sync_to_async

from protocol.errors import RETRY, Code
from protocol.frames import (
    Error,
)
from relay.models import Client, Mail
from tests.integration.processes import RunningServer
from tests.relay.peer import Peer, identity, join

CLOSED = 4000


async def rows() -> tuple[int, int]:
    """Return how many clients are known and how many messages wait."""

    def count() -> tuple[int, int]:
        return Client.objects.count(), Mail.objects.count()

    return await sync_to_async(count)()


async def refused_for_good(peer: Peer, code: Code) -> Error:
    """Check that the relay says this and closes the connection with it."""
    error = await peer.refusal()
    assert (error.code, error.retry) == (code, RETRY[code])
    assert await peer.wire.closed() == (CLOSED, code.value)
    return error


async def refused(peer: Peer, code: Code, answers: str | None) -> Error:
    """Check that the relay refuses this one frame, and the connection goes on."""
    error = await peer.refusal()
    assert (error.code, error.id, error.retry) == (code, answers, RETRY[code])
    await peer.still_works()
    return error


async def process_lives(server: RunningServer) -> None:
    """Check that somebody else is still served."""
    async with await join(server.relay_url, identity(f"witness-{os.urandom(4).hex()}")) as peer:
        await peer.still_works()
    assert server.is_alive
