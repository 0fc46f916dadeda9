"""A relay that substitutes, replays, delays, duplicates, reorders, alters, and answers itself.

Everything it does must be refused or harmless: no order runs twice or is taken for what it is not,
no message is shown twice, altered or from somebody else, and what it can achieve at the most is
that nothing happens.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

import pytest

from clients.customer import OrderState
from clients.errors import PeerKeyChangedError, RefusedError, RelayRenamedError
from clients.messages import DeliveryState
from clients.orders import check_receipt
from clients.outcomes import order_text
from clients.retry import RetryPolicy
from clients.transport import Transport
from protocol import frames, limits
from protocol.banking import Answer, SignedReceipt, Transfer, encode_answer, sign_receipt
from protocol.encoding import b64u, unb64u
from protocol.errors import RETRY, Code
from protocol.frames import Kind, State
from protocol.identifiers import uuid7
from protocol.keyfile import new_key_file, rotate_prekeys
from protocol.sealing import refusal_body, seal_reply
from tests.clients.fake_relay import FakeRelay, Session, changed, now_ms, until
from tests.clients.test_messages import say
from tests.clients.world import ADA, BANK, BEN, World

HUNDRED = Transfer(from_account="account1", to_account="account2", amount="100")
HASTY = RetryPolicy(tries=2, try_ms=80)
IMPOSTOR = new_key_file("bank", "Demo", "Bank", now=now_ms(), random_bytes=os.urandom)


def new_id() -> str:
    return uuid7(now_ms(), os.urandom(10))


async def answer(session: Session, request: frames.Send, body: bytes) -> None:
    """Answer a request as if the recipient had."""
    deliver = frames.Deliver(
        new_id(), request.to, Kind.REPLY, 1, now_ms(), b64u(body), re=request.id
    )
    await session.send(deliver)


async def replies(world: World, count: int) -> None:
    """Wait until so many replies have passed the relay."""
    await until(lambda: len(world.relay.sent(Kind.REPLY)) == count)


# --- Substituted bundles ---


async def test_substituted_bank_is_refused_and_gets_nothing(world: World) -> None:
    async with world.open_bank(), world.person() as ada:
        world.relay.substitutes["bank"] = [IMPOSTOR.signed_bundle]
        with pytest.raises(PeerKeyChangedError):
            await ada.session.customer.submit(HUNDRED)
        assert world.relay.sent() == []
        assert ada.state.unfinished() == []


async def test_altered_bundle_of_the_bank_gets_no_order(world: World) -> None:
    async with world.open_bank(), world.person() as ada:
        forged = changed(BANK.signed_bundle, signature=b64u(bytes(64)))
        world.relay.substitutes["bank"] = [forged]
        with pytest.raises(RefusedError, match="bad_bundle"):
            await ada.session.customer.submit(HUNDRED)
        assert world.relay.sent() == []
        assert ada.state.unfinished() == []


async def test_bank_substituted_between_tries_is_refused(world: World) -> None:
    async with world.open_bank(), world.person() as ada:
        await ada.session.bank_bundle()
        world.relay.substitutes["bank"] = [IMPOSTOR.signed_bundle]
        world.bank.silent_times = 9
        result = await ada.session.customer.submit(HUNDRED)
        # It was sent once, to the bank: nobody knows what became of it.
        assert (result.state, result.code) == (OrderState.UNKNOWN, Code.PEER_KEY_CHANGED)
        assert "gave a key with" in order_text(result)
        assert {frame.to for frame in world.relay.sent()} == {"bank"}
        assert len(ada.state.unfinished()) == 1


async def test_altered_bundle_is_no_bundle(world: World) -> None:
    async with world.open_bank(), world.person() as ada:
        raw = unb64u(BANK.signed_bundle.bundle).replace(b'"Demo"', b'"Evil"')
        forged = changed(BANK.signed_bundle, bundle=b64u(raw))
        world.relay.substitutes["bank"] = [forged]
        with pytest.raises(RefusedError, match="bad_bundle"):
            await ada.session.client.directory.peer("bank")


async def test_older_bundle_than_known_is_refused(world: World) -> None:
    """A relay that brings back a prekey whose secret was stolen."""
    async with world.open_bank(), world.person() as ada:
        rotated = rotate_prekeys(BANK, now=now_ms(), random_bytes=os.urandom, period_ms=0)
        world.relay.substitutes["bank"] = [rotated.signed_bundle]
        await ada.session.bank_bundle()
        world.relay.substitutes["bank"] = [BANK.signed_bundle]
        with pytest.raises(RefusedError, match="old bundle"):
            await ada.session.client.directory.peer("bank", refetch=True)


async def test_substituted_person_is_refused_once_known(world: World) -> None:
    mallory = new_key_file("ben", "Ben", "Beispiel", now=now_ms(), random_bytes=os.urandom)
    async with world.person(ADA) as ada, world.person(BEN) as ben:
        await say(ada, "ben", "Hello")
        world.relay.substitutes["ben"] = [mallory.signed_bundle]
        with pytest.raises(PeerKeyChangedError):
            await ada.session.client.directory.peer("ben", refetch=True)
        sends = len(world.relay.sent())
        with pytest.raises(PeerKeyChangedError):
            await say(ada, "ben", "Secret")
        assert len(world.relay.sent()) == sends
        assert len(ben.messages) == 1


async def test_bundle_of_another_id_is_not_taken(world: World) -> None:
    async with world.open_bank(), world.person() as ada:
        world.relay.substitutes["bank"] = [BEN.signed_bundle]
        with pytest.raises(RefusedError, match="unknown_recipient"):
            await ada.session.client.directory.peer("bank")


async def test_another_relay_at_a_known_address_gets_no_proof(world: World) -> None:
    async with world.person():
        pass
    world.relay.name = "another-relay"
    registrations = world.relay.registrations
    with pytest.raises(RelayRenamedError, match="another-relay"):
        async with world.person():
            pass
    assert world.relay.registrations == registrations


# --- Replays, duplicates, delays, order ---


async def test_replayed_order_runs_once(world: World) -> None:
    async with world.open_bank(), world.person() as ada:
        result = await ada.session.customer.submit(HUNDRED)
        [request] = world.relay.sent(Kind.REQUEST)
        session = world.relay.sessions["ada"][0]
        for wanted in (2, 3, 4):
            await world.relay.route(session, request)
            await replies(world, wanted)
        assert result.state is OrderState.ACCEPTED
        assert world.bank.booked == 1
        assert len(world.bank.receipts) == 1
        counters = ada.session.client.protocol.counters
        await until(lambda: counters.late_replies == 3)


async def test_duplicated_and_reordered_frames_are_harmless(world: World) -> None:
    held: list[tuple[Session, frames.Send]] = []

    async def shuffle(relay: FakeRelay, session: Session, frame: frames.Send) -> bool:
        held.append((session, frame))
        if len(held) == 4:
            batch, held[:] = list(reversed(held)), []
            for each in (*batch, *batch):
                await relay.route(*each)
        return True

    async with world.open_bank(), world.person() as ada:
        await ada.session.bank_bundle()
        world.relay.tamper = shuffle
        results = await asyncio.gather(*(ada.session.customer.submit(HUNDRED) for _ in range(4)))
        assert {result.state for result in results} == {OrderState.ACCEPTED}
        assert len({result.order_id for result in results}) == 4
    assert world.bank.booked == 4
    assert world.bank.balances["account1"] == 600


async def test_reply_to_one_order_is_no_reply_to_another(world: World) -> None:
    """The relay answers the second order with the receipt of the first."""
    async with world.open_bank(), world.person(policy=HASTY) as ada:
        await ada.session.customer.submit(HUNDRED)
        await ada.session.customer.flush()
        [first] = world.relay.sent(Kind.REPLY)

        async def swap(relay: FakeRelay, session: Session, frame: frames.Send) -> bool:
            if frame.kind is Kind.REQUEST:
                await answer(session, frame, unb64u(first.body))
            return True

        world.relay.tamper = swap
        result = await ada.session.customer.submit(HUNDRED)
        assert result.state is OrderState.UNKNOWN
        assert len(ada.state.unfinished()) == 1
        assert world.bank.booked == 1


async def test_receipt_of_another_order_inside_a_good_seal_proves_nothing(world: World) -> None:
    """Even who can seal (the bank, gone mad) can't pass one order's receipt off as another's."""
    async with world.open_bank(), world.person(policy=HASTY) as ada:
        await ada.session.customer.submit(HUNDRED)
        await ada.session.customer.flush()
        [done] = ada.state.finished()
        assert done.receipt is not None
        receipt = done.receipt
        world.bank.answer = lambda opened: Answer(  # type: ignore[method-assign]  # gone mad
            limits.PROTOCOL_VERSION, opened.inner.id, receipt=receipt
        )
        result = await ada.session.customer.submit(HUNDRED)
        assert result.state is OrderState.UNKNOWN
        assert len(ada.state.unfinished()) == 1


