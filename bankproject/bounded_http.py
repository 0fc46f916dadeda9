"""uvicorn's HTTP protocol, with bounds on time, bytes and sockets.

uvicorn waits for the rest of a request for as long as the peer likes, and keeps all that came of
it. Its `limit_concurrency` answers 503 to whole requests; half of one, and a WebSocket, it lets
through. Every WebSocket begins here, as a request, so these bounds hold for the relay's peers too.
"""

from __future__ import annotations

import asyncio
import resource
from typing import Any, Final

import structlog
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from bankproject.bounded_websocket import BoundedWebSocket
from relay.conf import relay_settings

__all__ = ["BoundedHttp", "sockets_max"]

log = structlog.get_logger(__name__)

REQUEST_SECONDS: Final = 20.0
"""For a whole request, from the connection or from the last answer on."""
WRITE_SECONDS: Final = 20.0
"""How long a peer may leave unread what no longer fits the buffers."""
CLOSE_SECONDS: Final = 5.0
"""How long a peer may take for reading the last answer, where it doesn't fit the buffers."""
HEAD_BYTES_MAX: Final = 65_536
REQUEST_BYTES_MAX: Final = 4_194_304
"""Above the 2.5 MiB that Django takes of a form."""
PIPELINED_MAX: Final = 16
"""Requests that wait for the answer to the one before: each costs far more than its bytes."""
SOCKETS_BESIDE: Final = 1_000
"""Above the relay's `CONNECTIONS_MAX`, so that whoever is one too many can still be told so."""
FILES_BESIDE: Final = 100
"""Of the files that a process may open: databases, Redis, logs."""
FULL_LINE_SECONDS: Final = 10.0


def sockets_max() -> int:
    """Return how many sockets of peers one process keeps open."""
    files_max = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    wanted: int = relay_settings.CONNECTIONS_MAX + SOCKETS_BESIDE
    return wanted if files_max == resource.RLIM_INFINITY else min(wanted, files_max - FILES_BESIDE)


class BoundedHttp(HttpToolsProtocol):
    """One peer's socket, until it becomes a WebSocket."""

    _full_line_after = 0.0

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._request_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        self._received = 0
        """Bytes since the last request was complete."""
        self._in_head = True

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as in uvicorn
        """Keep the socket, if there are not too many."""
        super().connection_made(transport)
        if len(self.connections) > sockets_max():
            self._note_full()
            transport.abort()
        else:
            self._drop_after(REQUEST_SECONDS)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the socket."""
        super().connection_lost(exc)
        self._stop_timers()

    def data_received(self, data: bytes) -> None:
        """Take what came, if the request that it belongs to doesn't get too large."""
        self._received += len(data)
        super().data_received(data)
        bytes_max = HEAD_BYTES_MAX if self._in_head else REQUEST_BYTES_MAX
        if self._received > bytes_max and not self.transport.is_closing():
            self.send_400_response("The request is too large.")

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._in_head = True

    def on_headers_complete(self) -> None:
        """Take a request's head; the parser makes a 400 of an error."""
        if len(self.pipeline) >= PIPELINED_MAX:
            raise ValueError("too many requests at once")
        super().on_headers_complete()
        self._in_head = False

    def on_message_complete(self) -> None:
        """A request is complete: now the peer waits for the server."""
        super().on_message_complete()
        self._received = 0
        self._in_head = True
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop_request_timer()

    def on_response_complete(self) -> None:
        """A request is answered: the next one, or what is left of it, is waited for."""
        super().on_response_complete()
        if self.transport.is_closing():
            self._drop_after(CLOSE_SECONDS)
        elif self.cycle.response_complete or self.cycle.more_body:
            self._drop_after(REQUEST_SECONDS)

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no request, and close."""
        super().send_400_response(msg)
        self._drop_after(CLOSE_SECONDS)

    def timeout_keep_alive_handler(self) -> None:
        """Close a socket that nobody uses."""
        super().timeout_keep_alive_handler()
        self._drop_after(CLOSE_SECONDS)

    def pause_writing(self) -> None:
        """Write no more until the peer has read; it must not take too long."""
        super().pause_writing()
        self._write_timer = self.loop.call_later(WRITE_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """Write again."""
        super().resume_writing()
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def handle_websocket_upgrade(self) -> None:
        """Leave the socket to the WebSocket, or close it where no handshake comes of the request.

        uvicorn waits without end for more of a request with a body, or with more or longer lines
        than the WebSocket's parser takes: that parser has refused it, and uvicorn didn't look.
        """
        self._stop_timers()
        super().handle_websocket_upgrade()
        successor = self.transport.get_protocol()
        if isinstance(successor, BoundedWebSocket) and not successor.handshake_initiated:
            successor.refuse_handshake()

    def _drop_after(self, seconds: float) -> None:
        self._stop_request_timer()
        self._request_timer = self.loop.call_later(seconds, self.transport.abort)

    def _stop_request_timer(self) -> None:
        if self._request_timer is not None:
            self._request_timer.cancel()
            self._request_timer = None

    def _stop_timers(self) -> None:
        self._stop_request_timer()
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def _note_full(self) -> None:
        """Say that there are too many sockets, once for many."""
        now = self.loop.time()
        if now >= BoundedHttp._full_line_after:
            BoundedHttp._full_line_after = now + FULL_LINE_SECONDS
            log.warning("sockets.full", sockets=len(self.connections))
