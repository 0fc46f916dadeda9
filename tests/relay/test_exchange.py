"""What becomes of each message inside one process."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.db import connections, transaction
from django.test import override_settings
from prometheus_client import generate_latest

from protocol.encoding import b64u
from protocol.errors import Code
from protocol.frames import Ack, Deliver, Drain, Kind, Role, State, Status
from protocol.keys import IdentityKey
from relay import leases, mailbox, revocation
from relay.hub import clock, running_hub, running_hubs
from relay.metrics import counters
from relay.models import Client, Connection, Mail, StoredStatus, Worker
from tests.databases import TestDatabases
from tests.relay.conftest import QUICK, Begin, Relay
from tests.relay.peer import BODY, WAIT_SECONDS, Identity, Peer, identity, new_id


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(WAIT_SECONDS):
        while not await condition():
            await asyncio.sleep(0.02)


def bounded(begin: Begin, **bounds: Any) -> Relay:
    with override_settings(RELAY={**QUICK, **bounds}):
        return begin()


async def known(relay: Relay, *clients: Identity) -> None:
    """Let the relay know clients that are absent then."""
    for client in clients:
        peer = await relay.join(client)
        await peer.wire.close()


# --- Order ----------------------------------------------------------------------------------


async def test_order_is_kept_though_the_first_messages_are_stored_last(begin: Begin) -> None:
    relay = bounded(begin, IN_FLIGHT_MAX=3)
    ben = identity("ben")
    ada, first = await relay.join(identity("ada")), await relay.join(ben)
    sent = [await ada.post("ben") for _ in range(8)]
    for _ in range(5):
        assert (await ada.status()).state is State.QUEUED  # behind the three that are out
    await first.wire.close()
    for _ in range(3):
        assert (await ada.status()).state is State.QUEUED
    second = await relay.join(ben)
    taken = [await second.take() for _ in sent]
    assert [one.id for one in taken] == sent
    assert [one.attempt for one in taken] == [2] * 3 + [1] * 5


async def test_new_messages_queue_behind_the_mail_that_waits(begin: Begin) -> None:
    relay = bounded(begin, IN_FLIGHT_MAX=2)
    ben = identity("ben")
    await known(relay, ben)
    ada = await relay.join(identity("ada"))
    sent = [await ada.post("ben") for _ in range(5)]
    for _ in sent:
        await ada.status()
    peer = await relay.join(ben)
    held = [await peer.expect(Deliver) for _ in range(2)]
    sent.append(await ada.post("ben"))
    for delivered in held:
        await peer.ack(delivered)
    rest = [(await peer.take()).id for _ in range(4)]
    assert [one.id for one in held] + rest == sent
    # The mailbox is empty now: what comes next comes directly.
    sent.append(await ada.post("ben"))
    assert (await peer.take()).id == sent[-1]


# --- Several connections --------------------------------------------------------------------


async def test_one_connection_of_a_person_is_enough(relay: Relay) -> None:
    ben = identity("ben")
    ada = await relay.join(identity("ada"))
    one, other = await relay.join(ben), await relay.join(ben)
    sent = await ada.post("ben")
    for peer in (one, other):
        assert (await peer.expect(Deliver)).id == sent
    await one.wire.close()
    assert await ada.silent(0.05)
    await other.send_frame(Ack(id=sent, sender="ada"))
    assert (await ada.status()).state is State.DELIVERED
    assert await Mail.objects.acount() == 0


async def test_mail_reaches_every_connection_of_a_person_and_is_settled_once(relay: Relay) -> None:
    ben = identity("ben")
    ada, one = await relay.join(identity("ada")), await relay.join(ben)
    await one.wire.close()
    sent = await ada.post("ben")
    assert (await ada.status()).state is State.QUEUED
    one, other = await relay.join(ben), await relay.join(ben)
    assert (await one.take()).id == sent
    assert (await ada.status()).state is State.DELIVERED
    again = await ada.post("ben")
    assert (await other.take()).id in (sent, again)
    assert (await one.take()).id == again


async def test_a_request_of_a_service_that_leaves_goes_to_the_next_one(relay: Relay) -> None:
    bank = identity("bank")
    ada = await relay.join(identity("ada"))
    one, other = (await relay.join(bank, Role.SERVICE), await relay.join(bank, Role.SERVICE))
    sent = [await ada.post("bank", kind=Kind.REQUEST) for _ in range(4)]
    mine = [await one.expect(Deliver) for _ in range(2)]
    yours = [await other.expect(Deliver) for _ in range(2)]
    assert {delivered.id for delivered in mine + yours} == set(sent)
    await one.wire.close()
    moved = [await other.expect(Deliver) for _ in range(2)]
    assert [(one.id, one.attempt) for one in moved] == [(one.id, 2) for one in mine]
    assert await ada.silent(0.05)


async def test_the_least_busy_service_gets_the_next_request(relay: Relay) -> None:
    bank = identity("bank")
    ada = await relay.join(identity("ada"))
    busy, idle = (await relay.join(bank, Role.SERVICE), await relay.join(bank, Role.SERVICE))
    for _ in range(2):
        await ada.post("bank")
    held = await busy.expect(Deliver)
    for _ in range(3):
        await idle.take()
        await ada.post("bank")
    await idle.take()
    assert await busy.silent(0.05)
    await busy.ack(held)


# --- Twice the same -------------------------------------------------------------------------

NO_SWEEPS = {"SWEEP_SECONDS": 60, "LEASE_SECONDS": 180}
"""What is found by looking after the database now and then is not found at once."""
NEWER = b64u(b"sealed to a newer key")


async def test_a_message_sent_again_while_it_is_out_comes_again_only_afterwards(
    relay: Relay,
) -> None:
    ada, ben = await relay.join(identity("ada")), await relay.join(identity("ben"))
    sent = await ada.post("ben")
    first = await ben.expect(Deliver)
    await ada.post("ben", id=sent, body=NEWER)
    assert (await ada.status()).state is State.QUEUED
    assert await ben.silent(0.05)
    await ben.ack(first)
    second = await ben.take()
    assert (first.body, second.body) == (BODY, NEWER)
    assert [(await ada.status()).state for _ in range(2)] == [State.DELIVERED] * 2


@pytest.mark.parametrize(("name", "role"), [("ben", Role.PERSON), ("bank", Role.SERVICE)])
async def test_mail_sent_again_while_it_is_out_comes_again_afterwards(
    relay: Relay, name: str, role: Role
) -> None:
    """The bank refuses what it can't open, and only then acknowledges it; the customer seals
    anew, at once."""
    away = identity(name)
    await known(relay, away)
    ada = await relay.join(identity("ada"))
    sent = await ada.post(name)
    assert (await ada.status()).state is State.QUEUED
    peer = await relay.join(away, role)
    first = await peer.expect(Deliver)
    await ada.post(name, id=sent, body=NEWER)
    assert (await ada.status()).state is State.QUEUED
    assert await peer.silent(0.05)
    await peer.ack(first)
    assert (await ada.status()).state is State.DELIVERED
    await ada.send_frame(Ack(id=sent, sender=None))
    second = await peer.take()
    assert (first.body, second.body) == (BODY, NEWER)
    assert (await ada.status()).state is State.DELIVERED
    assert await Mail.objects.acount() == 0


@pytest.mark.parametrize(("name", "role"), [("ben", Role.PERSON), ("bank", Role.SERVICE)])
async def test_what_is_sent_again_while_it_is_out_keeps_nobody_waiting(
    begin: Begin, name: str, role: Role
) -> None:
    relay = bounded(begin, **NO_SWEEPS)
    ada, eve = await relay.join(identity("ada")), await relay.join(identity("eve"))
    peer = await relay.join(identity(name), role)
    first, sent = await held_and_sent_again(ada, peer, name)
    behind = await eve.post(name)
    assert (await peer.take()).id == behind
    await until_settled(1)
    stored = counters.stored
    others = [await eve.post(name) for _ in range(50)]
    assert [(await peer.take()).id for _ in others] == others
    assert counters.stored == stored  # no backlog is known any more
    row = await Mail.objects.aget()
    assert (str(row.message_id), row.attempts, row.claim) == (sent, 1, "")
    await peer.ack(first)
    again = await peer.take()
    assert (again.id, again.attempt, again.body) == (sent, 2, NEWER)
    assert [(await ada.status()).state for _ in range(2)] == [State.DELIVERED] * 2
    assert await Mail.objects.acount() == 0


@pytest.mark.parametrize(("name", "role"), [("ben", Role.PERSON), ("bank", Role.SERVICE)])
async def test_what_was_sent_again_and_given_back_comes_to_the_next_connection(
    begin: Begin, name: str, role: Role
) -> None:
    relay, who = bounded(begin, **NO_SWEEPS), identity(name)
    ada, first = await relay.join(identity("ada")), await relay.join(who, role)
    _, sent = await held_and_sent_again(ada, first, name)
    await first.wire.close()
    assert (await ada.status()).state is State.QUEUED
    second = await relay.join(who, role)
    again = await second.take()
    assert (again.id, again.attempt, again.body) == (sent, 2, NEWER)
    assert (await ada.status()).state is State.DELIVERED
    assert await second.silent(0.05)
    await until_settled(0)


async def test_what_was_set_aside_is_found_when_another_service_took_its_first_delivery_over(
    begin: Begin,
) -> None:
    relay, bank = bounded(begin, **NO_SWEEPS), identity("bank")
    ada = await relay.join(identity("ada"))
    one, other = await relay.join(bank, Role.SERVICE), await relay.join(bank, Role.SERVICE)
    sent = await ada.post("bank")
    await one.expect(Deliver)
    await ada.post("bank", id=sent)
    taken = [await other.expect(Deliver)]
    await ada.post("bank", id=sent)  # both have it now
    assert (await ada.status()).state is State.QUEUED
    await one.wire.close()
    await other.ack(taken[0])
    again = await other.take()
    assert again.id == sent
    await until_settled(0)


async def test_many_are_set_aside_and_come_one_by_one(begin: Begin) -> None:
    relay = bounded(begin, **NO_SWEEPS)
    ada, ben = await relay.join(identity("ada")), await relay.join(identity("ben"))
    sent = [await ada.post("ben") for _ in range(mailbox.PAGE_MESSAGES_MAX + 10)]
    held = [await ben.expect(Deliver) for _ in sent]
    for one in sent:
        await ada.post("ben", id=one)
    for _ in sent:
        assert (await ada.status()).state is State.QUEUED
    last = await ada.post("ben")
    assert (await ben.take()).id == last
    for first in reversed(held):
        await ben.ack(first)
        assert (await ben.take()).id == first.id
    client = relay.hub.exchange.presence.local["ben"]
    assert not client.set_aside


async def test_mail_that_a_service_has_no_room_for_is_left_to_other_processes(
    begin: Begin,
) -> None:
    bank = identity("bank")
    left, right = bounded(begin, IN_FLIGHT_BYTES_MAX=len(BODY) + 1), begin()
    await known(left, bank)
    ada = await left.join(identity("ada"))
    sent = [await ada.post("bank") for _ in range(3)]
    for _ in sent:
        assert (await ada.status()).state is State.QUEUED
    busy = await left.join(bank, Role.SERVICE)
    assert (await busy.expect(Deliver)).id == sent[0]
    idle = await right.join(bank, Role.SERVICE)
    assert [(await idle.take()).id for _ in sent[1:]] == sent[1:]


async def until_settled(count: int) -> None:
    """Wait until the mailboxes have so many messages."""

    async def is_settled() -> bool:
        return await Mail.objects.acount() == count

    await until(is_settled)


async def held_and_sent_again(sender: Peer, recipient: Peer, name: str) -> tuple[Deliver, str]:
    """Return a delivery that its sender has repeated before the recipient acknowledged it."""
    sent = await sender.post(name)
    first = await recipient.expect(Deliver)
    await sender.post(name, id=sent, body=NEWER)
    assert (await sender.status()).state is State.QUEUED
    return first, sent


# --- Time to live ---------------------------------------------------------------------------

SHORT_MS = 100


async def test_what_was_delivered_at_once_does_not_expire_while_it_waits_for_its_ack(
    relay: Relay,
) -> None:
    ada, ben = await relay.join(identity("ada")), await relay.join(identity("ben"))
    await ada.post("ben", ttl_ms=SHORT_MS)
    delivered = await ben.expect(Deliver)
    assert await ada.silent(5 * SHORT_MS / 1_000)
    await ben.ack(delivered)
    assert (await ada.status()).state is State.DELIVERED


async def test_what_came_out_of_the_mailbox_expires_though_it_waits_for_its_ack(
    relay: Relay,
) -> None:
    away = identity("ben")
    await known(relay, away)
    ada = await relay.join(identity("ada"))
    await ada.post("ben", ttl_ms=10 * SHORT_MS)
    assert (await ada.status()).state is State.QUEUED
    ben = await relay.join(away)
    delivered = await ben.expect(Deliver)
    assert (await ada.status()).state is State.EXPIRED
    await ben.ack(delivered)
    assert await ada.silent(0.1)


# --- Statuses -------------------------------------------------------------------------------


async def test_all_statuses_are_told_page_by_page(relay: Relay) -> None:
    ada, ben = identity("ada"), identity("ben")
    await known(relay, ben)
    count = mailbox.STATUS_PAGE_MAX + 50
    sender = await relay.join(ada)
    sent = [await sender.post("ben") for _ in range(count)]
    for _ in sent:
        await sender.status()
    await sender.wire.close()
    recipient = await relay.join(ben)
    for _ in sent:
        await recipient.take()

    async def all_kept() -> bool:
        return await StoredStatus.objects.acount() == count

    await until(all_kept)
    sender = await relay.join(ada)
    told = []
    for _ in sent:
        status = await sender.status()
        told.append(status.id)
        await sender.send_frame(Ack(id=status.id))
    assert set(told) == set(sent)

    async def none_kept() -> bool:
        return not await StoredStatus.objects.aexists()

    await until(none_kept)


async def test_a_sender_who_left_hears_of_a_direct_delivery_later(relay: Relay) -> None:
    ada, ben = identity("ada"), identity("ben")
    sender, recipient = await relay.join(ada), await relay.join(ben)
    sent = await sender.post("ben")
    delivered = await recipient.expect(Deliver)
    await sender.wire.close()
    await recipient.ack(delivered)

    async def kept() -> bool:
        return await StoredStatus.objects.aexists()

    await until(kept)
    sender = await relay.join(ada)
    status = await sender.status()
    assert (status.id, status.to, status.state) == (sent, "ben", State.DELIVERED)


# --- Bounds ---------------------------------------------------------------------------------


async def test_a_client_that_sends_nothing_for_too_long_is_sent_away(begin: Begin) -> None:
    relay = bounded(begin, IDLE_SECONDS=0.3)
    peer = await relay.join(identity("ada"))
    assert await peer.wire.closed() == (1001, "idle")


async def test_answers_that_nobody_reads_fill_the_outbox_and_end_it(begin: Begin) -> None:
    relay = bounded(begin, OUTBOX_FRAMES_MAX=20, BAD_FRAMES_MAX=1_000)
    peer = await relay.join(identity("ada"))
    connection = next(iter(relay.hub.connections))
    for _ in range(50):  # faster than the writer, which gets no turn meanwhile
        connection.machine.receive("nonsense", relay.hub.clock())
        connection.flush()
    errors = await peer.refusal()
    assert errors.code is Code.SLOW_CONSUMER
    assert await peer.wire.closed() == (4000, "slow_consumer")


async def test_a_message_that_does_not_fit_the_outbox_waits(begin: Begin) -> None:
    relay = bounded(begin, OUTBOX_BYTES_MAX=300_000)
    ada, ben = await relay.join(identity("ada")), await relay.join(identity("ben"))
    big = b64u(bytes(75_000))
    sent = [await ada.post("ben", body=big) for _ in range(10)]
    assert [(await ben.take()).id for _ in sent] == sent


async def test_what_all_connections_hold_together_is_bounded(begin: Begin) -> None:
    relay = bounded(begin, HELD_BYTES_MAX=3 * len(BODY))
    ada = await relay.join(identity("ada"))
    peers = [await relay.join(identity(f"ben-{number}")) for number in range(4)]
    sent = [await ada.post(f"ben-{number}") for number in range(4)]
    held = [await peer.expect(Deliver) for peer in peers[:3]]
    assert (await ada.status()).state is State.QUEUED
    assert await peers[3].silent(0.05)
    await peers[0].ack(held[0])
    assert (await peers[3].take()).id == sent[3]  # found by the next sweep


# --- When the database fails ----------------------------------------------------------------


def _sql(statement: str) -> None:
    with connections["relay"].cursor() as cursor:
        cursor.execute(statement)


async def test_a_database_that_fails_is_an_overload_and_no_end(relay: Relay) -> None:
    ben = identity("ben")
    await known(relay, ben)
    ada = await relay.join(identity("ada"))
    await sync_to_async(_sql)("ALTER TABLE relay_mail RENAME TO relay_mail_away")
    sent = await ada.post("ben")
    error = await ada.refusal()
    assert (error.code, error.id) == (Code.OVERLOADED, sent)
    stranger = await relay.dial()
    await stranger.ask_registration(identity("eve"))
    assert (await stranger.refusal()).code is Code.OVERLOADED
    await asyncio.sleep(2 * QUICK["SWEEP_SECONDS"])
    await sync_to_async(_sql)("ALTER TABLE relay_mail_away RENAME TO relay_mail")
    assert await Client.objects.filter(id_key="eve").acount() == 0
    again = await ada.post("ben")
    assert (await ada.status()).id == again
    peer = await relay.join(ben)
    assert (await peer.take()).id == again


async def test_look_ups_and_bundles_fail_by_name_too(relay: Relay) -> None:
    who = identity("ada")
    ada = await relay.join(who)
    await sync_to_async(_sql)("ALTER TABLE relay_client RENAME TO relay_client_away")
    from_lookup, from_publish = await _ask_both(ada, who)
    await sync_to_async(_sql)("ALTER TABLE relay_client_away RENAME TO relay_client")
    assert {from_lookup, from_publish} == {Code.OVERLOADED}
    await ada.still_works()


async def _ask_both(peer: Peer, who: Identity) -> tuple[Code, Code]:
    from_lookup = await peer.ask_lookup("ada")
    first = await peer.refusal()
    assert first.id == from_lookup
    from_publish = await peer.ask_publish(who.next())
    second = await peer.refusal()
    assert second.id == from_publish
    return first.code, second.code


# --- The hub --------------------------------------------------------------------------------


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