async def test_delayed_answer_still_ends_the_order_once(world: World) -> None:
    async def late(relay: FakeRelay, session: Session, frame: frames.Send) -> bool:
        if frame.kind is Kind.REPLY:
            await asyncio.sleep(0.3)
        return False

    async with world.open_bank(), world.person(policy=RetryPolicy(5, 120)) as ada:
        world.relay.tamper = late
        result = await ada.session.customer.submit(HUNDRED)
        assert result.state is OrderState.ACCEPTED
        assert world.bank.booked == 1


async def test_statuses_are_only_the_relays_word(world: World) -> None:
    async def pretend(relay: FakeRelay, session: Session, frame: frames.Send) -> bool:
        for state in (State.DELIVERED, State.EXPIRED, State.QUEUED, State.FAILED, State.DELIVERED):
            await session.send(frames.Status(frame.id, frame.to, state))
        return True

    async with world.open_bank(), world.person(policy=HASTY) as ada:
        world.relay.tamper = pretend
        result = await ada.session.customer.submit(HUNDRED)
        assert result.state is OrderState.UNKNOWN
        assert len(ada.state.unfinished()) == 1


@pytest.mark.parametrize("code", list(Code))
async def test_no_error_of_the_relay_ends_an_order(world: World, code: Code) -> None:
    async def refuse(relay: FakeRelay, session: Session, frame: frames.Send) -> bool:
        await session.send(frames.Error(code, RETRY[code], id=frame.id, detail="so says the relay"))
        return True

    async with world.open_bank(), world.person(policy=RetryPolicy(1, 50)) as ada:
        world.relay.tamper = refuse
        result = await ada.session.customer.submit(HUNDRED)
        assert (result.state, result.code) == (OrderState.UNKNOWN, code)
        assert len(ada.state.unfinished()) == 1
        assert world.bank.booked == 0


