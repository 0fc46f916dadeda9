"""Staying connected: drain, back-off, relays that say nothing, and leaving in good order."""

from __future__ import annotations

import asyncio
import gc
import time

import msgspec
import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.typing import Subprotocol

from clients import connection
from clients.client import Client
from clients.errors import RelayUnreachableError, UsageError
from clients.retry import CONNECT_JITTER, FullJitter, RetryPolicy
from clients.transport import TransportClosedError, open_transport
from protocol import frames, limits
from protocol.client_exchange import Stage
from tests.clients.fake_relay import FakeRelay, until
from tests.clients.test_service import Plain
from tests.clients.world import ADA, BEN


def nothing() -> None:
    """Nobody waits to write."""


async def test_drain_is_honoured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "DRAIN_SECONDS", 0.05)
    async with FakeRelay() as relay, Client(ADA, relay.url) as ada:
        await ada.wait_ready(5)
        began = time.monotonic()
        await relay.sessions["ada"][0].send(frames.Drain(400))
        await until(lambda: relay.registrations == 2)
        assert 0.4 <= time.monotonic() - began < 4


async def test_no_relay_keeps_a_client_away_for_longer_than_a_minute(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connection, "RESUME_MS_MAX", 50)
    async with FakeRelay() as relay, Client(ADA, relay.url) as ada:
        await ada.wait_ready(5)
        await relay.sessions["ada"][0].send(frames.Drain(limits.MILLISECONDS_MAX))
        await relay.drop("ada")
        await until(lambda: relay.registrations == 2)


