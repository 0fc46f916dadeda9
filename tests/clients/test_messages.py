"""Messages between persons: shown once, answered by the recipient alone, refused by name."""

from __future__ import annotations

import asyncio
import dataclasses
import errno
import os
from pathlib import Path

import pytest

from clients.errors import PeerKeyChangedError, RefusedError, StorageError
from clients.memory import PinsOnDisk, SeenMessages
from clients.messages import DeliveryState, TextResult
from clients.retry import RetryPolicy
from clients.storage import StateDirectory
from protocol import frames
from protocol.bundles import make_bundle, open_bundle
from protocol.encoding import b64u, unb64u
from protocol.errors import Code, EndToEndError
from protocol.identifiers import uuid7
from protocol.keyfile import KeyFile, new_key_file, rotate_prekeys
from protocol.keys import IdentityKey, Suite
from tests.clients.fake_relay import changed, now_ms, until
from tests.clients.world import ADA, BEN, PATIENT, Person, World, keys_of

HASTY = RetryPolicy(tries=2, try_ms=80)


async def say(person: Person, to: str, text: str, policy: RetryPolicy = PATIENT) -> TextResult:
    recipient = await person.session.client.directory.resolve(to)
    outgoing, done = person.session.messenger.send(recipient, text, policy)
    return outgoing.result(await done)


async def test_message_is_shown_and_answered(world: World) -> None:
    async with world.person(BEN) as ben, world.person(ADA) as ada:
        result = await say(ada, "ben", "Hello Ben")
        assert (result.state, result.proven) == (DeliveryState.ANSWERED, True)
        [message] = ben.messages
        assert (message.sender, message.name, message.text) == ("ada", "Ärlig, Ada", "Hello Ben")
        assert message.fingerprint == ADA.fingerprint.hex()
        await until(lambda: not world.relay.sessions["ben"][0].unacked)


@pytest.mark.parametrize("name", ["Ärlig, Ada", "ada,  a\u0308rlig", "ÄRLIG,ADA"])
async def test_names_match_in_either_order_and_any_spelling(world: World, name: str) -> None:
    async with world.person(ADA) as ada, world.person(BEN) as ben:
        assert (await say(ben, name, "Hello")).state is DeliveryState.ANSWERED
        assert len(ada.messages) == 1


async def test_absent_recipient_gets_it_later(world: World) -> None:
    async with world.person(BEN):
        pass
    async with world.person(ADA) as ada:
        recipient = await ada.session.client.directory.resolve("ben")
        outgoing, done = ada.session.messenger.send(recipient, "Later", PATIENT)
        await outgoing.queued.wait()
        assert outgoing.result(None).state is DeliveryState.QUEUED
        async with world.person(BEN) as ben:
            assert outgoing.result(await done).state is DeliveryState.ANSWERED
            assert [message.text for message in ben.messages] == ["Later"]


async def test_message_that_comes_again_is_shown_once_and_answered_again(world: World) -> None:
    async with world.person(BEN) as ben, world.person(ADA) as ada:
        await say(ada, "ben", "Once")
        [request] = world.relay.sent(frames.Kind.REQUEST)
        replies = len(world.relay.sent(frames.Kind.REPLY))
        await world.relay.route(world.relay.sessions["ada"][0], request)
        await until(lambda: len(world.relay.sent(frames.Kind.REPLY)) == replies + 1)
        assert len(ben.messages) == 1
        assert ben.refused == []


async def test_message_that_comes_again_after_a_restart_is_known(world: World) -> None:
    async with world.person(BEN) as ben, world.person(ADA) as ada:
        await say(ada, "ben", "Once")
        ben.state.take_message(ben.messages[0])
    [request] = world.relay.sent(frames.Kind.REQUEST)
    async with world.person(ADA) as ada, world.person(BEN) as ben:
        await world.relay.route(world.relay.sessions["ada"][0], request)
        await until(lambda: len(world.relay.sent(frames.Kind.REPLY)) == 2)
        assert ben.messages == []
        assert ben.state.waiting_messages() == []