# --- Altered messages ---


def flip(position: int) -> Callable[[bytes], bytes]:
    def flipped(body: bytes) -> bytes:
        at = position % len(body)
        return body[:at] + bytes((body[at] ^ 1,)) + body[at + 1 :]

    return flipped


ALTERATIONS: dict[str, Callable[[bytes], bytes]] = {
    "suite": flip(0),
    "key id": flip(3),
    "encapsulated key": flip(40),
    "ciphertext": flip(-40),
    "tag": flip(-1),
    "cut": lambda body: body[:-1],
    "longer": lambda body: body + b"\0",
    "nothing left": lambda body: b"\1",
}


@pytest.mark.parametrize("how", list(ALTERATIONS))
async def test_altered_order_never_runs_and_the_true_one_runs_once(world: World, how: str) -> None:
    altered: list[str] = []

    async def alter(relay: FakeRelay, session: Session, frame: frames.Send) -> bool:
        if frame.kind is Kind.REQUEST and not altered:
            altered.append(frame.id)
            body = b64u(ALTERATIONS[how](unb64u(frame.body)))
            await relay.route(session, changed(frame, body=body))
            return True
        return False

    async with world.open_bank(), world.person() as ada:
        world.relay.tamper = alter
        result = await ada.session.customer.submit(HUNDRED)
        assert altered == [result.order_id]
        assert result.state is OrderState.ACCEPTED
        assert world.bank.booked == 1
        assert len(world.bank.seen) == 1