async def test_who_waits_is_not_held_up_by_a_clock_that_is_set_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An hour earlier everything that waits would wait for an hour more."""
    async with FakeRelay() as relay, Client(ADA, relay.url) as ada:
        await ada.wait_ready(5)
        # It answers something else, for ever.
        monkeypatch.setattr(relay, "answer_lookup", lambda _: frames.Found(ada.new_id(), "x", []))
        asking = asyncio.create_task(ada.directory.lookup("bank", within_ms=300))
        await until(lambda: any(isinstance(one, frames.Lookup) for one in relay.received))
        earlier = time.time_ns() - 3_600_000_000_000
        monkeypatch.setattr(time, "time_ns", lambda: earlier)
        with pytest.raises(RelayUnreachableError, match="did not answer in time"):
            await asyncio.wait_for(asking, 5)


async def test_message_begun_while_draining_goes_out_on_the_next_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connection, "DRAIN_SECONDS", 0.05)
    async with FakeRelay() as relay, Client(BEN, relay.url), Client(ADA, relay.url) as ada:
        await ada.directory.peer("ben")
        await relay.sessions["ada"][0].send(frames.Drain(1))
        await until(lambda: not ada.connection.ready.is_set() or ada.protocol.phase != "ready")
        ada.send(Plain(ada.new_id(), to="ben"), RetryPolicy(tries=1, try_ms=5_000))
        await until(lambda: len(relay.sent()) == 1)
        assert relay.registrations == 3


async def test_relay_that_says_nothing_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "REGISTRATION_SECONDS", 0.1)
    visits = 0

    async def silent(socket: ServerConnection) -> None:
        nonlocal visits
        visits += 1
        await socket.wait_closed()

    async with serve(
        silent, "127.0.0.1", 0, subprotocols=[Subprotocol(limits.SUBPROTOCOL)], compression=None
    ) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        async with Client(ADA, f"ws://127.0.0.1:{port}/relay") as ada:
            with pytest.raises(RelayUnreachableError, match="did not complete the registration"):
                await ada.wait_ready(0.3)
            await until(lambda: visits >= 2)


async def test_what_speaks_something_else_is_no_relay() -> None:
    async def other(socket: ServerConnection) -> None:
        await socket.wait_closed()

    async with serve(other, "127.0.0.1", 0) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        with pytest.raises(TransportClosedError, match=r"doesn't speak tellerwire\.v1"):
            await open_transport(f"ws://127.0.0.1:{port}/", nothing)


@pytest.mark.parametrize("url", ["ws://127.0.0.1:1/relay", "ws://", "http://127.0.0.1:1/"])
async def test_where_nobody_is_there_is_no_relay(url: str) -> None:
    with pytest.raises(TransportClosedError, match="no relay at"):
        await open_transport(url, nothing)


async def test_leaving_writes_what_was_handed_over() -> None:
    async with FakeRelay() as relay:
        async with Client(BEN, relay.url) as ben:
            await ben.wait_ready(5)
        async with Client(ADA, relay.url) as ada:
            await ada.directory.peer("ben")
            for _ in range(50):
                ada.send(Plain(ada.new_id(), to="ben"), RetryPolicy())
        await until(lambda: len(relay.sent()) == 50)


async def test_what_waits_when_the_client_leaves_is_told() -> None:
    async with FakeRelay() as relay:
        async with Client(ADA, relay.url) as ada:
            await ada.wait_ready(5)
            sending = ada.send(Plain(ada.new_id(), to="ada"), RetryPolicy())
        with pytest.raises(RelayUnreachableError, match="was closed"):
            await sending
        with pytest.raises(RelayUnreachableError, match="was closed"):
            await ada.send(Plain(ada.new_id(), to="ada"), RetryPolicy())
        with pytest.raises(RelayUnreachableError, match="was closed"):
            await ada.directory.lookup("ada")


@pytest.mark.parametrize("query", ["", "x" * 65, "a b", "Test, " + "x" * 203])
async def test_who_nobody_can_be_isnt_looked_up(query: str) -> None:
    async with FakeRelay() as relay, Client(ADA, relay.url) as ada:
        for ask in (ada.directory.lookup, ada.directory.resolve):
            with pytest.raises(UsageError):
                await ask(query)
        assert not [frame for frame in relay.received if isinstance(frame, frames.Lookup)]


async def test_a_question_that_cant_be_written_leaves_nothing_behind() -> None:
    complaints: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, what: complaints.append(what))
    async with FakeRelay() as relay, Client(ADA, relay.url) as ada:
        await ada.wait_ready(5)
        with pytest.raises(UnicodeEncodeError):
            await ada.directory.publish(msgspec.structs.replace(ADA.signed_bundle, bundle="\ud800"))
        unheard = asyncio.ensure_future(ada.directory.lookup("ada"))
        await asyncio.sleep(0)
        unheard.cancel()
    gc.collect()
    await asyncio.sleep(0)
    assert complaints == []
    assert ada.directory._calls == {}


async def test_nothing_is_sent_for_who_has_given_up() -> None:
    async with FakeRelay() as relay:
        async with Client(BEN, relay.url) as ben:
            await ben.wait_ready(5)
        async with Client(ADA, relay.url) as ada:
            outgoing = Plain(ada.new_id(), to="ben")
            sending = ada.send(outgoing, RetryPolicy(tries=9, try_ms=50))
            ada.give_up(outgoing.id)
            assert (await sending).stage is Stage.LAPSED
            await asyncio.sleep(0.1)
        assert relay.sent() == []


def test_pauses_are_drawn_from_nothing_to_a_ceiling_that_doubles() -> None:
    most = FullJitter(base_ms=100, cap_ms=1_000, fraction=lambda: 0.999)
    assert [most.pause_ms(tries) for tries in (0, 1, 2, 3, 4, 5, 99)] == [
        99, 99, 199, 399, 799, 999, 999,
    ]  # fmt: skip
    assert FullJitter(100, 1_000, lambda: 0.0).pause_ms(9) == 0
    drawn = {CONNECT_JITTER.pause_ms(10) for _ in range(50)}
    assert len(drawn) > 25
    assert all(0 <= pause < CONNECT_JITTER.cap_ms for pause in drawn)
