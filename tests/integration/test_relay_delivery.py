"""The relay over real connections: who gets what, and what the senders are told."""

from __future__ import annotations

from protocol.frames import Deliver, Kind, Role, State
from tests.integration.processes import RunningServer
from tests.relay.peer import BODY, identity, join, new_id


async def test_a_message_reaches_who_is_connected(relay_server: RunningServer) -> None:
    url = relay_server.relay_url
    async with await join(url, identity("ada")) as ada, await join(url, identity("ben")) as ben:
        sent = await ada.post("ben", kind=Kind.REQUEST)
        delivered = await ben.take()
        assert (delivered.id, delivered.sender, delivered.attempt) == (sent, "ada", 1)
        assert (delivered.kind, delivered.body, delivered.re) == (Kind.REQUEST, BODY, None)
        status = await ada.status()
        assert (status.id, status.to, status.state) == (sent, "ben", State.DELIVERED)
        await ben.post("ada", kind=Kind.REPLY, re=sent)
        reply = await ada.take()
        assert (reply.kind, reply.re) == (Kind.REPLY, sent)
        assert await ben.silent()


async def test_mail_waits_for_the_absent_in_order(relay_server: RunningServer) -> None:
    url = relay_server.relay_url
    absent = identity("ben")
    async with await join(url, absent):
        pass
    async with await join(url, identity("ada")) as ada:
        sent = [await ada.post("ben") for _ in range(150)]
        states = [await ada.status() for _ in sent]
        assert {status.state for status in states} == {State.QUEUED}
        async with await join(url, absent) as ben:
            assert ben.welcome is not None
            assert ben.welcome.waiting == 150
            assert [(await ben.take()).id for _ in sent] == sent
            told = [await ada.status() for _ in sent]
            assert [status.id for status in told] == sent
            assert {status.state for status in told} == {State.DELIVERED}


async def test_services_share_and_persons_all_get_everything(relay_server: RunningServer) -> None:
    url = relay_server.relay_url
    bank, person = identity("bank"), identity("ben")
    async with (
        await join(url, bank, Role.SERVICE) as one,
        await join(url, bank, Role.SERVICE) as other,
        await join(url, person) as left,
        await join(url, person) as right,
        await join(url, identity("ada")) as ada,
    ):
        for _ in range(2):
            await ada.post("bank", kind=Kind.REQUEST)
        assert (await one.expect(Deliver)).id != (await other.expect(Deliver)).id
        sent = await ada.post("ben")
        assert (await left.take()).id == (await right.take()).id == sent
        assert (await ada.status()).id == sent
        assert await ada.silent()


async def test_what_was_not_acknowledged_is_delivered_again(relay_server: RunningServer) -> None:
    url = relay_server.relay_url
    ben = identity("ben")
    async with await join(url, identity("ada")) as ada:
        sent = [new_id() for _ in range(3)]
        async with await join(url, ben) as first:
            for message_id in sent:
                await ada.post("ben", id=message_id)
            for message_id in sent:
                assert (await first.expect(Deliver)).id == message_id
        assert [(await ada.status()).state for _ in sent] == [State.QUEUED] * 3
        async with await join(url, ben) as second:
            again = [await second.take() for _ in sent]
            assert [(one.id, one.attempt) for one in again] == [(one, 2) for one in sent]
            assert [(await ada.status()).state for _ in sent] == [State.DELIVERED] * 3
