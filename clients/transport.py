"""The WebSocket to the relay: frames in, frames out, and one error."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import urllib.request
from collections.abc import Callable
from typing import Final
from urllib.parse import urlsplit

from picows import (
    WSAutoPingStrategy,
    WSCloseCode,
    WSError,
    WSFrame,
    WSListener,
    WSMsgType,
    WSTransport,
    WSUpgradeRequest,
    WSUpgradeResponse,
    ws_connect,
)
from python_socks import ProxyError

from protocol import limits

__all__ = ["Receiver", "Transport", "TransportClosedError", "open_transport", "proxy_for"]

OPEN_SECONDS: Final = 10.0
CLOSE_SECONDS: Final = 2.0
PING_SECONDS: Final = 20.0
PARTS_MAX: Final = 4_096
"""In one message. Their bytes are bounded, but an empty one has none, and takes time as well."""
_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})
_SUBPROTOCOL_HEADER: Final = "Sec-WebSocket-Protocol"

_log = logging.getLogger("tellerwire.transport")
_log.setLevel(logging.CRITICAL)  # what the library would tell stands in the close reason

Receiver = Callable[[bytes], None]
"""Gets every frame of the relay, in order; it must not block."""


class TransportClosedError(Exception):
    """There is no connection (any more).

    :param reason: why, for a log; the relay's close reason is the code of a fatal error.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Transport(WSListener):
    """One open WebSocket that speaks the relay's subprotocol.

    :param on_writable: called when :attr:`is_congested` ends.
    """

    def __init__(self, on_writable: Callable[[], None]) -> None:
        super().__init__()
        self._on_writable = on_writable
        self._socket: WSTransport | None = None
        self._watch: asyncio.Future[None] | None = None
        self._receiver: Receiver | None = None
        self._early: list[bytes] = []
        self._parts: list[bytes] = []
        self._parts_bytes = 0
        self._pong_owed: bytes | None = None
        self._reason = ""
        self.is_congested = False
        """Whether the relay reads more slowly than this side writes: write no more for now."""
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when the connection has ended, whoever ended it."""

    @property
    def close_reason(self) -> str:
        """Why the connection has ended."""
        return self._reason or "the connection was lost"

    def listen(self, receiver: Receiver) -> None:
        """Give what comes, and what has come already, to a receiver."""
        self._receiver = receiver
        early, self._early = self._early, []
        for data in early:
            receiver(data)

    def write(self, text: str) -> None:
        """Send one frame, or nothing where there is no connection any more; never waits."""
        if self._socket is not None:
            self._socket.send(WSMsgType.TEXT, text.encode())

    async def close(self) -> None:
        """Close in good order, within seconds even if the other side is dead."""
        if self._socket is None:
            return
        if not self._socket.is_close_frame_sent:
            self._socket.send_close(WSCloseCode.OK)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS):
                await asyncio.shield(self.closed)
        self._end(graceful=False)

    # --- What the library calls ---

    def on_ws_connected(self, transport: WSTransport) -> None:
        """The handshake is complete."""
        self._socket = transport
        self._watch = asyncio.ensure_future(transport.wait_disconnected())
        self._watch.add_done_callback(self._note_fault)

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        """A frame came."""
        kind = frame.msg_type
        if kind is WSMsgType.TEXT and frame.fin and frame.payload_size <= limits.FRAME_BYTES_MAX:
            self._deliver(frame.get_payload_as_bytes())
        elif kind in (WSMsgType.TEXT, WSMsgType.BINARY, WSMsgType.CONTINUATION):
            self._collect(frame)
        elif kind is WSMsgType.PING:
            self._answer_ping(transport, frame.get_payload_as_bytes())
        elif kind is WSMsgType.CLOSE:
            self._note_close(frame.get_payload_as_bytes())
            if not transport.is_close_frame_sent:
                transport.send_close(WSCloseCode.OK)
            self._end(graceful=True)

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        """The connection is gone."""
        self._socket = None
        if not self.closed.done():
            self.closed.set_result(None)

    def pause_writing(self) -> None:
        """What was written waits for the relay to read."""
        self.is_congested = True

    def resume_writing(self) -> None:
        """The relay has read."""
        self.is_congested = False
        pong, self._pong_owed = self._pong_owed, None
        if pong is not None and self._socket is not None:
            self._socket.send_pong(pong)
        self._on_writable()

    # --- Inside ---

    def _collect(self, frame: WSFrame) -> None:
        """Put a message together that comes in parts, as long as it stays within the bound."""
        part = frame.get_payload_as_bytes()
        self._parts.append(part)
        self._parts_bytes += len(part)
        if self._parts_bytes > limits.FRAME_BYTES_MAX or len(self._parts) > PARTS_MAX:
            self._parts.clear()
            self._reason = "the relay sent a frame that is too large"
            self._end(graceful=False)
        elif frame.fin:
            data = b"".join(self._parts)
            self._parts.clear()
            self._parts_bytes = 0
            self._deliver(data)

    def _answer_ping(self, socket: WSTransport, payload: bytes) -> None:
        """Answer, or owe the answer to the last ping while the relay reads nothing.

        RFC 6455 (section 5.5.3) lets the last pong stand for those before it.
        """
        if self.is_congested:
            self._pong_owed = payload
        else:
            socket.send_pong(payload)

    def _deliver(self, data: bytes) -> None:
        if self._receiver is None:
            self._early.append(data)
        else:
            self._receiver(data)

    def _note_close(self, payload: bytes) -> None:
        code = int.from_bytes(payload[:2], "big") if len(payload) >= 2 else None
        words = payload[2:].decode(errors="replace")
        said = " ".join(part for part in (str(code or ""), words) if part)
        self._reason = self._reason or f"closed by the relay: {said or 'no reason given'}"

    def _note_fault(self, watch: asyncio.Future[None]) -> None:
        """What ends with a fault of the other side ends with its reason."""
        if not watch.cancelled() and (error := watch.exception()) is not None:
            self._reason = self._reason or str(error)

    def _end(self, *, graceful: bool) -> None:
        if self._socket is not None:
            self._socket.disconnect(graceful)


async def open_transport(url: str, on_writable: Callable[[], None]) -> Transport:
    """Connect to the relay at ``url`` (``ws://`` or ``wss://``).

    Compression is off: it does nothing for ciphertext and costs memory.

    :raises TransportClosedError: nobody is there, or whoever is there speaks something else.
    """
    spoken: list[str | None] = []

    def made(_: WSUpgradeRequest, response: WSUpgradeResponse) -> Transport:
        spoken.append(response.headers.get(_SUBPROTOCOL_HEADER))
        return Transport(on_writable)

    try:
        async with asyncio.timeout(OPEN_SECONDS):
            _, transport = await ws_connect(
                made,
                url,
                extra_headers=[(_SUBPROTOCOL_HEADER, limits.SUBPROTOCOL)],
                max_frame_size=limits.FRAME_BYTES_MAX,
                websocket_handshake_timeout=OPEN_SECONDS,
                enable_auto_ping=True,
                enable_auto_pong=False,  # it would write without end to who reads nothing
                auto_ping_strategy=WSAutoPingStrategy.PING_WHEN_IDLE,
                auto_ping_idle_timeout=PING_SECONDS,
                auto_ping_reply_timeout=PING_SECONDS,
                proxy=proxy_for(url),
                logger_name=_log,
            )
    except (OSError, TimeoutError, ValueError, WSError, ProxyError) as error:
        raise TransportClosedError(f"no relay at {url}: {str(error) or 'no answer'}") from error
    if not isinstance(transport, Transport):  # none was made where no answer was complete
        raise TransportClosedError(f"no relay at {url}: the connection ended before it was open")
    if spoken[-1:] != [limits.SUBPROTOCOL]:
        await transport.close()
        raise TransportClosedError(f"what answers at {url} doesn't speak {limits.SUBPROTOCOL}")
    return transport


def proxy_for(url: str) -> str | None:
    """Return the proxy that the environment names for an address; none for this machine itself."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if host in _LOOPBACK or urllib.request.proxy_bypass(host):
        return None
    proxies = urllib.request.getproxies()
    return proxies.get("socks") or proxies.get("https" if parts.scheme == "wss" else "http")
