"""Two relay processes in one event loop, over a channel layer that loses what it is told to."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
from asgiref.sync import sync_to_async
from channels.exceptions import ChannelFull
from django.test import override_settings

from protocol.encoding import b64u
from protocol.errors import Code
from protocol.frames import Deliver, Kind, Role, State
from relay import bus_frames
from relay.bus_frames import (
    Ask,
    Batch,
    BusFrame,
    Forward,
    Held,
    Here,
    MailStored,
    Report,
    StatusKept,
)
from relay.models import Mail, Worker
from tests.relay.conftest import QUICK, Begin, Relay
from tests.relay.peer import BODY, WAIT_SECONDS, Peer, identity, new_id
from tests.relay.steps import bounded

Drop = Callable[[BusFrame], bool]


class LossyLayer:
    """A channel layer between objects of one process; it drops the frames that ``drop`` names."""

    def __init__(self) -> None:
        self.drop: Drop = lambda frame: False
        self.refuses = False
        self.pause_seconds = 0.0
        self.sent: Counter[str] = Counter()
        self.batches = 0
        self._queues: dict[str, asyncio.Queue[dict[str, Any]]] = {}
        self._numbers = itertools.count(1)

    async def new_channel(self) -> str:
        name = f"channel-{next(self._numbers)}"
        self._queues[name] = asyncio.Queue()
        return name

    async def send(self, channel: str, message: dict[str, Any]) -> None:
        if self.refuses:
            raise ChannelFull
        batch = bus_frames.decode(message)
        kept = [frame for frame in batch.frames if not self.drop(frame)]
        self.sent.update(type(frame).__name__ for frame in batch.frames)
        self.batches += 1
        await asyncio.sleep(self.pause_seconds)
        queue = self._queues.get(channel)
        if kept and queue is not None:
            await queue.put(bus_frames.encode(Batch(batch.worker, batch.channel, kept)))

    async def receive(self, channel: str) -> dict[str, Any]:
        return await self._queues[channel].get()

    def put_raw(self, channel: str, message: dict[str, Any]) -> None:
        self._queues[channel].put_nowait(message)


@pytest.fixture
def layer(monkeypatch: pytest.MonkeyPatch) -> Iterator[LossyLayer]:
    layer = LossyLayer()
    monkeypatch.setattr("relay.hub.get_channel_layer", lambda: layer)
    yield layer
    layer.drop = lambda frame: False


async def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        await asyncio.sleep(0.01)


async def knows(relay: Relay, key: str) -> None:
    """Wait until a process knows that somebody is connected to another one."""
    await until(lambda: relay.hub.exchange.presence.workers_of(key))


def frames(*kinds: type[BusFrame]) -> Drop:
    return lambda frame: isinstance(frame, kinds)


async def test_a_message_and_its_state_cross_the_bus(layer: LossyLayer, begin: Begin) -> None:
    left, right = begin(), begin()
    ada, ben = await left.join(identity("ada")), await right.join(identity("ben"))
    await knows(left, "ben")
    sent = await ada.post("ben")
    assert (await ben.take()).id == sent
    assert (await ada.status()).state is State.DELIVERED
    assert await Mail.objects.acount() == 0


async def test_frames_collect_while_the_last_ones_are_sent(layer: LossyLayer, begin: Begin) -> None:
    left, right = begin(), begin()
    ada, ben = await left.join(identity("ada")), await right.join(identity("ben"))
    await knows(left, "ben")
    before, layer.pause_seconds = layer.batches, 0.02
    sent = [await ada.post("ben") for _ in range(100)]
    assert [(await ben.take()).id for _ in sent] == sent
    assert layer.sent["Forward"] == 100
    assert layer.batches - before < 50


async def test_a_lost_message_is_found_and_stored(layer: LossyLayer, begin: Begin) -> None:
    left, right = begin(), begin()
    ada, ben = await left.join(identity("ada")), await right.join(identity("ben"))
    await knows(left, "ben")
    layer.drop = frames(Forward)
    sent = await ada.post("ben")
    assert (await ada.status()).state is State.QUEUED
    taken = await ben.take()
    assert taken.id == sent
    status = await ada.status()
    assert (status.id, status.state) == (sent, State.DELIVERED)


async def test_a_lost_report_is_asked_for(layer: LossyLayer, begin: Begin) -> None:
    left, right = begin(), begin()
    ada, ben = await left.join(identity("ada")), await right.join(identity("ben"))
    await knows(left, "ben")
    lost: list[BusFrame] = []

    def drop_first(frame: BusFrame) -> bool:
        if isinstance(frame, Report) and not lost:
            lost.append(frame)
            return True
        return False

    layer.drop = drop_first
    sent = await ada.post("ben")
    assert (await ben.take()).id == sent
    status = await ada.status()
    assert (status.id, status.state) == (sent, State.DELIVERED)
    assert len(lost) == 1
    assert await ben.silent()


async def test_what_is_on_its_way_is_waited_for(layer: LossyLayer, begin: Begin) -> None:
    """A bank may take longer for an order than a process waits for word of it."""
    left, right = begin(), begin()
    ada = await left.join(identity("ada"))
    bank = await right.join(identity("bank"), Role.SERVICE)
    await knows(left, "bank")
    await ada.post("bank", kind=Kind.REQUEST)
    delivered = await bank.expect(Deliver)
    await asyncio.sleep(1)  # five times the wait for word
    assert layer.sent["Held"] >= 2
    assert await ada.silent(0.01)
    await bank.ack(delivered)
    assert (await ada.status()).state is State.DELIVERED
    assert await Mail.objects.acount() == 0


async def test_what_is_sent_again_while_it_is_out_keeps_nobody_waiting_across_the_bus(
    layer: LossyLayer, begin: Begin
) -> None:
    left, right = begin(), begin()
    ada, eve = await left.join(identity("ada")), await left.join(identity("eve"))
    bank = await right.join(identity("bank"), Role.SERVICE)
    await knows(left, "bank")
    sent = await ada.post("bank")
    first = await bank.expect(Deliver)
    await ada.post("bank", id=sent)
    assert (await ada.status()).state is State.QUEUED
    others = [await eve.post("bank") for _ in range(20)]
    assert [(await bank.take()).id for _ in others] == others
    # What waits alone is no backlog, so the next ones come past the mailbox again.
    await until(lambda: "bank" not in left.hub.exchange.presence.backlogs)
    await bank.ack(first)
    assert (await bank.take()).id == sent
    assert [(await ada.status()).state for _ in range(2)] == [State.DELIVERED] * 2
    assert await Mail.objects.acount() == 0


async def test_what_one_process_sets_aside_another_may_hand_out(
    layer: LossyLayer, begin: Begin
) -> None:
    left, right = begin(), begin()
    who = identity("bank")
    ada, busy = await left.join(identity("ada")), await left.join(who, Role.SERVICE)
    sent = await ada.post("bank")
    first = await busy.expect(Deliver)
    await ada.post("bank", id=sent)
    assert (await ada.status()).state is State.QUEUED
    idle = await right.join(who, Role.SERVICE)
    assert (await idle.take()).id == sent
    assert (await ada.status()).state is State.DELIVERED
    await busy.ack(first)
    assert (await ada.status()).state is State.DELIVERED
    assert await busy.silent()
    assert await Mail.objects.acount() == 0


async def test_word_of_a_message_is_not_taken_for_word_of_another_one_under_its_id(
    layer: LossyLayer, begin: Begin
) -> None:
    """Its sender came back by another process, and sent it again."""
    near, far, right = begin(), begin(), begin()
    who, sender = identity("bank"), identity("ada")
    one, other = await right.join(who, Role.SERVICE), await right.join(who, Role.SERVICE)
    ada, again = await near.join(sender), await far.join(sender)
    for process in (near, far):
        await knows(process, "bank")
    sent = await ada.post("bank")
    deliveries = [await one.expect(Deliver)]
    await again.post("bank", id=sent, body=b64u(b"sealed anew"))
    deliveries.append(await other.expect(Deliver))
    await one.ack(deliveries[0])
    assert (await ada.status()).state is State.DELIVERED
    assert await again.silent(3 * QUICK["FORWARD_SECONDS"])
    await other.ack(deliveries[1])
    assert (await again.status()).state is State.DELIVERED


async def test_what_another_process_gave_up_is_not_reported_for_what_it_sent_later(
    layer: LossyLayer, begin: Begin
) -> None:
    relay = bounded(begin, SWEEP_SECONDS=60, LEASE_SECONDS=180)
    bank = identity("bank")
    one, other = await relay.join(bank, Role.SERVICE), await relay.join(bank, Role.SERVICE)
    bus, back = relay.hub.bus, await layer.new_channel()
    assert bus is not None
    await until(lambda: bus.channel)
    first = Forward(new_id(), "ada", "bank", Kind.NOTICE, None, BODY, 1, 2, 3, 0)
    deliveries = []
    for peer, body in ((one, BODY), (other, b64u(b"sealed anew"))):
        frame = msgspec.structs.replace(first, body=body)
        layer.put_raw(bus.channel, bus_frames.encode(Batch("elsewhere", back, [frame])))
        deliveries.append(await peer.expect(Deliver))
    for peer, delivery in zip((one, other), deliveries, strict=True):
        await peer.ack(delivery)
        await peer.still_works()
        layer.put_raw(bus.channel, bus_frames.encode(Batch("elsewhere", back, [Ask([first.key])])))
    told: list[BusFrame] = []
    while sum(isinstance(frame, Held) for frame in told) < 2:
        told += bus_frames.decode(await layer.receive(back)).frames
    words = [frame for frame in told if isinstance(frame, Held | Report)]
    assert words[0] == Held([first.key], [])
    assert Report(first.key, State.DELIVERED, None) in words[1:]


async def test_a_process_that_does_not_answer_counts_as_gone(
    layer: LossyLayer, begin: Begin
) -> None:
    left, right = begin(), begin()
    ada, ben = await left.join(identity("ada")), await right.join(identity("ben"))
    await knows(left, "ben")
    layer.drop = frames(Forward, Held, Report, MailStored)
    sent = [await ada.post("ben") for _ in range(3)]
    assert {(await ada.status()).state for _ in sent} == {State.QUEUED}
    # No hint came through either: the sweep of his own process finds the mail.
    assert [(await ben.take()).id for _ in sent] == sent


async def test_a_process_without_an_answer_is_given_nothing_until_it_is_heard(
    layer: LossyLayer, begin: Begin
) -> None:
    left, right = begin(), begin()
    ada, ben = await left.join(identity("ada")), await right.join(identity("ben"))
    await knows(left, "ben")
    layer.drop = lambda frame: True
    for _ in range(3):
        await queued(ada, await ada.post("ben"))
        await ben.take()
        await until(lambda: "ben" not in left.hub.exchange.presence.backlogs)
        await asyncio.sleep(2 * QUICK["SWEEP_SECONDS"])  # it renews its lease: that proves nothing
    assert layer.sent["Forward"] == 1
    layer.drop = lambda frame: False
    await knows(left, "ben")
    sent = await ada.post("ben", ttl_ms=0)
    assert (await ben.take()).id == sent


async def test_what_could_not_be_sent_is_stored_at_once(layer: LossyLayer, begin: Begin) -> None:
    with override_settings(RELAY={**QUICK, "FORWARD_SECONDS": 60}):
        left, right = begin(), begin()
    ada, ben = await left.join(identity("ada")), await right.join(identity("ben"))
    await knows(left, "ben")
    layer.refuses = True
    sent = [await ada.post("ben") for _ in range(3)]
    for one in sent:
        await queued(ada, one)
    assert [(await ben.take()).id for _ in sent] == sent
    layer.refuses = False
    await knows(left, "ben")


async def test_a_layer_that_hangs_is_used_again_when_it_is_back(
    layer: LossyLayer, begin: Begin
) -> None:
    left, right = begin(), begin()
    ada, ben = await left.join(identity("ada")), await right.join(identity("ben"))
    await knows(left, "ben")
    layer.pause_seconds = 3_600
    sent = await ada.post("ben")
    await queued(ada, sent)
    assert (await ben.take()).id == sent
    layer.pause_seconds = 0
    await knows(left, "ben")
    await knows(right, "ada")
    sent = await ada.post("ben", ttl_ms=0)
    assert (await ben.take()).id == sent


async def queued(sender: Peer, message_id: str) -> None:
    """Wait until a sender is told that this message is stored."""
    while True:
        status = await sender.status()
        if (status.id, status.state) == (message_id, State.QUEUED):
            return


async def test_hints_may_all_be_lost(layer: LossyLayer, begin: Begin) -> None:
    left, right = begin(), begin()
    ada, ben = await left.join(identity("ada")), await right.join(identity("ben"))
    layer.drop = frames(Here, MailStored, StatusKept)
    sent = await ada.post("ben")
    assert (await ben.take()).id == sent
    status = await ada.status()
    if status.state is State.QUEUED:
        status = await ada.status()
    assert (status.id, status.state) == (sent, State.DELIVERED)


async def test_a_layer_that_fails_costs_time_only(layer: LossyLayer, begin: Begin) -> None:
    left, right = begin(), begin()
    ada, ben = await left.join(identity("ada")), await right.join(identity("ben"))
    await knows(left, "ben")
    layer.refuses = True
    sent = await ada.post("ben")
    assert (await ben.take()).id == sent
    layer.refuses = False
    again = await ada.post("ben")
    assert (await ben.take()).id == again


async def test_now_or_never_across_the_bus(layer: LossyLayer, begin: Begin) -> None:
    left, right = begin(), begin()
    ada, ben = await left.join(identity("ada")), await right.join(identity("ben"))
    await knows(left, "ben")
    sent = await ada.post("ben", ttl_ms=0)
    await ben.expect(Deliver)
    await ben.wire.close()
    status = await ada.status()
    assert (status.id, status.state, status.code) == (sent, State.FAILED, Code.PEER_GONE)
    await until(lambda: not left.hub.exchange.presence.workers_of("ben"))
    sent = await ada.post("ben", ttl_ms=0)
    error = await ada.refusal()
    assert (error.id, error.code) == (sent, Code.RECIPIENT_ABSENT)


async def test_a_refusal_at_the_other_process_is_a_refusal_here(
    layer: LossyLayer, begin: Begin
) -> None:
    left, right = begin(), begin()
    ada, ben = await left.join(identity("ada")), await right.join(identity("ben"))
    await knows(left, "ben")
    layer.drop = frames(Here)
    await ben.wire.close()  # and nobody hears of it
    sent = await ada.post("ben", ttl_ms=0)
    error = await ada.refusal()
    assert (error.id, error.code) == (sent, Code.RECIPIENT_ABSENT)


async def test_the_first_acknowledgement_counts_for_all_processes(
    layer: LossyLayer, begin: Begin
) -> None:
    left, right = begin(), begin()
    ben = identity("ben")
    ada, near = await left.join(identity("ada")), await left.join(ben)
    far = await right.join(ben)
    await knows(left, "ben")
    sent = await ada.post("ben")
    await far.expect(Deliver)
    assert (await near.take()).id == sent
    assert (await ada.status()).state is State.DELIVERED
    await until(lambda: layer.sent["Settled"])
    await asyncio.sleep(0.05)
    await far.wire.close()
    await right.hub.exchange.writer.flush()
    assert await Mail.objects.acount() == 0
    assert await ada.silent()


async def test_what_nobody_can_read_is_ignored(layer: LossyLayer, begin: Begin) -> None:
    left, right = begin(), begin()
    ada, ben = await left.join(identity("ada")), await right.join(identity("ben"))
    await knows(left, "ben")
    bus = right.hub.bus
    assert bus is not None
    for message in ({"type": "relay.batch"}, {"batch": b"\xc1"}, {"batch": "text"}, {}):
        layer.put_raw(bus.channel, message)
    sent = await ada.post("ben")
    assert (await ben.take()).id == sent


async def test_a_process_that_ends_is_forgotten(layer: LossyLayer, begin: Begin) -> None:
    left, right = begin(), begin()
    ada, ben = await left.join(identity("ada")), await right.join(identity("ben"))
    await knows(left, "ben")
    await ben.wire.close()
    await right.hub.stop()
    await until(lambda: not left.hub.exchange.presence.workers_of("ben"))
    sent = await ada.post("ben")
    status = await ada.status()
    assert (status.id, status.state) == (sent, State.QUEUED)
    count = await sync_to_async(Worker.objects.count)()
    assert count == 1
