"""Two relay processes with a real Redis between them: their clients reach each other."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

import psycopg
import pytest
from asgiref.sync import sync_to_async

from protocol.errors import Code
from protocol.frames import Deliver, Kind, Role, State
from relay import directory
from relay.models import Client, Connection, Mail, Worker
from tests.databases import TestDatabases
from tests.integration.processes import RunningServer, Start, servers
from tests.integration.shared_relay import forget_clients
from tests.relay.peer import Peer, dial, identity, join
from tests.servers import RedisServer

BOUNDS: dict[str, Any] = {
    "SWEEP_SECONDS": 0.5,
    "LEASE_SECONDS": 3,
    "FORWARD_SECONDS": 0.5,
    "DRAIN_SECONDS": 1,
}
WAIT_SECONDS = 20.0


@pytest.fixture
def begin(start: Start, redis_url: str) -> Callable[..., RunningServer]:
    """Start a process on the same databases and the same Redis; extra bounds may be given."""

    def begin(**bounds: Any) -> RunningServer:
        return start(
            relay={**BOUNDS, **bounds},
            extra={"TELLERWIRE_REDIS_URL": redis_url},
        )

    return begin


@pytest.fixture(scope="module")
def _module_pair(
    module_databases: TestDatabases, redis_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[RunningServer, RunningServer]]:
    extra = {"TELLERWIRE_REDIS_URL": redis_url}
    with servers(module_databases.environment, tmp_path_factory.mktemp("pair")) as starter:
        yield starter(relay=BOUNDS, extra=extra), starter(relay=BOUNDS, extra=extra)


@pytest.fixture
def pair(
    _module_pair: tuple[RunningServer, RunningServer],
) -> tuple[RunningServer, RunningServer]:
    """Two processes that know nobody, for tests that leave them alive."""
    forget_clients(*_module_pair)
    return _module_pair


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not await condition():
        assert time.monotonic() < deadline, "it never came true"
        await asyncio.sleep(0.05)


async def know_each_other(one: Peer, other: Peer) -> None:
    """Wait until each peer's process knows where the other peer is connected."""
    for sender, recipient in ((one, other), (other, one)):
        assert recipient.identity is not None
        while True:
            await sender.post(recipient.identity.client_id, ttl_ms=0)
            try:
                await asyncio.wait_for(recipient.take(), 0.3)
            except TimeoutError:
                assert (await sender.refusal()).code is Code.RECIPIENT_ABSENT
                continue
            assert (await sender.status()).state is State.DELIVERED
            break


async def test_clients_of_two_processes_reach_each_other_in_order(
    pair: tuple[RunningServer, RunningServer],
) -> None:
    left, right = pair
    async with (
        await join(left.relay_url, identity("ada")) as ada,
        await join(right.relay_url, identity("ben")) as ben,
    ):
        await know_each_other(ada, ben)
        sent = [await ada.post("ben", kind=Kind.REQUEST) for _ in range(200)]
        taken = [await ben.take() for _ in sent]
        assert [one.id for one in taken] == sent
        assert {(one.sender, one.attempt) for one in taken} == {("ada", 1)}
        told = [await ada.status() for _ in sent]
        assert [one.id for one in told] == sent
        assert {one.state for one in told} == {State.DELIVERED}
        answer = await ben.post("ada", kind=Kind.REPLY, re=sent[0])
        assert (await ada.take()).id == answer
        assert await Mail.objects.acount() == 0


async def test_persons_get_everything_everywhere_and_services_share(
    pair: tuple[RunningServer, RunningServer],
) -> None:
    left, right = pair
    ben, bank = identity("ben"), identity("bank")
    async with (
        await join(left.relay_url, identity("ada")) as ada,
        await join(left.relay_url, ben) as near,
        await join(right.relay_url, ben) as far,
        await join(right.relay_url, bank, Role.SERVICE) as service,
    ):
        await know_each_other(ada, service)
        sent = await ada.post("ben")
        assert (await near.take()).id == (await far.take()).id == sent
        assert (await ada.status()).id == sent
        request = await ada.post("bank", kind=Kind.REQUEST)
        assert (await service.take()).id == request
        assert (await ada.status()).id == request
        assert await ada.silent()


