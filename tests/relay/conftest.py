"""A relay inside the test's own event loop, reached through Channels' communicator."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress

import pytest
from channels.testing import WebsocketCommunicator
from django.test import override_settings

from protocol.frames import Role
from protocol.limits import SUBPROTOCOL
from relay.consumers import RelayConsumer
from relay.hub import Hub
from tests.databases import TestDatabases
from tests.relay.peer import WAIT_SECONDS, Identity, Peer

QUICK = {
    "SWEEP_SECONDS": 0.2,
    "LEASE_SECONDS": 2,
    "FORWARD_SECONDS": 0.2,
    "CLOSE_SECONDS": 0.3,
    "DRAIN_SECONDS": 0.3,
}


class Wire:
    """A WebSocket without a server: Channels' communicator plays it."""

    def __init__(self, hub: Hub, headers: list[tuple[bytes, bytes]] | None = None) -> None:
        self.communicator = WebsocketCommunicator(
            RelayConsumer.as_asgi(hub=lambda: hub),
            "/relay",
            headers=headers,
            subprotocols=[SUBPROTOCOL],
        )

    async def open(self) -> None:
        accepted, subprotocol = await self.communicator.connect(WAIT_SECONDS)
        assert accepted
        assert subprotocol == SUBPROTOCOL

    async def send(self, message: str | bytes) -> None:
        if isinstance(message, str):
            await self.communicator.send_input({"type": "websocket.receive", "text": message})
        else:
            await self.communicator.send_input({"type": "websocket.receive", "bytes": message})

    async def receive(self) -> str:
        event = await self.communicator.receive_output(WAIT_SECONDS)
        assert event["type"] == "websocket.send", event
        text: str = event["text"]
        return text

    async def closed(self) -> tuple[int, str]:
        while True:
            event = await self.communicator.receive_output(WAIT_SECONDS)
            if event["type"] == "websocket.close":
                return event["code"], event["reason"]

    async def close(self) -> None:
        if not self.communicator.future.done():
            with suppress(asyncio.CancelledError):
                await self.communicator.disconnect(timeout=WAIT_SECONDS)


class Relay:
    """One relay process, as far as its clients can tell."""

    def __init__(self, hub: Hub) -> None:
        self.hub = hub

    async def dial(self) -> Peer:
        wire = Wire(self.hub)
        await wire.open()
        return Peer(wire)

    async def join(self, who: Identity, role: Role = Role.PERSON) -> Peer:
        peer = await self.dial()
        await peer.register(who, role)
        return peer


Begin = Callable[[], Relay]


@pytest.fixture
async def begin(fresh_databases: TestDatabases) -> AsyncIterator[Begin]:
    """Start relays on one pair of databases; each is a process of its own to the others."""
    hubs: list[Hub] = []

    def begin() -> Relay:
        hub = Hub()
        hub.start()
        hubs.append(hub)
        return Relay(hub)

    with override_settings(RELAY=QUICK):
        yield begin
        for hub in hubs:
            await hub.stop()


@pytest.fixture
async def relay(begin: Begin) -> Relay:
    """One running relay."""
    return begin()
