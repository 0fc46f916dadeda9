"""The WebSocket of a client: parts, bounds, closing, back-pressure, and the way through a proxy."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from clients.transport import (
    PARTS_MAX,
    Transport,
    TransportClosedError,
    open_transport,
    proxy_for,
)
from protocol import limits
from tests.clients.fake_relay import until

Behaviour = Callable[[ServerConnection], Awaitable[None]]


def nothing() -> None:
    """Nobody waits to write."""


@asynccontextmanager
async def connected(
    behaviour: Behaviour, on_writable: Callable[[], None] = nothing
) -> AsyncIterator[tuple[Transport, list[bytes]]]:
    """A connection to a relay that behaves like this, and what came over it."""
    received: list[bytes] = []
    async with serve(
        behaviour,
        "127.0.0.1",
        0,
        subprotocols=[Subprotocol(limits.SUBPROTOCOL)],
        compression=None,
        close_timeout=1,
    ) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        transport = await open_transport(f"ws://127.0.0.1:{port}/", on_writable)
        transport.listen(received.append)
        try:
            yield transport, received
        finally:
            await transport.close()


async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()


async def hang_up_when_asked(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.close()


async def break_off(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 101 Switch")
    await writer.drain()
    writer.transport.abort()


async def answer_nonsense(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"\xff\xfe\r\n\r\n")
    writer.close()


@pytest.mark.parametrize("behaviour", [hang_up, hang_up_when_asked, break_off, answer_nonsense])
async def test_who_opens_no_websocket_is_no_relay(
    behaviour: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> None:
    async with await asyncio.start_server(behaviour, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(TransportClosedError, match="no relay at"):
            await open_transport(f"ws://127.0.0.1:{port}/", nothing)


async def test_a_proxy_that_refuses_is_no_way_to_a_relay(monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{port}")
        with pytest.raises(TransportClosedError, match="status 407"):
            await open_transport("ws://relay.example/relay", nothing)


async def test_what_comes_before_anybody_listens_is_kept_in_order() -> None:
    async def hasty(socket: ServerConnection) -> None:
        for number in range(5):
            await socket.send(str(number))
        await socket.wait_closed()

    async with serve(
        hasty, "127.0.0.1", 0, subprotocols=[Subprotocol(limits.SUBPROTOCOL)]
    ) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        transport = await open_transport(f"ws://127.0.0.1:{port}/", nothing)
        await asyncio.sleep(0.05)
        received: list[bytes] = []
        transport.listen(received.append)
        await until(lambda: len(received) == 5)
        await transport.close()
    assert received == [b"0", b"1", b"2", b"3", b"4"]


async def test_a_message_in_parts_is_put_together() -> None:
    async def in_parts(socket: ServerConnection) -> None:
        await socket.send(iter(["Ärl", "", "ig"]))
        await socket.ping()
        await socket.send("whole")
        await socket.wait_closed()

    async with connected(in_parts) as (_, received):
        await until(lambda: len(received) == 2)
    assert received == ["Ärlig".encode(), b"whole"]


@pytest.mark.parametrize("parts", [1, 3])
async def test_a_message_that_is_too_large_ends_the_connection(parts: int) -> None:
    async def too_large(socket: ServerConnection) -> None:
        part = "x" * (limits.FRAME_BYTES_MAX // parts + 1)
        await socket.send(iter([part] * parts) if parts > 1 else part)
        await socket.wait_closed()

    async with connected(too_large) as (transport, received):
        await asyncio.wait_for(asyncio.shield(transport.closed), 5)
    assert received == []


async def test_a_message_of_endless_parts_ends_the_connection() -> None:
    """Empty ones have no bytes that would be too many."""

    async def parts() -> AsyncIterator[str]:
        while True:
            yield ""
            await asyncio.sleep(0)

    async def endless(socket: ServerConnection) -> None:
        with suppress(ConnectionClosed):
            await socket.send(parts())

    async with connected(endless) as (transport, received):
        await asyncio.wait_for(asyncio.shield(transport.closed), 5)
        assert "too large" in transport.close_reason
    assert received == []


async def test_a_message_of_many_parts_is_put_together() -> None:
    async def many(socket: ServerConnection) -> None:
        for letter in "xy":  # the library ends them with an empty part
            await socket.send(iter([letter] * (PARTS_MAX - 1)))
        await socket.wait_closed()

    async with connected(many) as (_, received):
        await until(lambda: len(received) == 2)
    assert received == [b"x" * (PARTS_MAX - 1), b"y" * (PARTS_MAX - 1)]


async def test_pings_of_a_relay_that_reads_nothing_fill_no_memory() -> None:
    """Who reads again gets the last pong, which stands for all."""
    full, read, answered = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def pinging(socket: ServerConnection) -> None:
        socket.transport.pause_reading()
        numbers, left = itertools.count(), 10_000
        while left:  # as many again, once what the system keeps is full
            last = await socket.ping(f"{next(numbers):0125}")
            left -= full.is_set()
        read.set()
        socket.transport.resume_reading()
        await last
        answered.set()
        await socket.wait_closed()

    async with connected(pinging) as (transport, _):
        assert transport._socket is not None
        waiting = transport._socket.underlying_transport.get_write_buffer_size
        largest = 0
        while not read.is_set():
            largest = max(largest, waiting())
            if transport.is_congested:
                full.set()
            await asyncio.sleep(0)
        assert largest < 500_000
        await asyncio.wait_for(answered.wait(), 10)


async def test_the_relays_reason_for_closing_is_told() -> None:
    async def closing(socket: ServerConnection) -> None:
        await socket.close(4000, "slow_consumer")

    async with connected(closing) as (transport, _):
        await asyncio.wait_for(asyncio.shield(transport.closed), 5)
        assert transport.close_reason == "closed by the relay: 4000 slow_consumer"
        transport.write("nobody is there")  # is nothing


async def test_a_relay_that_goes_without_a_word_is_noticed() -> None:
    async def rude(socket: ServerConnection) -> None:
        socket.transport.abort()

    async with connected(rude) as (transport, _):
        await asyncio.wait_for(asyncio.shield(transport.closed), 5)
        assert transport.close_reason == "the connection was lost"


async def test_leaving_doesnt_wait_for_a_relay_that_is_dead(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("clients.transport.CLOSE_SECONDS", 0.1)

    async def dead(socket: ServerConnection) -> None:
        socket.transport.pause_reading()
        await asyncio.sleep(1)

    async with connected(dead) as (transport, _):
        await asyncio.wait_for(transport.close(), 2)
        await asyncio.wait_for(asyncio.shield(transport.closed), 2)


async def test_a_relay_that_doesnt_read_is_noticed_and_so_is_its_reading_again() -> None:
    writable = asyncio.Event()
    read = asyncio.Event()

    async def slow(socket: ServerConnection) -> None:
        socket.transport.pause_reading()
        await read.wait()
        socket.transport.resume_reading()
        async for _ in socket:
            pass

    async with connected(slow, writable.set) as (transport, _):
        for _ in range(10_000):
            transport.write("x" * 10_000)
            if transport.is_congested:
                break
        assert transport.is_congested
        assert not writable.is_set()
        read.set()
        await asyncio.wait_for(writable.wait(), 5)
        assert not transport.is_congested


def test_the_environments_proxy_is_used_but_not_for_this_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "socks_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    assert proxy_for("wss://relay.example/relay") is None
    monkeypatch.setenv("https_proxy", "http://proxy.example:3128")
    monkeypatch.setenv("no_proxy", "inside.example")
    assert proxy_for("wss://relay.example/relay") == "http://proxy.example:3128"
    assert proxy_for("ws://relay.example/relay") is None
    assert proxy_for("wss://inside.example/relay") is None
    assert proxy_for("ws://127.0.0.1:1/relay") is None
