"""One process of the relay: its connections, its end, its place among others."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.db import transaction
from django.test import override_settings
from prometheus_client import generate_latest

from protocol.errors import Code
from protocol.frames import Deliver, Drain, Kind, Role, State, Status
from protocol.keys import IdentityKey
from relay import directory, leases, mailbox, revocation
from relay.hub import Hub, clock, running_hub, running_hubs
from relay.metrics import counters
from relay.models import Client, Connection, Mail, Worker
from relay.upkeep import Upkeep
from tests.databases import TestDatabases
from tests.relay.conftest import QUICK, Begin, Relay
from tests.relay.peer import WAIT_SECONDS, identity, new_id
from tests.relay.steps import known, until


async def test_every_loop_has_one_hub(fresh_databases: TestDatabases) -> None:
    hub = running_hub()
    assert running_hub() is hub
    assert hub in running_hubs()
    await hub.stop()
    await hub.stop()
    assert hub not in running_hubs()


async def test_blocking_ends_connections_at_once(
    fresh_databases: TestDatabases, begin: Begin
) -> None:
    with override_settings(RELAY={**QUICK, "SWEEP_SECONDS": 60, "LEASE_SECONDS": 180}):
        relay = Relay(running_hub())
        for end in (revocation.block, lambda rows: revocation.release(rows[0])):
            who = identity(f"ada-{new_id()}")
            peer = await relay.join(who)
            row = await Client.objects.aget(client_id=who.client_id)
            await sync_to_async(end)([row])
            assert (await peer.refusal()).code is Code.REVOKED
            assert await peer.wire.closed() == (4000, "revoked")
        await relay.hub.stop()


async def test_a_drained_hub_sends_everybody_away(relay: Relay) -> None:
    ada, ben = await relay.join(identity("ada")), await relay.join(identity("ben"))
    unregistered = await relay.dial()
    sent = await ada.post("ben")
    await ben.expect(Deliver)
    draining = asyncio.create_task(relay.hub.drain())
    await ada.expect(Drain)
    await ben.expect(Drain)
    assert (await unregistered.refusal()).code is Code.DRAINING
    assert (await ada.status()).state is State.QUEUED
    for peer in (ada, ben, unregistered):
        assert await peer.wire.closed() == (4000, "draining")
        await peer.wire.close()
    await draining
    assert [str(row.message_id) async for row in Mail.objects.all()] == [sent]
    assert await Connection.objects.acount() == 0
    assert await Worker.objects.acount() == 0
    late = await relay.dial()
    assert (await late.refusal()).code is Code.DRAINING
    assert await late.wire.closed() == (4000, "draining")


async def test_a_database_that_hangs_keeps_no_relay_from_ending(
    relay: Relay, caplog: pytest.LogCaptureFixture
) -> None:
    absent = identity("eve")
    await known(relay, absent)
    ada, ben = await relay.join(identity("ada")), await relay.join(identity("ben"))
    goes_on = threading.Event()
    hanging = asyncio.create_task(relay.hub.database.run(goes_on.wait))
    try:
        await ada.post("eve")
        await ada.post("ben")
        await ben.expect(Deliver)
        await asyncio.wait_for(relay.hub.drain(), WAIT_SECONDS)
    finally:
        goes_on.set()
    await hanging
    assert await ada.wire.closed() == (4000, "draining")
    assert not any(isinstance(frame, Status) for frame in ada.waiting)
    assert caplog.text.count("database.hangs") == 1


async def test_a_dead_process_is_buried(relay: Relay) -> None:
    await sync_to_async(_dead_worker)()
    peer = await relay.join(identity("ada"))

    async def is_buried() -> bool:
        return not await Worker.objects.filter(name="dead").aexists()

    await until(is_buried)
    assert await Connection.objects.acount() == 1
    await peer.still_works()


def _dead_worker() -> None:
    with transaction.atomic(using="relay"):
        dead = Worker.objects.create(name="dead", lease_until=1)
        Connection.objects.create(
            connection_id=new_id(), client_key="x", client_id="x", role="person", worker=dead
        )


async def test_processes_whose_clocks_differ_let_each_other_live(begin: Begin) -> None:
    early, late = begin(), begin()
    late.hub.clock = lambda: clock() + 3_600_000
    ada, ben = await early.join(identity("ada")), await late.join(identity("ben"))
    rows = {row.pk async for row in Worker.objects.all()}
    assert len(rows) == 2
    await asyncio.sleep(5 * QUICK["SWEEP_SECONDS"])
    # Who was buried and came back has another row.
    assert {row.pk async for row in Worker.objects.all()} == rows
    for peer in (ada, ben):
        await peer.still_works()


async def test_a_process_taken_for_dead_notes_its_connections_again(relay: Relay) -> None:
    peer = await relay.join(identity("ada"))
    await sync_to_async(leases.stop)(relay.hub.name)
    assert await Connection.objects.acount() == 0

    async def is_back() -> bool:
        return await Connection.objects.filter(client_key="ada").aexists()

    await until(is_back)
    await peer.still_works()


async def test_what_is_counted_is_shown(relay: Relay) -> None:
    before = counters.accepted
    ada, ben = await relay.join(identity("ada")), await relay.join(identity("ben"))
    await ada.post("ben")
    await ben.take()
    await ada.post("nobody")
    await ada.refusal()
    assert counters.accepted == before + 2
    text = generate_latest().decode()
    for line in (
        "tellerwire_relay_connections 2.0",
        f"tellerwire_relay_messages_accepted_total {before + 2}.0",
        'tellerwire_relay_refusals_total{code="unknown_recipient"}',
    ):
        assert line in text


@pytest.mark.parametrize("with_key", [True, False])
async def test_a_successor_is_published(relay: Relay, *, with_key: bool) -> None:
    who = identity("ada")
    ada = await relay.join(who)
    newer = who.next(key=IdentityKey(b"\x05" * 32)) if with_key else who.next()
    await ada.ask_publish(newer)
    assert (await ada.lookup("ada")).bundles == [newer.bundle.signed]


@pytest.mark.parametrize("how", ["registers", "is published", "came by another process"])
async def test_a_key_that_was_replaced_has_the_id_no_longer(relay: Relay, how: str) -> None:
    """Its connections end, and what they hadn't acknowledged goes to its successor."""
    old = identity("ben")
    new = old.next(key=IdentityKey(b"\x05" * 32))
    ada, replaced = await relay.join(identity("ada")), await relay.join(old)
    sent = await ada.post("ben")
    assert (await replaced.expect(Deliver)).id == sent
    if how == "registers":
        successor = await relay.join(new)
    elif how == "is published":
        successor = await relay.join(old)
        await successor.ask_publish(new)
    else:
        await running_hub().database.run(directory.register, new.bundle, Role.PERSON)
    assert await replaced.wire.closed() == (4000, Code.REVOKED.value)
    if how == "came by another process":
        successor = await relay.join(new)
    assert (await successor.take()).id == sent
    assert (await ada.status()).state in (State.QUEUED, State.DELIVERED)


