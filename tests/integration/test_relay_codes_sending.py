"""Codes for messages over a real connection.

Each test says what the relay answers, shows that nothing changed (no row, no delivery), and that
the connection, or at least the process, goes on where it should.
"""

from __future__ import annotations

import asyncio
import signal

import pytest

from protocol.errors import RETRY, Code
from protocol.frames import (
    Ack,
    Deliver,
    Drain,
    Lookup,
    State,
)
from relay.models import Mail
from tests.integration.processes import RunningServer, Start
from tests.integration.relay_refusals import CLOSED, refused, refused_for_good, rows
from tests.relay.peer import dial, identity, join, new_id


@pytest.mark.provokes("unknown_recipient")
async def test_unknown_recipient(relay_server: RunningServer) -> None:
    async with await join(relay_server.relay_url, identity("ada")) as ada:
        for ttl_ms in (0, 60_000):
            sent = await ada.post("nobody", ttl_ms=ttl_ms)
            await refused(ada, Code.UNKNOWN_RECIPIENT, sent)
        request = new_id()
        for query in ("nobody", "Nobody, Known"):
            await ada.send_frame(Lookup(id=request, query=query))
            await refused(ada, Code.UNKNOWN_RECIPIENT, request)
    assert await rows() == (1, 0)


@pytest.mark.provokes("ambiguous_name")
async def test_ambiguous_name(relay_server: RunningServer) -> None:
    url = relay_server.relay_url
    async with (
        await join(url, identity("kuno", "Kuno", "Küppers")),
        await join(url, identity("other", "KUNO", "Ku\u0308ppers".replace("u\u0308", "ü"))),
        await join(url, identity("ada", "Ada", "Ärlig")) as ada,
    ):
        request = new_id()
        await ada.send_frame(Lookup(id=request, query="kuno,  KÜPPERS"))
        error = await refused(ada, Code.AMBIGUOUS_NAME, request)
        assert error.candidates == ["kuno", "other"]
        for query in ("Ärlig, Ada", "Ada, Ärlig", "a\u0308rlig,ada"):
            found = await ada.lookup(query)
            assert found.bundles == [ada.identity.bundle.signed] if ada.identity else None


@pytest.mark.provokes("recipient_absent")
async def test_recipient_absent(relay_server: RunningServer) -> None:
    async with await join(relay_server.relay_url, identity("ben")):
        pass
    async with await join(relay_server.relay_url, identity("ada")) as ada:
        sent = await ada.post("ben", ttl_ms=0)
        await refused(ada, Code.RECIPIENT_ABSENT, sent)
    assert await rows() == (2, 0)


@pytest.mark.provokes("peer_gone")
async def test_peer_gone(relay_server: RunningServer) -> None:
    async with await join(relay_server.relay_url, identity("ada")) as ada:
        async with await join(relay_server.relay_url, identity("ben")) as ben:
            sent = await ada.post("ben", ttl_ms=0)
            await ben.expect(Deliver)
        status = await ada.status()
        assert (status.id, status.state, status.code) == (sent, State.FAILED, Code.PEER_GONE)
        await ada.still_works()
    assert await rows() == (2, 0)


@pytest.mark.provokes("expired")
async def test_expired(relay_server: RunningServer) -> None:
    async with await join(relay_server.relay_url, identity("ben")):
        pass
    ada = identity("ada")
    async with await join(relay_server.relay_url, ada) as peer:
        sent = await peer.post("ben", ttl_ms=400)
        assert (await peer.status()).state is State.QUEUED
        status = await peer.status()
        assert (status.id, status.state, status.code) == (sent, State.EXPIRED, Code.EXPIRED)
    assert await rows() == (2, 0)
    # It was not acknowledged, so it is told again; then it is not.
    async with await join(relay_server.relay_url, ada) as peer:
        assert (await peer.status()).id == sent
        await peer.send_frame(Ack(id=sent))
        await peer.still_works()
    async with await join(relay_server.relay_url, ada) as peer:
        assert await peer.silent()


@pytest.mark.provokes("rate_limited")
async def test_rate_limited(start: Start) -> None:
    server = start(relay={"SENDS_PER_SECOND": 1, "SENDS_BURST": 5})
    async with await join(server.relay_url, identity("ada")) as ada:
        sent = [await ada.post("ada") for _ in range(7)]
        first, second = await ada.refusal(), await ada.refusal()
        assert {first.code, second.code} == {Code.RATE_LIMITED}
        assert [first.id, second.id] == sent[5:]
        assert first.retry_after_ms is not None
        assert 0 < first.retry_after_ms <= 1_000
        assert [(await ada.take()).id for _ in range(5)] == sent[:5]
        await asyncio.sleep(1.1)
        await ada.still_works()