@pytest.mark.parametrize("how", list(ALTERATIONS))
async def test_altered_answer_is_ignored(world: World, how: str) -> None:
    altered: list[str] = []

    async def alter(relay: FakeRelay, session: Session, frame: frames.Send) -> bool:
        if frame.kind is Kind.REPLY and not altered:
            altered.append(frame.id)
            body = b64u(ALTERATIONS[how](unb64u(frame.body)))
            await relay.route(session, changed(frame, body=body))
            return True
        return False

    async with world.open_bank(), world.person() as ada:
        world.relay.tamper = alter
        result = await ada.session.customer.submit(HUNDRED)
        assert altered
        assert result.state is OrderState.ACCEPTED
        assert world.bank.booked == 1


@pytest.mark.parametrize("how", list(ALTERATIONS))
async def test_altered_message_is_not_shown_and_the_true_one_once(world: World, how: str) -> None:
    altered: list[str] = []

    async def alter(relay: FakeRelay, session: Session, frame: frames.Send) -> bool:
        if frame.kind is Kind.REQUEST and not altered:
            altered.append(frame.id)
            body = b64u(ALTERATIONS[how](unb64u(frame.body)))
            await relay.route(session, changed(frame, body=body))
            return True
        return False

    async with world.person(BEN) as ben, world.person(ADA) as ada:
        world.relay.tamper = alter
        result = await say(ada, "ben", "The truth")
        assert result.state is DeliveryState.ANSWERED
        assert [message.text for message in ben.messages] == ["The truth"]
        assert len(ben.refused) == 1


@pytest.mark.parametrize("member", ["id", "sender"])
async def test_redirected_message_is_refused(world: World, member: str) -> None:
    """The body is bound to its id, its sender and its recipient."""

    async def redirect(relay: FakeRelay, session: Session, frame: frames.Send) -> bool:
        if frame.kind is not Kind.REQUEST:
            return False
        deliver = frames.Deliver(
            frame.id, session.id, frame.kind, 1, now_ms(), frame.body, frame.re
        )
        wrong = {"id": new_id(), "sender": "ben"}[member]
        await relay.deliver(relay.sessions["bank"][0], changed(deliver, **{member: wrong}))
        return True

    async with world.open_bank(), world.person(BEN), world.person(policy=HASTY) as ada:
        world.relay.tamper = redirect
        result = await ada.session.customer.submit(HUNDRED)
        assert result.state is OrderState.UNKNOWN
        assert world.bank.seen == []
        assert world.bank.booked == 0


# --- Answers in the bank's name ---


async def test_relay_cant_answer_in_the_banks_name(world: World) -> None:
    """It knows everything but the reply key, which only who opens the order gets."""

    async def answer_itself(relay: FakeRelay, session: Session, frame: frames.Send) -> bool:
        if frame.kind is not Kind.REQUEST:
            return False
        forged = Answer(limits.PROTOCOL_VERSION, frame.id, Code.ORDER_EXPIRED)
        body = seal_reply(bytes(32), bytes(32), encode_answer(forged), os.urandom(16))
        await answer(session, frame, body)
        await answer(session, frame, refusal_body(Code.ORDER_EXPIRED))
        return True

    async with world.open_bank(), world.person(policy=HASTY) as ada:
        world.relay.tamper = answer_itself
        result = await ada.session.customer.submit(HUNDRED)
        assert (result.state, result.code) == (OrderState.UNKNOWN, Code.ORDER_EXPIRED)
        [record] = ada.state.unfinished()
        world.relay.tamper = None
        assert (await ada.session.customer.finish(record)).state is OrderState.ACCEPTED
        assert world.bank.booked == 1


