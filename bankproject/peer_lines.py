"""Log lines that any peer can provoke: short, and no alarm.

Whoever reaches the port could otherwise fill the log, with three lines for each connection and
tracebacks for bytes that are no text, and could make its reader look for errors that are none.
"""

from __future__ import annotations

import logging
from typing import Final

__all__ = ["OfPeers", "WithoutTraceback"]

TEXT_CHARS_MAX: Final = 200

_OF_PEERS: Final = frozenset(
    {
        # uvicorn
        '%s - "WebSocket %s" [accepted]',
        '%s - "WebSocket %s" 403',
        '%s - "WebSocket %s" %d',
        "Invalid HTTP request received.",
        "Invalid UTF-8 sequence received from client.",
        "Unsupported upgrade request.",
        # websockets
        "HTTP response sent (%d %s)",
        "connection closed",
        "connection open",
        "connection rejected (%d %s)",
        "opening handshake failed",
        "parser failed",
    }
)


class OfPeers(logging.Filter):
    """Makes lines about what a peer did or sent lines for debugging."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether the line is written."""
        if not isinstance(record.msg, str) or record.msg not in _OF_PEERS:
            return True
        record.levelno, record.levelname = logging.DEBUG, "DEBUG"
        record.exc_info = None
        return logging.getLogger(record.name).isEnabledFor(logging.DEBUG)


class WithoutTraceback(logging.Filter):
    """Makes an error whose words a peer has chosen one short line, at the level of a warning."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Return that the line is written."""
        record.levelno, record.levelname = logging.WARNING, "WARNING"
        record.msg, record.args = record.getMessage()[:TEXT_CHARS_MAX], ()
        record.exc_info = None
        return True
