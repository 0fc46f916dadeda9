"""The socket under a WebSocket, which ASGI says nothing of, where the server lets it be reached."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

__all__ = ["PeerSocket"]


def _nothing() -> int:
    return 0


def _never(text: str) -> bool:
    return False


class PeerSocket:
    """What can be asked and done where frames of the application are not all that is written.

    uvicorn's `send` is a method of its protocol, which has the transport; Daphne's leads to none,
    and there nothing is asked and nothing done.
    """

    __slots__ = ("_abort", "unread_bytes", "write_now")

    def __init__(self, send: Callable[[dict[str, Any]], Awaitable[None]]) -> None:
        # uvloop's transports are no asyncio.Transport, so what they can do is asked.
        server = getattr(send, "__self__", None)
        transport = getattr(server, "transport", None)
        self._abort: Callable[[], object] = getattr(transport, "abort", _nothing)
        self.unread_bytes: Callable[[], int] = getattr(transport, "get_write_buffer_size", _nothing)
        """Returns how much the server keeps of what the peer has not read, pongs too."""
        self.write_now: Callable[[str], bool] = getattr(server, "write_now", _never)
        """Writes a text frame at once if the peer reads; returns False where it has to wait."""

    def drop(self) -> None:
        """Drop the socket with what is left in it.

        uvicorn closes a socket once its buffer is written; to a client that reads nothing it never
        is, and socket and buffer would stay for as long as the client likes.
        """
        self._abort()
