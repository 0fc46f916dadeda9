"""The production server: a real process, its bounds, and its health check."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import websockets

from bankproject import healthcheck, serve
from bankproject.bounded_http import BoundedHttp
from bankproject.bounded_websocket import BoundedWebSocket
from protocol import limits
from tests.architecture.imports import ROOT
from tests.servers import free_port

START_SECONDS_MAX = 20.0
STOP_SECONDS_MAX = 10.0


@contextmanager
def _server(folder: Path, roles: str) -> Iterator[int]:
    port = free_port()
    environment = {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "bankproject.settings.development",
        "TELLERWIRE_DATA_DIR": str(folder),
        "TELLERWIRE_ROLES": roles,
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "bankproject.serve", "--port", str(port)], cwd=ROOT, env=environment
    )
    try:
        deadline = time.monotonic() + START_SECONDS_MAX
        while healthcheck.main(["--port", str(port)]) != 0:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
        yield port
        process.terminate()
        process.wait(STOP_SECONDS_MAX)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


async def _subprotocol(url: str) -> str | None:
    async with websockets.connect(
        url, subprotocols=[websockets.Subprotocol(limits.SUBPROTOCOL)]
    ) as (connection):
        return connection.subprotocol


def test_the_relays_role_serves_websockets(tmp_path: Path) -> None:
    with _server(tmp_path, "relay") as port:
        spoken = asyncio.run(_subprotocol(f"ws://127.0.0.1:{port}/relay"))
        with pytest.raises(websockets.InvalidStatus, match="403"):
            asyncio.run(_subprotocol(f"ws://127.0.0.1:{port}/elsewhere"))

    assert spoken == limits.SUBPROTOCOL


def test_a_process_without_the_relays_role_serves_none(tmp_path: Path) -> None:
    with (
        _server(tmp_path, "bank,web") as port,
        pytest.raises(websockets.InvalidStatus, match="403"),
    ):
        asyncio.run(_subprotocol(f"ws://127.0.0.1:{port}/relay"))


def test_the_servers_bounds() -> None:
    config = serve.server_config("127.0.0.1", 0)

    config.load()
    assert config.http_protocol_class is BoundedHttp
    assert config.ws_protocol_class is BoundedWebSocket
    assert config.ws_per_message_deflate is False
    # The relay answers `frame_too_large` itself; what is much larger never reaches it.
    assert limits.FRAME_BYTES_MAX < config.ws_max_size <= 4 * limits.FRAME_BYTES_MAX
    assert config.timeout_graceful_shutdown == serve.SHUTDOWN_SECONDS


def test_the_process_may_open_as_many_files_as_it_is_allowed() -> None:
    lines = (
        "import resource; from bankproject.serve import raise_file_limit; "
        "hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]; "
        "resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard)); raise_file_limit(); "
        "assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)"
    )
    subprocess.run([sys.executable, "-c", lines], cwd=ROOT, check=True)


def test_a_dead_process_is_found_dead(capsys: pytest.CaptureFixture[str]) -> None:
    assert healthcheck.main(["--port", str(free_port())]) == 1
    assert "no answer from port" in capsys.readouterr().err
