"""The same message once more, while the first one is still under way."""

from __future__ import annotations

import pytest

from protocol.encoding import b64u
from protocol.frames import Ack, Deliver, Role, State
from relay import mailbox
from relay.metrics import counters
from relay.models import Mail
from tests.relay.conftest import Begin, Relay
from tests.relay.peer import BODY, Peer, identity
from tests.relay.steps import bounded, known, until

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