async def test_a_key_that_was_replaced_can_not_take_its_successors_bundle_for_its_own(
    fresh_databases: TestDatabases,
) -> None:
    """The bundle is public: its old holder can look it up, and publish the same again."""
    relay = Relay(Hub())  # it isn't started, so it sweeps only here
    old = identity("ben")
    new = old.next(key=IdentityKey(b"\x05" * 32))
    replaced = await relay.join(old)
    await relay.hub.database.run(directory.register, new.bundle, Role.PERSON)
    assert (await replaced.lookup("ben")).bundles == [new.bundle.signed]
    asked = await replaced.ask_publish(new)
    refused = await replaced.refusal()
    assert (refused.id, refused.code) == (asked, Code.REVOKED)
    await Upkeep(relay.hub).sweep_once()
    assert await replaced.wire.closed() == (4000, Code.REVOKED.value)
    await relay.hub.stop()


async def test_a_process_taken_for_dead_to_which_somebody_comes_notes_all_connections_again(
    begin: Begin,
) -> None:
    with override_settings(RELAY={**QUICK, "SWEEP_SECONDS": 60, "LEASE_SECONDS": 180}):
        relay = begin()
    ada = await relay.join(identity("ada"))
    await sync_to_async(leases.stop)(relay.hub.name)
    ben = await relay.join(identity("ben"))
    await Upkeep(relay.hub).sweep_once()
    for peer in (ada, ben):
        await peer.still_works()
    assert {one.client_key async for one in Connection.objects.all()} == {"ada", "ben"}


@pytest.mark.parametrize(("sweep_seconds", "left"), [(0, 3), (60, 0)])
async def test_a_sweep_that_has_much_to_end_leaves_the_rest_to_the_next_ones(
    fresh_databases: TestDatabases,
    monkeypatch: pytest.MonkeyPatch,
    sweep_seconds: int,
    left: int,
) -> None:
    monkeypatch.setattr(mailbox, "EXPIRE_MESSAGES_MAX", 2)
    hub = Hub()  # it isn't started, so it sweeps only here
    hub.limits = dataclasses.replace(hub.limits, sweep_seconds=sweep_seconds)
    await Mail.objects.abulk_create(map(_expired, range(5)))
    await Upkeep(hub).sweep_once()
    assert await Mail.objects.acount() == left
    await hub.stop()


def _expired(position: int) -> Mail:
    return Mail(
        recipient_key="ada",
        recipient="ada",
        sender_key="ben",
        sender="ben",
        message_id=new_id(),
        kind=Kind.REQUEST,
        body="body",
        size=4,
        accepted_at=1,
        expires_at=1,
        position=position,
    )


async def test_mail_that_comes_during_a_sweep_keeps_its_place_before_what_comes_later(
    begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    with override_settings(RELAY={**QUICK, "SWEEP_SECONDS": 60, "LEASE_SECONDS": 180}):
        relay = begin()
    await known(relay, identity("ben"))
    ada = await relay.join(identity("ada"))
    relay.hub.exchange.presence.backlog("ben")
    run = relay.hub.database.run

    async def run_and_send(function: Any, *args: Any, **kwargs: Any) -> Any:
        result = await run(function, *args, **kwargs)
        if function is mailbox.with_mail:
            await ada.post("ben")
            assert (await ada.status()).state is State.QUEUED
        return result

    monkeypatch.setattr(relay.hub.database, "run", run_and_send)
    await Upkeep(relay.hub).sweep_once()
    # Were it not for this, a message for his connection to another process would overtake it.
    assert "ben" in relay.hub.exchange.presence.backlogs
