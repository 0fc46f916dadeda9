"""The socket under a WebSocket, which ASGI says nothing of, where the server lets it be reached."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

__all__ = ["PeerSocket"]


def _nothing() -> int:
    return 0


class PeerSocket:
    """What can be asked and done where frames of the application are not all that is written.

    uvicorn's `send` is a method of its protocol, which has the transport; Daphne's leads to none,
    and there nothing is asked and nothing done.
    """

    __slots__ = ("_abort", "unread_bytes")

    def __init__(self, send: Callable[[dict[str, Any]], Awaitable[None]]) -> None:
        # uvloop's transports are no asyncio.Transport, so what they can do is asked.
        transport = getattr(getattr(send, "__self__", None), "transport", None)
        self._abort: Callable[[], object] = getattr(transport, "abort", _nothing)
        self.unread_bytes: Callable[[], int] = getattr(transport, "get_write_buffer_size", _nothing)
        """Returns how much the server keeps of what the peer has not read, pongs too."""

    def drop(self) -> None:
        """Drop the socket with what is left in it.

        uvicorn closes a socket once its buffer is written; to a client that reads nothing it never
        is, and socket and buffer would stay for as long as the client likes.
        """
        self._abort()
