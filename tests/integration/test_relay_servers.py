"""The relay inside real servers: slow readers, flat memory, shutdown, under uvicorn and daphne."""

from __future__ import annotations

import asyncio
import signal
import time

import pytest

from protocol.encoding import b64u
from protocol.errors import Code
from protocol.frames import Deliver, Drain, Kind, State
from relay.models import Connection, Mail, Worker
from tests.installation import SERVER_KINDS
from tests.integration.processes import Kind as ServerKind
from tests.integration.processes import Start
from tests.relay.peer import identity, join
from tests.relay.stalling import read_again, stop_reading, until

BIG_BODY = b64u(bytes(60_000))
MEBIBYTE = 2**20


@pytest.mark.parametrize("kind", SERVER_KINDS)
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


@pytest.mark.parametrize("kind", SERVER_KINDS)
async def test_sigterm_drains(start: Start, kind: ServerKind) -> None:
    server = start(kind=kind, relay={"DRAIN_SECONDS": 1.5})
    url = server.relay_url
    ben = identity("ben")
    async with await join(url, identity("ada")) as ada, await join(url, ben) as peer:
        held = [await ada.post("ben", kind=Kind.REQUEST) for _ in range(3)]
        first, *_ = [await peer.expect(Deliver) for _ in held]
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
