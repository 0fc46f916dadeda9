"""The consumer under Channels: this notices when an internal that it does without changes."""

from __future__ import annotations

import asyncio
import threading

import channels
import pytest
from channels.consumer import AsyncConsumer
from channels.testing import WebsocketCommunicator

from protocol.errors import Code
from protocol.frames import Challenge, Deliver, Error, Kind, State, decode_relay_frame
from protocol.limits import SUBPROTOCOL
from relay.consumers import RelayConsumer, origin_is_allowed
from relay.models import Connection, Mail
from tests.relay.conftest import Relay, Wire
from tests.relay.peer import WAIT_SECONDS, Peer, identity


def test_the_version_of_channels_is_the_one_that_was_looked_at() -> None:
    assert channels.__version__ == "4.3.2"
    assert issubclass(RelayConsumer, AsyncConsumer)


async def test_a_consumer_under_channels_own_communicator(relay: Relay) -> None:
    application = RelayConsumer.as_asgi(hub=lambda: relay.hub)
    communicator = WebsocketCommunicator(application, "/relay", subprotocols=[SUBPROTOCOL, "x"])
    assert await communicator.connect() == (True, SUBPROTOCOL)
    assert isinstance(decode_relay_frame(await communicator.receive_from()), Challenge)
    await communicator.send_to(text_data="{}")
    error = decode_relay_frame(await communicator.receive_from())
    assert isinstance(error, Error)
    assert error.code is Code.BAD_FRAME
    await communicator.send_to(bytes_data=b"binary")
    assert isinstance(decode_relay_frame(await communicator.receive_from()), Error)
    assert await communicator.receive_nothing()
    await communicator.disconnect()
    assert relay.hub.connections == set()


async def test_what_does_not_begin_with_connect_is_refused(relay: Relay) -> None:
    communicator = WebsocketCommunicator(RelayConsumer.as_asgi(hub=lambda: relay.hub), "/relay")
    await communicator.send_input({"type": "websocket.receive", "text": "{}"})
    with pytest.raises(ValueError, match=r"begins with websocket\.connect"):
        await communicator.wait()


async def test_messages_go_from_client_to_client(relay: Relay) -> None:
    ada, ben = await relay.join(identity("ada")), await relay.join(identity("ben"))
    sent = await ada.post("BEN", kind=Kind.REQUEST)
    assert (await ben.take()).id == sent
    status = await ada.status()
    assert (status.id, status.to, status.state) == (sent, "BEN", State.DELIVERED)
    for peer in (ada, ben):
        await peer.wire.close()
    assert relay.hub.exchange.presence.local == {}


async def test_a_cancelled_consumer_stores_what_its_client_held(relay: Relay) -> None:
    """Servers cancel their consumers when they end without a word before."""
    ada, ben = await relay.join(identity("ada")), await relay.join(identity("ben"))
    sent = await ada.post("ben")
    await ben.expect(Deliver)
    assert isinstance(ben.wire, Wire)
    ben.wire.communicator.future.cancel()
    await asyncio.wait([ben.wire.communicator.future])
    assert [str(row.message_id) async for row in Mail.objects.all()] == [sent]
    assert (await ada.status()).state is State.QUEUED


async def test_a_consumer_ends_when_what_its_client_held_is_stored(relay: Relay) -> None:
    """The server waits for it, and then may end the process."""
    ada, ben = await relay.join(identity("ada")), await relay.join(identity("ben"))
    sent = await ada.post("ben")
    await ben.expect(Deliver)
    assert isinstance(ben.wire, Wire)
    goes_on = threading.Event()
    hanging = asyncio.create_task(relay.hub.database.run(goes_on.wait))
    try:
        await ben.wire.communicator.send_input({"type": "websocket.disconnect", "code": 1001})
        await asyncio.wait([ben.wire.communicator.future], timeout=0.1)
        assert not ben.wire.communicator.future.done()
    finally:
        goes_on.set()
    await hanging
    await asyncio.wait([ben.wire.communicator.future], timeout=WAIT_SECONDS)
    assert [str(row.message_id) async for row in Mail.objects.all()] == [sent]


async def test_connections_leave_the_database(relay: Relay) -> None:
    ada = await relay.join(identity("ada"))
    assert await Connection.objects.acount() == 1
    await ada.wire.close()
    async with asyncio.timeout(WAIT_SECONDS):
        while await Connection.objects.aexists():
            await asyncio.sleep(0.01)


async def test_a_client_that_does_not_close_is_ended(relay: Relay) -> None:
    peer = await relay.dial()
    await peer.ask_registration(identity("ada"), version=7)
    assert await peer.wire.closed() == (4000, "unsupported_version")
    assert isinstance(peer.wire, Wire)
    await asyncio.wait_for(peer.wire.communicator.wait(timeout=5), 5)
    assert relay.hub.connections == set()


@pytest.mark.parametrize(
    ("origins", "allowed"),
    [
        ([], True),
        ([b"https://bank.example"], True),
        ([b"HTTPS://Bank.Example"], True),
        ([b"https://bank.example:8443"], False),
        ([b"http://bank.example"], False),
        ([b"null"], False),
        ([b""], False),
        ([b"https://bank.example", b"https://bank.example"], False),
        ([b"\xff"], False),
        ([b"http://[broken"], False),
    ],
)
def test_origins(settings: object, origins: list[bytes], *, allowed: bool) -> None:
    settings.RELAY = {"ALLOWED_ORIGINS": ["https://bank.example"]}  # type: ignore[attr-defined] # pytest-django's fixture
    scope = {"headers": [(b"host", b"x"), *((b"origin", value) for value in origins)]}
    assert origin_is_allowed(scope) is allowed


async def test_a_foreign_origin_is_told_so_and_closed(relay: Relay) -> None:
    wire = Wire(relay.hub, headers=[(b"origin", b"https://evil.example")])
    await wire.open()
    peer = Peer(wire)
    assert (await peer.refusal()).code is Code.ORIGIN_REFUSED
    assert await wire.closed() == (4000, "origin_refused")
    await wire.close()