@pytest.mark.provokes("rate_limited")
async def test_rate_limited_registrations(start: Start) -> None:
    server = start(relay={"REGISTRATIONS_PER_SECOND": 1})
    async with await join(server.relay_url, identity("ada")) as ada:
        async with await dial(server.relay_url) as peer:
            error = await refused_for_good(peer, Code.RATE_LIMITED)
            assert error.retry_after_ms is not None
            assert 0 < error.retry_after_ms <= 6_000
        await ada.still_works()
    assert await rows() == (1, 0)


@pytest.mark.provokes("overloaded")
async def test_overloaded_by_a_full_window(start: Start) -> None:
    server = start(relay={"IN_FLIGHT_MAX": 2})
    url = server.relay_url
    async with await join(url, identity("ada")) as ada, await join(url, identity("ben")) as ben:
        for _ in range(2):
            await ada.post("ben")
        sent = await ada.post("ben", ttl_ms=0)
        await refused(ada, Code.OVERLOADED, sent)
        later = await ada.post("ben")
        assert (await ada.status()).state is State.QUEUED
        taken = [(await ben.take()).id for _ in range(3)]
        assert taken[2] == later
        assert sent not in taken


@pytest.mark.provokes("overloaded")
@pytest.mark.parametrize("bounds", [{"CONNECTIONS_MAX": 1}, {"CONNECTIONS_PER_CLIENT_MAX": 1}])
async def test_overloaded_by_connections(start: Start, bounds: dict[str, int]) -> None:
    server = start(relay=bounds)
    ada = identity("ada")
    async with await join(server.relay_url, ada) as peer:
        async with await dial(server.relay_url) as second:
            if "CONNECTIONS_MAX" not in bounds:
                await second.ask_registration(ada)
            await refused_for_good(second, Code.OVERLOADED)
        await peer.still_works()


@pytest.mark.provokes("mailbox_full")
@pytest.mark.parametrize("bounds", [{"MAILBOX_MESSAGES_MAX": 2}, {"MAILBOX_BYTES_MAX": 120}])
async def test_mailbox_full(start: Start, bounds: dict[str, int]) -> None:
    server = start(relay=bounds)
    ben = identity("ben")
    async with await join(server.relay_url, ben):
        pass
    async with await join(server.relay_url, identity("ada")) as ada:
        for _ in range(2):
            await ada.post("ben")
            assert (await ada.status()).state is State.QUEUED
        sent = await ada.post("ben")
        await refused(ada, Code.MAILBOX_FULL, sent)
        assert await rows() == (2, 2)
        async with await join(server.relay_url, ben) as peer:
            assert sent not in [(await peer.take()).id for _ in range(2)]
            for _ in range(2):
                assert (await ada.status()).state is State.DELIVERED
        await ada.post("ben")
        assert (await ada.status()).state is State.QUEUED


@pytest.mark.provokes("slow_consumer")
async def test_slow_consumer_that_does_not_acknowledge(start: Start) -> None:
    server = start(relay={"ACK_SECONDS": 0.5})
    url = server.relay_url
    async with await join(url, identity("ada")) as ada, await join(url, identity("ben")) as ben:
        await ada.post("ben")
        delivered = await ben.expect(Deliver)
        await refused_for_good(ben, Code.SLOW_CONSUMER)
        assert (await ada.status()).state is State.QUEUED
        await ada.still_works()
        assert ben.identity is not None
        async with await join(url, ben.identity) as again:
            redelivered = await again.take()
            assert (redelivered.id, redelivered.attempt) == (delivered.id, 2)


@pytest.mark.provokes("draining")
async def test_draining(start: Start) -> None:
    server = start(relay={"DRAIN_SECONDS": 2})
    url = server.relay_url
    async with await join(url, identity("ada")) as ada, await join(url, identity("ben")) as ben:
        held = await ada.post("ben")
        await ben.expect(Deliver)
        server.terminate()
        assert (await ada.expect(Drain)).reconnect_after_ms <= 5_000
        sent = await ada.post("ben")
        error = await ada.refusal()
        assert (error.code, error.id, error.retry) == (Code.DRAINING, sent, RETRY[Code.DRAINING])
        async with await dial(url) as late:
            await refused_for_good(late, Code.DRAINING)
        assert (await ada.status()).state is State.QUEUED
        assert await ben.wire.closed() == (CLOSED, Code.DRAINING.value)
    assert server.wait() in (0, -signal.SIGTERM)
    stored = [str(row.message_id) async for row in Mail.objects.all()]
    assert stored == [held]
