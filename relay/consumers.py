"""The WebSocket consumer: a thin shell round the state machine of `protocol/relay_protocol.py`.

Channels' own dispatch makes a task and a wait for every frame and hops into a thread to look after
database connections; that is five times what everything else costs here. So the consumer has a
receive loop of its own. What is skipped is made up for: the database is only reached through
`relay/database.py`, and a test with Channels' communicator notices when an internal changes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Final

import structlog
from channels.consumer import AsyncConsumer

from protocol.errors import Code
from protocol.limits import SUBPROTOCOL
from protocol.relay_events import (
    LookupRequested,
    MessageAcked,
    PublishRequested,
    RegistrationRequested,
    SendRequested,
    StatusAcked,
)
from protocol.relay_protocol import Phase
from relay.conf import relay_settings
from relay.connection import Connection
from relay.hub import Hub, clock, running_hub
from relay.peer_socket import PeerSocket

__all__ = ["RelayConsumer"]

log = structlog.get_logger(__name__)

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

FLUSH_SECONDS: Final = 5.0
"""How long a connection that is cancelled waits until what it held is in the mailbox."""


class RelayConsumer(AsyncConsumer):
    """One client's connection to the relay."""

    def __init__(self, hub: Callable[[], Hub] = running_hub) -> None:
        """:param hub: gives the relay that the connection belongs to."""
        self._hub = hub

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """Serve one WebSocket until it is closed."""
        self.scope = scope
        connect = await receive()
        if connect["type"] != "websocket.connect":
            raise ValueError(f"a WebSocket begins with websocket.connect, not {connect['type']}")
        offered = scope.get("subprotocols", [])
        spoken = SUBPROTOCOL if SUBPROTOCOL in offered else None
        await send({"type": "websocket.accept", "subprotocol": spoken})
        hub = self._hub()
        connection = hub.open()
        socket = PeerSocket(send)
        connection.attach(asyncio.current_task(), socket)
        writer = asyncio.get_running_loop().create_task(connection.outbox.run(send))
        try:
            self._greet(connection, spoken)
            await self._serve(hub, connection, receive)
        except asyncio.CancelledError:
            if not connection.aborted:
                hub.closed(connection)
                with suppress(TimeoutError):
                    await asyncio.wait_for(hub.exchange.writer.flush(), FLUSH_SECONDS)
                raise
        finally:
            # Whoever closed it, what is left of it goes, though its peer may read nothing more.
            asyncio.get_running_loop().call_later(hub.limits.close_seconds, socket.drop)
            connection.detach()
            leaves_something = connection.machine.unacked > 0
            hub.closed(connection)
            await _end(writer)
            if leaves_something:
                # The server waits for this task when it ends: what the client had is safe by then.
                await hub.settled()

    def _greet(self, connection: Connection, spoken: str | None) -> None:
        if not origin_is_allowed(self.scope):
            connection.fail(Code.ORIGIN_REFUSED, "this web page may not use the relay")
        elif spoken is None:
            connection.fail(Code.UNSUPPORTED_VERSION, f"ask for the subprotocol {SUBPROTOCOL}")
        elif connection.machine.phase is not Phase.CLOSED:
            connection.machine.challenge(clock())
            connection.flush()

    async def _serve(self, hub: Hub, connection: Connection, receive: Receive) -> None:
        machine = connection.machine
        while True:
            event = await receive()
            if event["type"] == "websocket.disconnect":
                return
            now = clock()
            connection.heard_at = now
            text = event.get("text")
            if text is None:
                machine.receive_binary()
                connection.flush()
                continue
            asked = machine.receive(text, now)
            if asked is None:
                connection.flush()
            elif isinstance(asked, SendRequested):
                client = connection.client
                if client is not None:
                    hub.exchange.accept(connection, client.id, asked.frame, now)
            elif isinstance(asked, MessageAcked):
                hub.exchange.acked(connection, asked.token)
            else:
                await self._serve_slowly(hub, connection, asked)

    async def _serve_slowly(
        self,
        hub: Hub,
        connection: Connection,
        asked: RegistrationRequested | LookupRequested | PublishRequested | StatusAcked,
    ) -> None:
        """Do what needs the database; the client's next frame waits until it is done."""
        match asked:
            case RegistrationRequested():
                await hub.register(connection, asked)
            case LookupRequested():
                await hub.lookup(connection, asked)
            case PublishRequested():
                await hub.publish(connection, asked)
            case StatusAcked():
                hub.exchange.status_acked(connection, asked.id)


def origin_is_allowed(scope: dict[str, Any]) -> bool:
    """Return whether this may connect, going by the Origin that browsers send.

    Native clients send none, and need none: it is the proof of possession that authenticates. A
    browser sends the origin of the page, which keeps foreign pages away from its user's keys.
    """
    origins = [value for name, value in scope.get("headers", []) if name.lower() == b"origin"]
    if not origins:
        return True
    allowed = {_normal_origin(origin) for origin in relay_settings.ALLOWED_ORIGINS}
    return len(origins) == 1 and _normal_origin(origins[0].decode("latin-1")) in allowed


def _normal_origin(origin: str) -> str:
    # Compared as text: browsers write an origin in one way only, and nothing foreign is parsed.
    return origin.strip().lower().rstrip("/")


async def _end(writer: asyncio.Task[None]) -> None:
    """End a connection's writer: it has nothing to write to any more."""
    writer.cancel()
    try:
        await writer
    except asyncio.CancelledError:
        pass
    except OSError:
        pass  # the client left while something was written