async def test_message_is_in_the_inbox_until_it_is_shown(world: World) -> None:
    async with world.person(BEN) as ben, world.person(ADA) as ada:
        await say(ada, "ben", "Keep me")
    [kept] = ben.state.waiting_messages()
    assert kept.text == "Keep me"
    assert ben.state.take_message(kept)
    assert not ben.state.take_message(kept)
    assert ben.state.waiting_messages() == []


async def test_blocked_sender_is_refused_by_name_and_told_here(world: World) -> None:
    async with world.person(BEN) as ben, world.person(ADA) as ada:
        await ben.session.client.directory.peer("ada")
        ben.session.peers.block("ada", blocked=True)
        result = await say(ada, "ben", "Hello?")
        assert (result.state, result.code) == (DeliveryState.REFUSED, Code.UNKNOWN_SENDER)
        assert not result.proven
        assert ben.messages == []
        assert ben.refused[0][:2] == ("ada", Code.UNKNOWN_SENDER)
        ben.session.peers.block("ada", blocked=False)
        assert (await say(ada, "ben", "Hello!")).state is DeliveryState.ANSWERED


async def test_id_in_another_case_is_nobody_else(world: World) -> None:
    imposter = keys_of("BEN", "Beispiel, Ben")
    async with world.person(BEN) as ben, world.person(ADA) as ada:
        for unpinned in (True, False):
            assert (await say(ada, "BEN", "Hello")).to == "ben", unpinned
        assert [message.text for message in ben.messages] == ["Hello", "Hello"]
        with pytest.raises(RefusedError, match="BEN, who is known here as ben"):
            ada.session.peers.admit(imposter.bundle)
        ada.session.peers.block("Ben", blocked=True)
        assert ada.session.peers.is_blocked("BEN")
        # The bank's spelling is the configured one.
        async with world.open_bank():
            assert (await ada.session.client.directory.peer("BANK")).id == "bank"
        pins = PinsOnDisk(ada.state).all_pins()
        assert sorted(pin.bundle.id for pin in pins) == ["bank", "ben"]


async def test_unknown_sender_is_refused(world: World) -> None:
    async with world.person(BEN) as ben, world.person(ADA) as ada:
        await ada.session.client.directory.peer("ben")
        world.relay.substitutes["ada"] = []
        result = await say(ada, "ben", "Hello?")
        assert (result.state, result.code) == (DeliveryState.REFUSED, Code.UNKNOWN_SENDER)
        assert ben.messages == []


async def refusal_of(world: World, ben: Person, body: str) -> tuple[str, Code]:
    """Let Eve send Ben a body as it is; return what he says about it."""
    sent = frames.Send(
        id=uuid7(now_ms(), os.urandom(10)),
        to="ben",
        kind=frames.Kind.REQUEST,
        body=body,
        ttl_ms=60_000,
    )
    told = len(ben.refused)
    await world.relay.route(world.relay.sessions["eve"][0], sent)
    await until(lambda: len(ben.refused) > told)
    return ben.refused[-1][:2]


async def test_stranger_who_sends_what_cant_be_opened_is_not_remembered(world: World) -> None:
    key = BEN.bundle.encryption_key(Suite.HYBRID)
    suite = bytes((key.suite.value,))
    async with world.person(BEN) as ben, world.person(keys_of("eve")):

        def lookups() -> int:
            return len([each for each in world.relay.received if isinstance(each, frames.Lookup)])

        for body, code in (
            ("A", Code.NOT_AUTHENTIC),
            (b64u(b"\7" + bytes(2_000)), Code.NOT_AUTHENTIC),
            (b64u(suite + bytes(2_000)), Code.UNKNOWN_KEY_ID),
        ):
            assert await refusal_of(world, ben, body) == ("eve", code)
        assert lookups() == 0
        # Only who the sender is tells whether this opens; the relay's first answer is as good as
        # a second.
        unopened = b64u(suite + key.key_id + bytes(2_000))
        assert await refusal_of(world, ben, unopened) == ("eve", Code.NOT_AUTHENTIC)
        assert lookups() == 1
        assert PinsOnDisk(ben.state).all_pins() == []


