"""What a peer can make a real uvicorn wait for and keep before it is anybody."""

from __future__ import annotations

import asyncio
import resource
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any

import pytest
import uvicorn

from bankproject import bounded_http
from bankproject.bounded_http import BoundedHttp
from bankproject.bounded_websocket import BoundedWebSocket

HEAD = b"GET / HTTP/1.1\r\nHost: x\r\n"
UPGRADE = (
    HEAD + b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
)
WAIT_SECONDS = 10.0
LARGE_BYTES = 32 * 2**20


class Peer:
    """A socket to the server, written to by hand."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        with suppress(ConnectionError):
            await self.writer.drain()

    async def answer(self) -> bytes:
        """Return the first line of what comes."""
        return await asyncio.wait_for(self.reader.readline(), WAIT_SECONDS)

    async def is_ended(self) -> bool:
        """Read until the server closes."""
        with suppress(ConnectionError):
            await asyncio.wait_for(self.reader.read(), WAIT_SECONDS)
        return True


class Server:
    """A uvicorn with an application that says OK, or as much as is asked for."""

    def __init__(self) -> None:
        config = uvicorn.Config(
            self._application,
            interface="asgi3",
            port=0,
            http=BoundedHttp,
            ws=BoundedWebSocket,
            lifespan="off",
            log_config=None,
        )
        self.server = uvicorn.Server(config)
        self.peers: list[Peer] = []

    @property
    def sockets(self) -> int:
        return len(self.server.server_state.connections)

    async def connect(self) -> Peer:
        port = self.server.servers[0].sockets[0].getsockname()[1]
        peer = Peer(*await asyncio.open_connection("127.0.0.1", port))
        self.peers.append(peer)
        return peer

    async def _application(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.accept"})
            await receive()
            return
        while (await receive()).get("more_body"):
            pass
        body = bytes(LARGE_BYTES) if scope["path"] == "/large" else b"OK"
        length = (b"content-length", str(len(body)).encode())
        await send({"type": "http.response.start", "status": 200, "headers": [length]})
        await send({"type": "http.response.body", "body": body})


@pytest.fixture
async def server(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Server]:
    for name in ("REQUEST_SECONDS", "WRITE_SECONDS", "CLOSE_SECONDS"):
        monkeypatch.setattr(bounded_http, name, 0.5)
    running = Server()
    task = asyncio.create_task(running.server.serve())
    await _until(lambda: running.server.started)
    yield running
    for peer in running.peers:
        peer.writer.transport.abort()
    running.server.should_exit = True
    await task


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_SECONDS):
        while not condition():
            await asyncio.sleep(0.02)


@pytest.mark.parametrize(
    "half",
    [
        b"",
        b"GET / HTTP/1.1\r\nX: ",
        b"\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\nhalf",
        UPGRADE,
    ],
)
async def test_half_a_request_holds_no_socket(server: Server, half: bytes) -> None:
    peers = [await server.connect() for _ in range(20)]
    for peer in peers:
        await peer.send(half)
    await _until(lambda: server.sockets == 20)
    assert all([await peer.is_ended() for peer in peers])
    assert server.sockets == 0


async def test_who_sends_a_little_now_and_then_is_ended_too(server: Server) -> None:
    peer = await server.connect()
    await peer.send(HEAD)
    began = time.monotonic()
    while server.sockets and time.monotonic() - began < WAIT_SECONDS:
        await peer.send(b"x: y\r\n")
        await asyncio.sleep(0.05)
    assert server.sockets == 0


async def test_whole_requests_are_answered_one_after_the_other(server: Server) -> None:
    peer = await server.connect()
    for _ in range(5):  # longer than a request may take
        await peer.send(HEAD + b"\r\n")
        assert await peer.answer() == b"HTTP/1.1 200 OK\r\n"
        await peer.reader.readuntil(b"OK")
        await asyncio.sleep(0.2)
    await peer.send(HEAD)  # the time for the next one began with the last answer
    assert await peer.is_ended()


async def test_a_websocket_is_open_for_as_long_as_it_likes(server: Server) -> None:
    peer = await server.connect()
    await peer.send(UPGRADE + b"\r\n")
    assert await peer.answer() == b"HTTP/1.1 101 Switching Protocols\r\n"
    await asyncio.sleep(1)
    assert server.sockets == 1


@pytest.mark.parametrize(
    "rest",
    [b"X: y\r\n" * 200, b"X: " + b"y" * 20_000 + b"\r\n", b"Content-Length: 5\r\n"],
)
async def test_a_handshake_that_is_none_ends(server: Server, rest: bytes) -> None:
    peer = await server.connect()
    await peer.send(UPGRADE + rest + b"\r\n")
    assert b"101" not in await peer.answer()
    assert await peer.is_ended()
    assert server.sockets == 0


async def test_too_large_a_request_is_refused(server: Server) -> None:
    endless_head, endless_body = await server.connect(), await server.connect()
    await endless_head.send(HEAD + b"X: " + b"y" * 2 * bounded_http.HEAD_BYTES_MAX)
    assert b"400" in await endless_head.answer()
    length = 2 * bounded_http.REQUEST_BYTES_MAX
    await endless_body.send(b"POST / HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % length)
    await endless_body.send(bytes(length))
    assert await endless_body.is_ended()
    enough = await server.connect()
    length = bounded_http.REQUEST_BYTES_MAX - 1_000
    await enough.send(b"POST / HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % length + bytes(length))
    assert b"200" in await enough.answer()


async def test_too_many_requests_at_once_are_refused(server: Server) -> None:
    some, many = await server.connect(), await server.connect()
    await some.send((HEAD + b"\r\n") * bounded_http.PIPELINED_MAX)
    for _ in range(bounded_http.PIPELINED_MAX):
        assert b"200" in await some.answer()
        await some.reader.readuntil(b"\r\n\r\nOK")
    await many.send((HEAD + b"\r\n") * 1_000)
    assert await many.is_ended()


async def test_who_reads_no_answer_is_ended(server: Server) -> None:
    peer = await server.connect()
    await peer.send(b"GET /large HTTP/1.1\r\n\r\n")
    await _until(lambda: server.sockets == 0)


async def test_no_more_sockets_than_there_may_be(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounded_http, "sockets_max", lambda: 3)
    kept = [await server.connect() for _ in range(3)]
    for peer in kept:
        await peer.send(UPGRADE + b"\r\n")
        assert b"101" in await peer.answer()
    assert await (await server.connect()).is_ended()
    assert server.sockets == 3
    kept[0].writer.close()
    await _until(lambda: server.sockets == 2)
    peer = await server.connect()
    await peer.send(HEAD + b"\r\n")
    assert b"200" in await peer.answer()


def test_sockets_leave_files_for_everything_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda which: (1_024, 1_024))
    assert bounded_http.sockets_max() == 1_024 - bounded_http.FILES_BESIDE
    monkeypatch.setattr(resource, "getrlimit", lambda which: (2**20, 2**20))
    assert bounded_http.sockets_max() == 11_000
