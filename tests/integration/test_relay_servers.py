"""The relay inside real servers: slow readers, flat memory, shutdown, under uvicorn and daphne."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection
from websockets.frames import Frame, Opcode

from protocol.encoding import b64u
from protocol.errors import Code
from protocol.frames import Deliver, Drain, Kind, Role, State
from protocol.limits import FRAME_BYTES_MAX
from relay.models import Connection, Mail, Worker
from tests.integration.processes import Kind as ServerKind
from tests.integration.processes import Start
from tests.relay.peer import Peer, Socket, dial, identity, join

BIG_BODY = b64u(bytes(60_000))
MEBIBYTE = 2**20
PING_PAYLOAD = bytes(125)
PINGS_AT_ONCE = 500


def stop_reading(peer: Peer) -> None:
    """Let a peer read nothing any more: its kernel's buffer fills, then the server's."""
    assert isinstance(peer.wire, Socket)
    transport = _transport(peer.wire.connection)
    transport.pause_reading()


def read_again(peer: Peer) -> None:
    assert isinstance(peer.wire, Socket)
    transport = _transport(peer.wire.connection)
    transport.resume_reading()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(15):
        while not condition():
            await asyncio.sleep(0.05)


def _transport(connection: ClientConnection) -> Any:
    return connection.transport


@pytest.mark.parametrize("kind", ["uvicorn", "daphne"])
async def test_a_client_that_reads_nothing_is_closed_and_memory_stays_flat(
    start: Start, kind: ServerKind
) -> None:
    server = start(
        kind=kind,
        relay={"STALL_SECONDS": 1.5, "ACK_SECONDS": 1.5, "CLOSE_SECONDS": 1, "IN_FLIGHT_MAX": 64},
    )
    url = server.relay_url
    ben = identity("ben")
    async with await join(url, identity("ada")) as ada, await join(url, ben) as stalled:
        stop_reading(stalled)
        before, files = server.memory_bytes, server.open_files
        sent = [await ada.post("ben", body=BIG_BODY) for _ in range(200)]
        # All end up in the mailbox: what did not fit the window at once, the rest afterwards.
        states = {(await ada.status()).state for _ in sent}
        assert states == {State.QUEUED}
        assert server.memory_bytes - before < 40 * MEBIBYTE
        await ada.still_works()
        await until(lambda: server.open_files < files)  # the socket is gone, read or not
        async with await join(url, ben) as again:
            assert [(await again.take()).id for _ in sent] == sent
        read_again(stalled)


async def flood(peer: Peer, count: int, payload: bytes = PING_PAYLOAD) -> None:
    """Let a peer send pings as fast as the server takes them, or until it is dropped."""
    assert isinstance(peer.wire, Socket)
    transport = _transport(peer.wire.connection)
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


async def test_who_reads_the_answers_to_his_pings_gets_all_of_them(start: Start) -> None:
    server = start()
    async with await join(server.relay_url, identity("ada")) as ada:
        assert isinstance(ada.wire, Socket)
        pongs = [await ada.wire.connection.ping() for _ in range(2_000)]
        await asyncio.wait_for(asyncio.gather(*pongs), 15)
        await ada.still_works()


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


async def test_fragments_without_end_are_refused(start: Start) -> None:
    server = start()
    async with await join(server.relay_url, identity("ada")) as ada:
        assert isinstance(ada.wire, Socket)
        empty = Frame(Opcode.CONT, b"", fin=False).serialize(mask=True)
        first = Frame(Opcode.TEXT, b"", fin=False).serialize(mask=True)
        _transport(ada.wire.connection).write(first + empty * 5_000)
        assert await ada.wire.closed() == (1008, "too many fragments")
    assert "Traceback" not in server.text()


async def test_who_begins_to_read_again_hears_why_he_was_closed(start: Start) -> None:
    server = start(relay={"STALL_SECONDS": 0.5, "ACK_SECONDS": 30, "CLOSE_SECONDS": 10})
    url = server.relay_url
    async with await join(url, identity("ada")) as ada, await join(url, identity("ben")) as slow:
        stop_reading(slow)
        for _ in range(150):
            await ada.post("ben", body=BIG_BODY)
        await asyncio.sleep(2)
        read_again(slow)
        assert (await slow.refusal()).code is Code.SLOW_CONSUMER
        assert await slow.wire.closed() == (4000, Code.SLOW_CONSUMER.value)


async def test_a_slow_recipient_does_not_hold_up_its_senders(start: Start) -> None:
    url = start(relay={"STALL_SECONDS": 30, "ACK_SECONDS": 30}).relay_url
    async with (
        await join(url, identity("ada")) as ada,
        await join(url, identity("slow")) as slow,
        await join(url, identity("ben")) as ben,
    ):
        stop_reading(slow)
        for _ in range(120):
            await ada.post("slow", body=BIG_BODY)
        began = time.monotonic()
        sent = await ada.post("ben")
        assert (await ben.take()).id == sent
        assert time.monotonic() - began < 5
        read_again(slow)


@pytest.mark.parametrize("kind", ["uvicorn", "daphne"])
async def test_sigterm_drains(start: Start, kind: ServerKind) -> None:
    server = start(kind=kind, relay={"DRAIN_SECONDS": 1.5})
    url = server.relay_url
    ben = identity("ben")
    async with await join(url, identity("ada")) as ada, await join(url, ben) as peer:
        held = [await ada.post("ben", kind=Kind.REQUEST) for _ in range(3)]
        first = await peer.expect(Deliver)
        await peer.expect(Deliver)
        server.terminate()
        await peer.expect(Drain)
        await peer.ack(first)
        assert (await ada.status()).state is State.DELIVERED
        for one in (peer, ada):
            assert (await one.wire.closed())[0] == 4000
    assert server.wait() in (0, -signal.SIGTERM)
    assert [str(row.message_id) async for row in Mail.objects.order_by("pk")] == held[1:]
    assert await Connection.objects.acount() == 0
    assert await Worker.objects.acount() == 0
    again = start(kind=kind)
    async with await join(again.relay_url, ben) as peer:
        taken = [await peer.take() for _ in held[1:]]
        assert [(one.id, one.attempt) for one in taken] == [(one, 2) for one in held[1:]]


async def test_a_second_signal_ends_the_server_at_once(start: Start) -> None:
    server = start(relay={"DRAIN_SECONDS": 60, "CLOSE_SECONDS": 1})
    async with (
        await join(server.relay_url, identity("ada")) as ada,
        await join(server.relay_url, identity("ben")) as ben,
    ):
        sent = await ada.post("ben")
        await ben.expect(Deliver)
        began = time.monotonic()
        server.terminate()
        await ben.expect(Drain)
        server.terminate()
        server.wait()
        assert time.monotonic() - began < 15
    assert [str(row.message_id) async for row in Mail.objects.all()] == [sent]


async def test_what_a_killed_server_had_stored_survives(start: Start) -> None:
    ben, ada = identity("ben"), identity("ada")
    first = start()
    async with await join(first.relay_url, ben):
        pass
    peer = await join(first.relay_url, ada)
    sent = [await peer.post("ben") for _ in range(10)]
    assert {(await peer.status()).state for _ in sent} == {State.QUEUED}
    first.kill()
    second = start()
    async with await join(second.relay_url, ben) as recipient:
        assert [(await recipient.take()).id for _ in sent] == sent
        async with await join(second.relay_url, ada) as again:
            told = [await again.status() for _ in sent]
            assert {(one.id, one.state) for one in told} == {(i, State.DELIVERED) for i in sent}


async def test_sending_the_same_message_again_stores_it_once(start: Start) -> None:
    url = start().relay_url
    async with await join(url, identity("ben")):
        pass
    async with await join(url, identity("ada")) as ada:
        sent = await ada.post("ben")
        for _ in range(3):
            await ada.post("ben", id=sent)
        for _ in range(4):
            status = await ada.status()
            assert (status.id, status.state) == (sent, State.QUEUED)
    assert await Mail.objects.acount() == 1


async def test_a_refused_handshake_leaves_the_process_alone(start: Start) -> None:
    server = start()
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
    start: Start, broken: bytes, code: int
) -> None:
    server = start()
    before = server.text()
    for _ in range(3):
        async with await dial(server.relay_url) as peer:
            assert isinstance(peer.wire, Socket)
            _transport(peer.wire.connection).write(broken)
            assert (await peer.wire.closed())[0] == code
    assert server.text() == before


async def test_what_is_no_request_writes_nothing_into_the_log(start: Start) -> None:
    server = start()
    before = server.text()
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