async def test_mail_stored_at_one_process_is_delivered_at_the_other(
    pair: tuple[RunningServer, RunningServer],
) -> None:
    left, right = pair
    ben = identity("ben")
    async with await join(right.relay_url, ben):
        pass
    ada = identity("ada")
    async with await join(left.relay_url, ada) as peer:
        sent = [await peer.post("ben") for _ in range(20)]
        assert {(await peer.status()).state for _ in sent} == {State.QUEUED}
        async with await join(right.relay_url, ben) as recipient:
            assert [(await recipient.take()).id for _ in sent] == sent
            told = {(await peer.status()).id for _ in sent}
            assert told == set(sent)


async def test_what_a_lost_connection_held_is_stored_by_its_process(
    pair: tuple[RunningServer, RunningServer],
) -> None:
    left, right = pair
    ben = identity("ben")
    async with await join(left.relay_url, identity("ada")) as ada:
        async with await join(right.relay_url, ben) as first:
            await know_each_other(ada, first)
            sent = await ada.post("ben")
            await first.expect(Deliver)
        status = await ada.status()
        assert (status.id, status.state) == (sent, State.QUEUED)
        async with await join(left.relay_url, ben) as second:
            again = await second.take()
            assert (again.id, again.attempt) == (sent, 2)
            assert (await ada.status()).state is State.DELIVERED


async def test_nothing_is_lost_when_the_other_process_is_killed(
    begin: Callable[..., RunningServer],
) -> None:
    left, right = begin(), begin()
    ben = identity("ben")
    async with await join(left.relay_url, identity("ada")) as ada:
        recipient = await join(right.relay_url, ben)
        await know_each_other(ada, recipient)
        sent = [await ada.post("ben") for _ in range(50)]
        for _ in range(10):
            await recipient.take()
        acknowledged = {(await ada.status()).id for _ in range(10)}
        right.kill()
        later = [await ada.post("ben") for _ in range(5)]
        # What the dead process held, and what still goes to it, ends up in the mailbox.
        queued = [await ada.status() for _ in range(45)]
        assert {status.state for status in queued} == {State.QUEUED}
        assert {status.id for status in queued} == set(sent + later) - acknowledged
        async with await join(left.relay_url, ben) as again:
            taken = [(await again.take()).id for _ in queued]
            assert set(taken) == set(sent + later) - acknowledged
            assert taken == [one for one in sent + later if one not in acknowledged]
        await ada.still_works()

    async def is_buried() -> bool:
        return await Worker.objects.acount() == 1

    await until(is_buried)
    assert await Mail.objects.acount() == 0


async def test_a_service_that_dies_hands_its_mail_to_another_process(
    begin: Callable[..., RunningServer],
) -> None:
    left, right = begin(IN_FLIGHT_MAX=3), begin(IN_FLIGHT_MAX=3)
    bank = identity("bank")
    async with await join(right.relay_url, bank, Role.SERVICE):
        pass
    async with await join(left.relay_url, identity("ada")) as ada:
        sent = [await ada.post("bank") for _ in range(6)]
        assert {(await ada.status()).state for _ in sent} == {State.QUEUED}
        victim = await join(right.relay_url, bank, Role.SERVICE)
        held = [(await victim.expect(Deliver)).id for _ in range(3)]
        assert held == sent[:3]
        async with await join(left.relay_url, bank, Role.SERVICE) as heir:
            assert [(await heir.expect(Deliver)).id for _ in range(3)] == sent[3:]
            right.kill()
            await heir.wire.close()
        async with await join(left.relay_url, bank, Role.SERVICE) as heir:
            taken: set[str] = set()
            while len(taken) < 6:
                taken.add((await heir.take()).id)
            assert taken == set(sent)


