"""What an application hears of a peer that breaks the protocol or reads nothing, from uvicorn."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import uvicorn
from websockets.frames import Frame, Opcode

from bankproject.bounded_websocket import BoundedWebSocket

UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)
WAIT_SECONDS = 10.0
MORE_THAN_BUFFERS_BYTES = 32 * 2**20


class Server:
    """A uvicorn whose application sends what is asked for, and notes how its connection ends."""

    def __init__(self) -> None:
        config = uvicorn.Config(
            self._application,
            interface="asgi3",
            port=0,
            ws=BoundedWebSocket,
            ws_ping_interval=0.3,
            ws_ping_timeout=0.3,
            lifespan="off",
            log_config=None,
        )
        self.server = uvicorn.Server(config)
        self.payload = b""
        self.ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.last_word: BaseException | None = None

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        port = self.server.servers[0].sockets[0].getsockname()[1]
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(UPGRADE)
        await reader.readuntil(b"\r\n\r\n")
        return reader, writer

    async def _application(self, scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "bytes": self.payload})
        event = await receive()
        try:
            await asyncio.wait_for(send({"type": "websocket.send", "text": "late"}), 0.2)
        except (OSError, RuntimeError) as error:
            self.last_word = error
        self.ended.set_result(event["code"])


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    running = Server()
    task = asyncio.create_task(running.server.serve())
    async with asyncio.timeout(WAIT_SECONDS):
        while not running.server.started:
            await asyncio.sleep(0.02)
    yield running
    running.server.should_exit = True
    await task


async def test_the_application_may_not_stumble_over_a_peer_that_broke_the_protocol(
    server: Server,
) -> None:
    _, writer = await server.connect()
    writer.write(Frame(Opcode.TEXT, b"not masked").serialize(mask=False))
    assert await asyncio.wait_for(server.ended, WAIT_SECONDS) == 1002
    assert isinstance(server.last_word, OSError)
    writer.transport.abort()


async def test_the_application_hears_of_a_peer_that_answers_no_ping_and_reads_nothing(
    server: Server,
) -> None:
    server.payload = bytes(MORE_THAN_BUFFERS_BYTES)
    reader, writer = await server.connect()
    assert await asyncio.wait_for(server.ended, WAIT_SECONDS) == 1011
    writer.transport.abort()
    assert not reader.at_eof()  # the socket was still there