async def test_receipt_signed_by_another_key_is_no_receipt(world: World) -> None:
    async with world.open_bank(), world.person(policy=HASTY) as ada:
        await ada.session.customer.submit(HUNDRED)
        await ada.session.customer.flush()
        [record] = ada.state.finished()
        assert record.receipt is not None
        receipt = check_receipt(record.receipt, record, BANK.bundle)
        forged = sign_receipt(IMPOSTOR.identity, receipt)
        world.bank.answer = lambda opened: Answer(  # type: ignore[method-assign]  # a forger
            limits.PROTOCOL_VERSION, opened.inner.id, receipt=forged
        )
        result = await ada.session.customer.submit(HUNDRED)
        assert result.state is OrderState.UNKNOWN


@pytest.mark.parametrize("part", ["receipt", "signature"])
async def test_receipt_edited_after_signing_is_no_receipt(world: World, part: str) -> None:
    def edited(signed: SignedReceipt) -> SignedReceipt:
        raw = unb64u(getattr(signed, part))
        wrong = raw.replace(b'"amount":100', b'"amount":999') if part == "receipt" else flip(5)(raw)
        assert wrong != raw
        return SignedReceipt(
            **{"receipt": signed.receipt, "signature": signed.signature} | {part: b64u(wrong)}
        )

    async with world.open_bank(), world.person(policy=HASTY) as ada:
        honest = world.bank.decide
        world.bank.decide = lambda opened: edited(honest(opened))  # type: ignore[method-assign]  # a forger
        result = await ada.session.customer.submit(HUNDRED)
        assert result.state is OrderState.UNKNOWN
        assert len(ada.state.unfinished()) == 1


async def test_relay_cant_answer_in_a_persons_name(world: World) -> None:
    async def answer_itself(relay: FakeRelay, session: Session, frame: frames.Send) -> bool:
        if frame.kind is not Kind.REQUEST:
            return False
        forged = encode_answer(Answer(limits.PROTOCOL_VERSION, frame.id))
        await answer(session, frame, seal_reply(bytes(32), bytes(32), forged, os.urandom(16)))
        await session.send(frames.Status(frame.id, frame.to, State.DELIVERED))
        return True

    async with world.person(BEN), world.person(ADA) as ada:
        world.relay.tamper = answer_itself
        result = await say(ada, "ben", "Hello", HASTY)
        assert result.state is not DeliveryState.ANSWERED
        assert not result.proven


# --- Nonsense ---


@pytest.mark.parametrize(
    "text",
    ["{", "[]", '{"type":"welcome"}', '{"type":"challenge"}', "\x00", "x" * 100_000, "{}" * 3],
)
async def test_nonsense_ends_the_connection_and_never_the_program(world: World, text: str) -> None:
    async with world.open_bank(), world.person() as ada:
        await world.relay.sessions["ada"][0].socket.send(text)
        await until(lambda: world.relay.registrations >= 3)
        result = await ada.session.customer.submit(HUNDRED)
        assert result.state is OrderState.ACCEPTED


async def test_flood_of_stray_replies_is_counted_and_nothing_else(world: World) -> None:
    async with world.open_bank(), world.person() as ada:
        for _ in range(300):
            await world.relay.sessions["ada"][0].send(
                frames.Deliver(new_id(), "bank", Kind.REPLY, 1, now_ms(), "AAAA", new_id())
            )
        result = await ada.session.customer.submit(HUNDRED)
        assert result.state is OrderState.ACCEPTED
        assert ada.session.client.protocol.counters.unknown_replies == 300


async def test_flood_of_drains_is_one(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async with world.open_bank(), world.person() as ada:
        connection, hung_up = ada.session.client.connection, []
        hang_up = connection._hang_up

        def count(transport: Transport | None) -> None:
            hung_up.append(transport)
            hang_up(transport)

        monkeypatch.setattr(connection, "_hang_up", count)
        [session] = world.relay.sessions["ada"]
        for _ in range(50):
            await session.send(frames.Drain(0))
        await until(lambda: connection.connections_made == 2, 10)
        assert len(hung_up) == 1
        assert (await ada.session.customer.submit(HUNDRED)).state is OrderState.ACCEPTED