async def test_a_blocked_client_is_closed_at_every_process(
    pair: tuple[RunningServer, RunningServer],
) -> None:
    left, right = pair
    ada = identity("ada")
    async with await join(left.relay_url, ada) as one, await join(right.relay_url, ada) as other:
        row = await Client.objects.aget(id_key="ada")
        await sync_to_async(directory.set_blocked)([row], blocked=True)
        for peer in (one, other):
            assert (await peer.refusal()).code is Code.REVOKED
            assert await peer.wire.closed() == (4000, "revoked")


async def test_the_processes_leave_nothing_behind(begin: Callable[..., RunningServer]) -> None:
    left, right = begin(), begin()
    async with (
        await join(left.relay_url, identity("ada")),
        await join(right.relay_url, identity("ben")),
    ):
        assert await Connection.objects.acount() == 2
        for server in (left, right):
            server.terminate()
        for server in (left, right):
            server.wait()
    assert await Connection.objects.acount() == 0
    assert await Worker.objects.acount() == 0


async def test_a_process_whose_database_hangs_ends_all_the_same(
    begin: Callable[..., RunningServer], fresh_databases: TestDatabases
) -> None:
    server, eve = begin(), identity("eve")
    async with await join(server.relay_url, eve):
        pass
    async with await join(server.relay_url, identity("ada")) as ada:
        with mail_hangs(fresh_databases):
            await ada.post("eve")
            await ada.wire.send("nonsense")
            await ada.refusal()  # so the message before it has been taken
            server.terminate()
            await asyncio.to_thread(server.wait)
    assert server.text().count("database.hangs") == 1


@contextmanager
def mail_hangs(databases: TestDatabases) -> Iterator[None]:
    """Let whoever wants to store a message wait."""
    if databases.vendor == "postgresql":
        with psycopg.connect(databases.relay_url) as holder:
            holder.execute("LOCK TABLE relay_mail")
            yield
        return
    file = databases.relay_url.removeprefix("sqlite:///")
    with closing(sqlite3.connect(file, isolation_level=None, check_same_thread=False)) as holder:
        holder.execute("BEGIN IMMEDIATE")
        yield
        holder.execute("ROLLBACK")


async def test_redis_may_be_killed_and_come_back(start: Start) -> None:
    with RedisServer() as redis:
        extra = {"TELLERWIRE_REDIS_URL": redis.url}
        left, right = start(relay=BOUNDS, extra=extra), start(relay=BOUNDS, extra=extra)
        async with (
            await join(left.relay_url, identity("ada")) as ada,
            await join(right.relay_url, identity("ben")) as ben,
        ):
            await know_each_other(ada, ben)
            redis.kill()
            sent = [await ada.post("ben") for _ in range(20)]
            assert [(await ben.take()).id for _ in sent] == sent
            while {(await ada.status()).id for _ in sent} != set(sent):
                pass  # `queued` came before `delivered`
            redis.start_again()
            # Nothing waits in a mailbox where the time to live is zero: this goes over Redis.
            await asyncio.wait_for(know_each_other(ada, ben), WAIT_SECONDS)
        for server in (left, right):
            assert server.is_alive
            assert "Traceback" not in server.text()


async def test_without_redis_the_mailbox_still_connects_them(start: Start) -> None:
    bounds = {**BOUNDS, "SWEEP_SECONDS": 0.2}
    left, right = start(relay=bounds), start(relay=bounds)
    async with (
        await join(left.relay_url, identity("ada")) as ada,
        await join(right.relay_url, identity("ben")) as ben,
    ):
        sent = await ada.post("ben")
        assert (await ben.take()).id == sent
    async with await dial(left.relay_url) as late:
        await late.register(identity("eve"))
        await late.still_works()
