"""uvicorn's WebSocket protocol, with bounds on what a peer can make it keep.

uvicorn answers each ping where it finds it, without looking at how much of earlier answers still
waits for the peer; and it stops reading for messages only. So who sends pings and reads nothing
would fill the server's memory as fast as he can send.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from uvicorn.config import Config
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState
from websockets.frames import CloseCode, Frame
from websockets.protocol import State

__all__ = ["BoundedWebSocket"]

FRAGMENTS_MAX: Final = 4_096
"""In one message. Their bytes are bounded, but an empty one has none, and costs memory as well."""


class BoundedWebSocket(WebSocketsSansIOProtocol):
    """One peer's WebSocket, whose memory stays flat whatever the peer sends, read or not."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._pong_owed = b""

    def write_now(self, text: str) -> bool:
        """Write a text frame without a task that waits for its turn; False where it has to wait.

        For the relay, which calls this only where nothing of its own waits to be written.
        """
        ready = self.writable.is_set() and self.conn.state is State.OPEN and not self.close_sent
        if not ready or self.transport.is_closing():
            return False
        self.conn.send_text(text.encode())
        self.transport.write(b"".join(self.conn.data_to_send()))
        return True

    def handle_ping(self) -> None:
        """Answer pings, or owe the answer to the last one while the peer reads nothing.

        RFC 6455 (section 5.5.3) lets the last pong stand for those before it. Who reads gets all of
        them. Who doesn't fails to answer the server's own pings too, and is dropped for that.
        """
        pongs = self.conn.data_to_send()
        if self.transport.is_closing() or not pongs:
            return
        if self.writable.is_set():
            self.transport.write(b"".join(pongs))
        elif self.conn.state is State.OPEN:
            self._pong_owed = pongs[-1]

    def resume_writing(self) -> None:
        """Write again, at first the pong that is owed."""
        super().resume_writing()
        pong, self._pong_owed = self._pong_owed, b""
        if pong and self.conn.state is State.OPEN and not self.transport.is_closing():
            self.transport.write(pong)

    def handle_cont(self, event: Frame) -> None:
        """Take the next fragment of a message, if there are not too many."""
        if len(self.frames) < FRAGMENTS_MAX:
            super().handle_cont(event)
        elif not self.close_sent:
            self.conn.fail(CloseCode.POLICY_VIOLATION, "too many fragments")
            self.handle_parser_exception()

    def handle_parser_exception(self) -> None:
        """Close on a peer that broke the protocol: the application may say nothing any more."""
        super().handle_parser_exception()
        self.disconnected = True

    def keepalive_timeout(self) -> None:
        """Close on a peer that answered no ping, and tell the application at once.

        uvicorn tells it when the socket is closed; where something waits to be written, to a peer
        that reads nothing, that would be never.
        """
        is_first = not (self.close_sent or self.transport.is_closing())
        super().keepalive_timeout()
        if is_first:
            self.disconnected = True
            code = CloseCode.INTERNAL_ERROR.value
            self.queue.put_nowait({"type": "websocket.disconnect", "code": code, "reason": ""})

    def refuse_handshake(self) -> None:
        """Refuse a request of which nothing came but, at most, an answer that was never written."""
        self.close_sent = self.handshake_complete = True
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.transport.close()