async def test_stranger_is_remembered_after_the_first_message_that_opens(world: World) -> None:
    async with world.person(BEN) as ben, world.person(ADA) as ada:
        assert PinsOnDisk(ben.state).pin("ada") is None
        assert (await say(ada, "ben", "Hello")).state is DeliveryState.ANSWERED
        pin = PinsOnDisk(ben.state).pin("ada")
        assert pin is not None
        assert pin.bundle.fingerprint == ADA.fingerprint


async def test_rotated_keys_are_fetched_after_the_first_refusal(world: World) -> None:
    async with world.person(BEN) as ben, world.person(ADA) as ada:
        assert (await say(ada, "ben", "One")).state is DeliveryState.ANSWERED
        rotated = rotate_prekeys(BEN, now=now_ms(), random_bytes=os.urandom, period_ms=0)
        rotated = dataclasses.replace(rotated, prekeys=rotated.prekeys[:2])
        await ben.session.client.publish(rotated)
        assert (await say(ada, "ben", "Two")).state is DeliveryState.ANSWERED
        assert [message.text for message in ben.messages] == ["One", "Two"]


# --- Refused after it was opened ------------------------------------------------------------------

DAY_MS = 86_400_000


def answers_are_sealed(world: World) -> bool:
    """Whether everything that was answered was answered under a reply key."""
    return all(unb64u(reply.body)[0] == 1 for reply in world.relay.sent(frames.Kind.REPLY))


async def test_expired_message_is_refused_in_a_reply_that_proves_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world.person(BEN) as ben, world.person(ADA) as ada:
        monkeypatch.setattr(ben.session.client, "clock", lambda: now_ms() + 8 * DAY_MS)
        result = await say(ada, "ben", "Too late")
        assert (result.state, result.code) == (DeliveryState.REFUSED, Code.MESSAGE_EXPIRED)
        assert result.proven
        assert answers_are_sealed(world)
        assert ben.messages == []
        assert [refusal[:2] for refusal in ben.refused] == [("ada", Code.MESSAGE_EXPIRED)]


