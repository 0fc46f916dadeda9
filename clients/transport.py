"""The WebSocket to the relay: text in, text out, and two errors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final
from urllib.parse import urlsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidURI
from websockets.typing import Subprotocol

from protocol import limits

__all__ = ["Transport", "TransportClosedError", "open_transport"]

OPEN_SECONDS: Final = 10.0
CLOSE_SECONDS: Final = 2.0
PING_SECONDS: Final = 20.0
RECEIVE_QUEUE_FRAMES: Final = 64
_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})


class TransportClosedError(Exception):
    """There is no connection (any more).

    :param reason: why, for a log; the relay's close reason is the code of a fatal error.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Transport:
    """One open WebSocket that speaks the relay's subprotocol."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket

    async def send(self, text: str) -> None:
        """Send one frame; waits while the other side doesn't read.

        :raises TransportClosedError: the connection is gone.
        """
        try:
            await self._socket.send(text)
        except ConnectionClosed as error:
            raise TransportClosedError(str(error)) from error

    async def receive(self) -> str | bytes:
        """Return the next frame.

        :raises TransportClosedError: the connection is gone.
        """
        try:
            return await self._socket.recv()
        except ConnectionClosed as error:
            raise TransportClosedError(str(error)) from error

    async def close(self) -> None:
        """Close in good order, within seconds even if the other side is dead."""
        await self._socket.close()


async def open_transport(url: str) -> Transport:
    """Connect to the relay at ``url`` (``ws://`` or ``wss://``).

    Compression is off: it does nothing for ciphertext and costs memory.

    :raises TransportClosedError: nobody is there, or whoever is there speaks something else.
    """
    loopback = urlsplit(url).hostname in _LOOPBACK
    offered: Sequence[Subprotocol] = [Subprotocol(limits.SUBPROTOCOL)]
    try:
        socket = await connect(
            url,
            subprotocols=offered,
            compression=None,
            proxy=None if loopback else True,
            max_size=limits.FRAME_BYTES_MAX,
            max_queue=RECEIVE_QUEUE_FRAMES,
            open_timeout=OPEN_SECONDS,
            close_timeout=CLOSE_SECONDS,
            ping_interval=PING_SECONDS,
            ping_timeout=PING_SECONDS,
            user_agent_header=None,
        )
    except (OSError, TimeoutError, InvalidHandshake, InvalidURI) as error:
        raise TransportClosedError(f"no relay at {url}: {error}") from error
    if socket.subprotocol != limits.SUBPROTOCOL:
        await socket.close()
        raise TransportClosedError(f"what answers at {url} doesn't speak {limits.SUBPROTOCOL}")
    return Transport(socket)
