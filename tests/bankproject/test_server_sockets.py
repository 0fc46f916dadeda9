"""What any peer can do to a server's sockets: pings, fragments, half a request, broken frames.

Nothing here depends on a database, so it is not repeated on the other one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from websockets.frames import Frame, Opcode

from protocol.frames import Role
from protocol.limits import FRAME_BYTES_MAX
from tests.databases import TestDatabases
from tests.integration.processes import RunningServer, Start, servers, start
from tests.relay.peer import Peer, Socket, dial, identity, join
from tests.relay.stalling import read_again, stop_reading, transport_of, until

__all__ = ["start"]

MEBIBYTE = 2**20
PING_PAYLOAD = bytes(125)
PINGS_AT_ONCE = 500


@pytest.fixture(scope="module")
def server(
    module_databases: TestDatabases, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningServer]:
    """A server that the tests of this module share, where they only break connections of theirs."""
    with servers(module_databases.environment, tmp_path_factory.mktemp("server")) as starter:
        yield starter()


async def settled(server: RunningServer) -> str:
    """Return a server's log once it has written all that it has to say about earlier tests."""
    text = ""
    while text != (text := server.text()):
        await asyncio.sleep(0.2)
    return text


async def flood(peer: Peer, count: int, payload: bytes = PING_PAYLOAD) -> None:
    """Let a peer send pings as fast as the server takes them, or until it is dropped."""
    transport = transport_of(peer)
    pings = Frame(Opcode.PING, payload).serialize(mask=True) * PINGS_AT_ONCE
    for _ in range(count // PINGS_AT_ONCE):
        while transport.get_write_buffer_size() and not transport.is_closing():
            await asyncio.sleep(0)
        if transport.is_closing():
            return
        transport.write(pings)


@pytest.mark.parametrize("registers", [True, False])
async def test_pings_of_a_peer_that_reads_nothing_fill_no_memory(
    start: Start, registers: bool
) -> None:
    server = start(relay={"REGISTRATION_SECONDS": 60})
    async with (
        await join(server.relay_url, identity("ada")) as ada,
        await dial(server.relay_url) as flooding,
    ):
        if registers:
            await flooding.register(identity("ben"))
        stop_reading(flooding)
        before = server.memory_bytes
        await flood(flooding, 300_000)
        await ada.still_works()
        assert server.memory_bytes - before < 10 * MEBIBYTE
        read_again(flooding)
        assert isinstance(flooding.wire, Socket)
        await asyncio.wait_for(await flooding.wire.connection.ping(), 15)


async def test_who_reads_the_answers_to_his_pings_gets_all_of_them(server: RunningServer) -> None:
    async with await join(server.relay_url, identity("asking")) as asking:
        assert isinstance(asking.wire, Socket)
        pongs = [await asking.wire.connection.ping() for _ in range(2_000)]
        await asyncio.wait_for(asyncio.gather(*pongs), 15)
        await asking.still_works()


async def test_pings_without_end_are_too_slow_a_consumer_where_uvicorn_is_as_it_comes(
    start: Start,
) -> None:
    server = start(kind="plain uvicorn", relay={"OUTBOX_BYTES_MAX": 2 * FRAME_BYTES_MAX})
    async with (
        await join(server.relay_url, identity("ada")) as ada,
        await join(server.relay_url, identity("ben")) as flooding,
    ):
        stop_reading(flooding)
        before, files = server.memory_bytes, server.open_files
        await flood(flooding, 300_000)
        await until(lambda: server.open_files < files)
        assert server.memory_bytes - before < 20 * MEBIBYTE
        await ada.still_works()


async def test_fragments_without_end_are_refused(server: RunningServer) -> None:
    async with await join(server.relay_url, identity("endless")) as endless:
        empty = Frame(Opcode.CONT, b"", fin=False).serialize(mask=True)
        first = Frame(Opcode.TEXT, b"", fin=False).serialize(mask=True)
        transport_of(endless).write(first + empty * 5_000)
        assert await endless.wire.closed() == (1008, "too many fragments")
    assert "Traceback" not in server.text()


async def test_a_refused_handshake_leaves_the_process_alone(server: RunningServer) -> None:
    for _ in range(20):
        peer = await dial(server.relay_url)
        await peer.wire.send("{")
        await peer.wire.close()
    async with await join(server.relay_url, identity("bank"), Role.SERVICE) as bank:
        await bank.still_works()
    assert "Traceback" not in server.text()


@pytest.mark.parametrize(
    ("broken", "code"),
    [
        (Frame(Opcode.TEXT, b"\xff\xfe").serialize(mask=True), 1007),
        (Frame(Opcode.TEXT, b"x").serialize(mask=False), 1002),
        (b"\x83\x80" + bytes(4), 1002),
        (Frame(Opcode.TEXT, bytes(300_000)).serialize(mask=True), 1009),
        (b"\x89\xfe\x00\x7e" + bytes(4 + 126), 1002),
    ],
    ids=["not UTF-8", "not masked", "no opcode", "too long", "too long a ping"],
)
async def test_a_peer_that_breaks_the_protocol_writes_nothing_into_the_log(
    server: RunningServer, broken: bytes, code: int
) -> None:
    before = await settled(server)
    for _ in range(3):
        async with await dial(server.relay_url) as peer:
            transport_of(peer).write(broken)
            assert (await peer.wire.closed())[0] == code
    assert server.text() == before


async def test_what_is_no_request_writes_nothing_into_the_log(server: RunningServer) -> None:
    before = await settled(server)
    for request in (b"\x16\x03\x01 no HTTP\r\n\r\n", b"GET /nothing HTTP/1.1\r\n\r\n", b"GET / HT"):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(request)
        writer.write_eof()
        await asyncio.wait_for(reader.readline(), 10)
        writer.close()
    assert server.text() == before
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(b"GET /healthz HTTP/1.1\r\nHost: " + b"evil" * 1_000 + b"\r\n\r\n")
    await asyncio.wait_for(reader.readline(), 10)
    writer.close()
    written = server.text().removeprefix(before)
    assert written.count("\n") == 1
    assert len(written) < 400