async def test_message_from_the_future_is_taken_once_the_clocks_meet(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world.person(BEN) as ben, world.person(ADA) as ada:
        with monkeypatch.context() as behind:
            behind.setattr(ben.session.client, "clock", lambda: now_ms() - 120_000)
            result = await say(ada, "ben", "Hello", HASTY)
            assert result.code is Code.CLOCK_SKEW
            assert result.state in {DeliveryState.UNKNOWN, DeliveryState.DELIVERED}
            recipient = await ada.session.client.directory.peer("ben")
            outgoing, done = ada.session.messenger.send(recipient, "Hello again", PATIENT)
            await until(lambda: len(ben.refused) > 2)
        assert outgoing.result(await done).state is DeliveryState.ANSWERED
        assert answers_are_sealed(world)
        assert [message.text for message in ben.messages] == ["Hello again"]
        assert {code for _, code, _ in ben.refused} == {Code.CLOCK_SKEW}


async def test_other_text_under_a_known_id_is_refused_in_a_reply_that_proves_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world.person(BEN) as ben, world.person(ADA) as ada:
        recipient = await ada.session.client.directory.peer("ben")
        outgoing, done = ada.session.messenger.send(recipient, "One", PATIENT)
        assert outgoing.result(await done).state is DeliveryState.ANSWERED
        with monkeypatch.context() as same_id:
            same_id.setattr(ada.session.client, "new_id", lambda: outgoing.id)
            other, done = ada.session.messenger.send(recipient, "Two", PATIENT)
        result = other.result(await done)
        assert (result.state, result.code) == (DeliveryState.REFUSED, Code.REPLAYED)
        assert result.proven
        assert answers_are_sealed(world)
        assert [message.text for message in ben.messages] == ["One"]


async def test_full_memory_says_so_in_a_sealed_reply_and_is_asked_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world.person(BEN) as ben, world.person(ADA) as ada:
        monkeypatch.setattr(ben.session.messenger, "_seen", SeenMessages(ben.state, capacity=0))
        result = await say(ada, "ben", "No room", HASTY)
        assert (result.state, result.code) == (DeliveryState.UNKNOWN, Code.REPLAY_WINDOW_FULL)
        assert answers_are_sealed(world)
        assert ben.messages == []
        assert ben.state.waiting_messages() == []


def other_identity(keys: KeyFile, *, signed_by: IdentityKey | None) -> KeyFile:
    """Return keys of the same id with another identity, signed by the old one or not."""
    new = new_key_file(
        keys.client_id,
        keys.first_name,
        keys.last_name,
        now=now_ms(),
        random_bytes=os.urandom,
    )
    signed = make_bundle(
        new.identity,
        client_id=keys.client_id,
        first_name=keys.first_name,
        last_name=keys.last_name,
        generation=keys.bundle.generation + 1,
        encryption_keys=[prekey.public for prekey in new.prekeys],
        valid_from=now_ms(),
        valid_to=now_ms() + 86_400_000,
        previous=signed_by,
    )
    return dataclasses.replace(new, bundle=open_bundle(signed))


async def test_new_identity_signed_by_the_old_one_is_taken(world: World) -> None:
    async with world.person(BEN) as ben:
        async with world.person(ADA) as ada:
            await say(ada, "ben", "From the old key")
        renewed = other_identity(ADA, signed_by=ADA.identity)
        async with world.person(renewed) as ada:
            result = await say(ada, "ben", "From the new key")
            assert result.state is DeliveryState.ANSWERED
            assert ben.messages[-1].fingerprint == renewed.fingerprint.hex()


async def test_new_identity_that_nobody_signed_is_refused_until_confirmed(world: World) -> None:
    async with world.person(BEN) as ben:
        async with world.person(ADA) as ada:
            await say(ada, "ben", "From the old key")
        stranger = other_identity(ADA, signed_by=None)
        del world.relay.bundles["ada"]
        async with world.person(stranger) as ada:
            result = await say(ada, "ben", "From another key")
            assert (result.state, result.code) == (DeliveryState.REFUSED, Code.PEER_KEY_CHANGED)
            assert len(ben.messages) == 1
            assert ben.refused[-1][:2] == ("ada", Code.PEER_KEY_CHANGED)
            with pytest.raises(PeerKeyChangedError, match="trust ada"):
                await say(ben, "ada", "Who are you?")
            ben.session.peers.confirm(stranger.bundle)
            assert (await say(ada, "ben", "Again")).state is DeliveryState.ANSWERED
    pins = PinsOnDisk(ben.state)
    pin = pins.pin("ada")
    assert pin is not None
    assert pin.bundle.fingerprint == stranger.fingerprint


async def test_namesakes_are_listed(world: World) -> None:
    namesake = new_key_file("ada2", "Ada", "Ärlig", now=now_ms(), random_bytes=os.urandom)
    async with world.person(ADA), world.person(namesake), world.person(BEN) as ben:
        with pytest.raises(RefusedError, match="ada, ada2") as caught:
            await say(ben, "Ärlig, Ada", "Which one?")
        assert caught.value.code is Code.AMBIGUOUS_NAME
        assert caught.value.candidates == ("ada", "ada2")


async def test_relay_cant_put_a_namesake_in_the_place_of_a_known_person(world: World) -> None:
    namesake = new_key_file("ada2", "Ada", "Ärlig", now=now_ms(), random_bytes=os.urandom)
    async with world.person(ADA), world.person(namesake), world.person(BEN) as ben:
        assert (await say(ben, "ada", "Hello")).state is DeliveryState.ANSWERED
        world.relay.substitutes["Ärlig, Ada"] = [namesake.signed_bundle]
        with pytest.raises(RefusedError, match="ambiguous_name"):
            await say(ben, "Ärlig, Ada", "Hello again")


async def test_relay_cant_answer_a_name_with_somebody_of_another_name(world: World) -> None:
    async with world.person(ADA) as ada, world.person(BEN):
        world.relay.substitutes["Nobody, Known"] = [BEN.signed_bundle]
        with pytest.raises(RefusedError, match="unknown_recipient"):
            await say(ada, "Nobody, Known", "Hello")


async def test_empty_and_endless_texts_are_not_sent(world: World) -> None:
    async with world.person(ADA) as ada, world.person(BEN):
        for text in ("", "x" * 16_001):
            with pytest.raises(ValueError, match="1 to 16000"):
                await say(ada, "ben", text)


async def test_memory_refuses_when_it_is_full_and_forgets_only_what_expired(
    world: World,
) -> None:
    async with world.person(BEN) as ben:
        seen = SeenMessages(ben.state, capacity=2)
        digest = bytes(32)
        assert seen.remember("ada", "m1", digest, expires_at=100, now=1)
        assert seen.remember("ada", "m2", digest, expires_at=200, now=1)
        assert not seen.remember("ada", "m2", digest, expires_at=200, now=1)
        with pytest.raises(EndToEndError, match="replay_window_full"):
            seen.remember("ada", "m3", digest, expires_at=300, now=99)
        assert seen.is_known("ada", "m1", digest)
        assert seen.remember("ada", "m3", digest, expires_at=300, now=100)
        again = SeenMessages(ben.state, capacity=2)
        assert [again.is_known("ada", name, digest) for name in ("m1", "m2", "m3")] == [
            False,
            True,
            True,
        ]
        with pytest.raises(EndToEndError, match="replayed"):
            again.is_known("ada", "m2", b"x" * 32)


async def test_two_programs_share_one_memory(world: World) -> None:
    async with world.person(BEN) as ben:
        one, other = SeenMessages(ben.state), SeenMessages(ben.state)
        assert one.remember("ada", "m1", bytes(32), expires_at=100, now=1)
        assert other.is_known("ada", "m1", bytes(32))
        assert not other.remember("ada", "m1", bytes(32), expires_at=100, now=1)
        with ben.state.seen_file.open("ab") as file:
            file.write(b"100 ada m2")  # a crash in the middle of a line
        assert not one.is_known("ada", "m2", bytes(32))
        assert one.remember("ada", "m3", bytes(32), expires_at=100, now=1)
        assert other.is_known("ada", "m3", bytes(32))


async def test_message_sealed_for_another_id_is_refused(world: World) -> None:
    """The relay passes Ada's message to Ben on as if it were somebody else's."""
    async with world.person(BEN) as ben, world.person(ADA) as ada:
        mallory = new_key_file("mallory", "Mal", "Lory", now=now_ms(), random_bytes=os.urandom)
        async with world.person(mallory) as thief:
            await say(ada, "ben", "Mine")
            [request] = world.relay.sent(frames.Kind.REQUEST)
            await world.relay.route(world.relay.sessions["mallory"][0], changed(request))
            await until(lambda: bool(ben.refused))
            assert ben.refused[0][:2] == ("mallory", Code.NOT_AUTHENTIC)
            assert len(ben.messages) == 1
            assert thief.messages == []


async def test_many_messages_at_once_leave_time_for_everything_else(world: World) -> None:
    async with world.person(BEN) as ben, world.person(ADA) as ada:
        await say(ada, "ben", "Hello")
        [request] = world.relay.sent(frames.Kind.REQUEST)
        messenger = ben.session.messenger
        for number in range(100):
            deliver = frames.Deliver(
                id=f"01a0d0a3-1c00-7000-8000-{number:012}",
                sender="ada",
                kind=frames.Kind.REQUEST,
                attempt=1,
                accepted_at=now_ms(),
                body=request.body,
            )
            messenger.receive(deliver)
        turns = 0
        while len(ben.refused) < 100:
            turns += 1
            await asyncio.sleep(0)
        assert turns >= 100


def test_line_of_the_memory_that_the_disk_takes_in_pieces_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = StateDirectory(tmp_path)
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:10]))
    assert SeenMessages(state).remember("ada", "m1", bytes(32), expires_at=100, now=1)
    assert SeenMessages(state).remember("ada", "m2", bytes(32), expires_at=100, now=1)
    assert SeenMessages(state).is_known("ada", "m1", bytes(32))
    assert SeenMessages(state).is_known("ada", "m2", bytes(32))


def test_message_whose_memory_the_disk_didnt_take_is_new_when_it_comes_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = SeenMessages(StateDirectory(tmp_path))
    assert seen.remember("ada", "m0", bytes(32), expires_at=100, now=1)

    def full(descriptor: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", full)
        with pytest.raises(StorageError, match="No space left"):
            seen.remember("ada", "m1", bytes(32), expires_at=100, now=1)
    assert not seen.is_known("ada", "m1", bytes(32))
