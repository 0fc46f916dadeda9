"""What becomes of each message inside one process."""

from __future__ import annotations

import asyncio

from asgiref.sync import sync_to_async
from django.db import connections

from protocol.encoding import b64u
from protocol.errors import Code
from protocol.frames import Ack, Deliver, Kind, Role, State
from relay import mailbox
from relay.models import Client, Mail, StoredStatus
from tests.relay.conftest import QUICK, Begin, Relay
from tests.relay.peer import BODY, Identity, Peer, identity
from tests.relay.steps import bounded, known, until

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


async def test_what_a_sender_is_told_and_does_not_acknowledge_is_bounded(begin: Begin) -> None:
    relay = bounded(begin, STATUSES_MAX=3)
    away = identity("ben")
    await known(relay, away)
    ada = await relay.join(identity("ada"))
    sent = [await ada.post("ben") for _ in range(5)]
    for _ in sent:
        assert (await ada.status()).state is State.QUEUED
    ben = await relay.join(away)
    for _ in sent:
        await ben.take()
    told = [(await ada.status()).id for _ in range(3)]
    await until_no_mail()
    assert await ada.silent(0.1)
    for message_id in told:
        await ada.send_frame(Ack(id=message_id, sender=None))
    told += [(await ada.status()).id for _ in range(2)]
    assert sorted(told) == sorted(sent)


async def until_no_mail() -> None:
    async def is_empty() -> bool:
        return not await Mail.objects.aexists()

    await until(is_empty)


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
