"""The server for production: uvicorn with the bounds that a relay needs.

    python -m bankproject.serve --host 0.0.0.0 --port 8000

It equals this command line, which works as well:

    python -m uvicorn bankproject.asgi:application --loop uvloop \
        --http bankproject.bounded_http:BoundedHttp \
        --ws bankproject.bounded_websocket:BoundedWebSocket \
        --ws-per-message-deflate false --ws-max-size 262144 \
        --ws-ping-interval 20 --ws-ping-timeout 20 --timeout-keep-alive 5 \
        --timeout-graceful-shutdown 20 --no-server-header --no-access-log

The relay's role is what `TELLERWIRE_ROLES` says; one process serves one event loop, and more
processes on the same Redis deliver to each other's clients.
"""

import argparse
import os
import resource
from collections.abc import Sequence
from typing import Final

import uvicorn

from bankproject.operator_errors import told_in_words
from bankproject.ports import port_number

WEBSOCKET_MESSAGE_BYTES_MAX: Final = 262_144
"""Above the protocol's own bound, so that the relay can answer `frame_too_large` itself first."""
PING_INTERVAL_SECONDS: Final = 20.0
PING_TIMEOUT_SECONDS: Final = 20.0
KEEP_ALIVE_SECONDS: Final = 5
SHUTDOWN_SECONDS: Final = 20
"""Shorter than the 30 s that container engines wait before they kill (`stop_grace_period`)."""
BACKLOG_CONNECTIONS: Final = 2_048


def server_config(host: str, port: int) -> uvicorn.Config:
    """Return uvicorn's configuration; `port` 0 takes a free one and logs which.

    Compression is off: it costs 15 to 70 KB a connection and does nothing for ciphertext. The
    `websockets-sansio` implementation is the one that stops sending to who reads too slowly; that,
    and the one for HTTP, get the bounds that they lack.
    """
    return uvicorn.Config(
        "bankproject.asgi:application",
        host=host,
        port=port,
        loop="uvloop",
        http="bankproject.bounded_http:BoundedHttp",
        ws="bankproject.bounded_websocket:BoundedWebSocket",
        ws_max_size=WEBSOCKET_MESSAGE_BYTES_MAX,
        ws_per_message_deflate=False,
        ws_ping_interval=PING_INTERVAL_SECONDS,
        ws_ping_timeout=PING_TIMEOUT_SECONDS,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
        backlog=BACKLOG_CONNECTIONS,
        lifespan="off",
        access_log=False,
        server_header=False,
        log_config=None,  # Django's LOGGING formats uvicorn's lines too
    )


def raise_file_limit() -> None:
    """Let the process open as many files as it may: each socket is one, and 1,024 is common."""
    files_max, allowed = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files_max != allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, allowed))


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until SIGINT or SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m bankproject.serve", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=port_number, default=8000)
    options = parser.parse_args(arguments)
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "bankproject.settings.production")
    raise_file_limit()
    with told_in_words():
        uvicorn.Server(server_config(options.host, options.port)).run()


if __name__ == "__main__":
    main()
