"""The service client against a relay: answers before acknowledging, bounded, drained on stop."""

from __future__ import annotations

import asyncio
import os

import pytest

from clients import service as service_module
from clients.client import Client
from clients.errors import RefusedError, RegistrationRefusedError
from clients.outgoing import Answered, Verdict
from clients.retry import RetryPolicy
from clients.service import IncomingRequest, ServiceClient
from protocol import frames
from protocol.bundles import Bundle
from protocol.client_exchange import Stage
from protocol.errors import Code, Retry
from protocol.keyfile import KeyFile, new_key_file, rotate_prekeys
from tests.clients.fake_relay import FakeRelay, now_ms, until

POLICY = RetryPolicy(tries=5, try_ms=300)


def key_file(client_id: str) -> KeyFile:
    return new_key_file(client_id, "First", "Last", now=now_ms(), random_bytes=os.urandom)


class Plain:
    """A request whose body is what it says, for tests that are not about sealing."""

    kind = frames.Kind.REQUEST

    def __init__(self, message_id: str, text: bytes = b"ping", to: str = "bank") -> None:
        self.id = message_id
        self.to = to
        self.text = text
        self.answers: list[bytes] = []
        self.stages: list[Stage] = []

    def wrap(self, recipient: Bundle) -> bytes:
        return self.text

    def ttl_ms(self, now: int) -> int:
        return 60_000

    def judge(self, body: bytes) -> Verdict:
        self.answers.append(body)
        return Answered()

    def progressed(self, stage: Stage, code: Code | None) -> None:
        self.stages.append(stage)


async def echo(request: IncomingRequest) -> bytes | None:
    return b"re:" + request.body


async def test_request_is_answered_and_then_acknowledged() -> None:
    async with FakeRelay() as relay, ServiceClient(key_file("bank"), relay.url, echo) as service:
        await service.wait_ready(5)
        async with Client(key_file("ada"), relay.url) as ada:
            outgoing = Plain(ada.new_id())
            ended = await ada.send(outgoing, POLICY)
            assert ended.stage is Stage.ANSWERED
            assert outgoing.answers == [b"re:ping"]
            await until(lambda: not relay.sessions["bank"][0].unacked)
        by_bank = [
            type(frame)
            for frame in relay.received
            if isinstance(frame, frames.Ack)
            or (isinstance(frame, frames.Send) and frame.kind is frames.Kind.REPLY)
        ]
        assert by_bank[:2] == [frames.Send, frames.Ack]
        assert service.counters.answered == 1


async def test_handler_that_says_nothing_leaves_the_request_unacknowledged() -> None:
    calls: list[int] = []

    async def second_time(request: IncomingRequest) -> bytes | None:
        calls.append(request.attempt)
        return b"now" if len(calls) > 1 else None

    async with FakeRelay() as relay:
        async with ServiceClient(key_file("bank"), relay.url, second_time) as service:
            await service.wait_ready(5)
            async with Client(key_file("ada"), relay.url) as ada:
                ended = await ada.send(Plain(ada.new_id()), POLICY)
        assert ended.stage is Stage.ANSWERED
        requests = relay.sent(frames.Kind.REQUEST)
        assert len(requests) == 2
        assert len({frame.id for frame in requests}) == 1
        assert service.counters.silent == 1


async def test_what_has_no_answer_is_asked_for_again_without_waiting_for_who_sent_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Over a new connection, each time after a longer while; others are served meanwhile."""
    monkeypatch.setattr(service_module, "SILENCE_SECONDS", 0.2)
    attempts: list[int] = []

    async def third_time(request: IncomingRequest) -> bytes | None:
        if request.body == b"other":
            return b"at once"
        attempts.append(request.attempt)
        return b"at last" if len(attempts) > 2 else None

    async with FakeRelay() as relay:
        async with ServiceClient(key_file("bank"), relay.url, third_time) as service:
            await service.wait_ready(5)
            async with Client(key_file("ada"), relay.url) as ada:
                sending = ada.send(Plain(ada.new_id()), RetryPolicy(tries=1, try_ms=20_000))
                assert (
                    await ada.send(Plain(ada.new_id(), b"other"), POLICY)
                ).stage is Stage.ANSWERED
                assert (await sending).stage is Stage.ANSWERED
        assert attempts == [1, 2, 3]
        assert len(relay.sent(frames.Kind.REQUEST)) == 2
        assert service.counters.silent == 2


async def test_handler_that_raises_is_counted_and_the_service_lives_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def poisoned(request: IncomingRequest) -> bytes | None:
        if request.body == b"poison":
            raise ValueError("bad luck")
        return b"fine"

    async with FakeRelay() as relay:
        async with ServiceClient(key_file("bank"), relay.url, poisoned) as service:
            await service.wait_ready(5)
            async with Client(key_file("ada"), relay.url) as ada:
                poison = ada.send(Plain(ada.new_id(), b"poison"), RetryPolicy(tries=1, try_ms=100))
                good = await ada.send(Plain(ada.new_id(), b"good"), POLICY)
                assert good.stage is Stage.ANSWERED
                assert (await poison).stage is Stage.LAPSED
        assert service.counters.failed == 1
        assert "bad luck" in caplog.text


async def test_no_more_handlers_run_at_once_than_allowed() -> None:
    running = 0
    most = 0

    async def slow(request: IncomingRequest) -> bytes | None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.01)
        running -= 1
        return b"done"

    async with (
        FakeRelay() as relay,
        ServiceClient(key_file("bank"), relay.url, slow, concurrency=3) as service,
        Client(key_file("ada"), relay.url) as ada,
    ):
        await service.wait_ready(5)
        sends = [ada.send(Plain(ada.new_id()), RetryPolicy(1, 5_000)) for _ in range(12)]
        ends = await asyncio.gather(*sends)
    assert {ended.stage for ended in ends} == {Stage.ANSWERED}
    assert most == 3


async def test_stop_finishes_what_is_in_hand() -> None:
    begun = asyncio.Event()

    async def slow(request: IncomingRequest) -> bytes | None:
        begun.set()
        await asyncio.sleep(0.1)
        return b"done"

    async with FakeRelay() as relay:
        service = ServiceClient(key_file("bank"), relay.url, slow)
        service.start()
        await service.wait_ready(5)
        async with Client(key_file("ada"), relay.url) as ada:
            sending = ada.send(Plain(ada.new_id()), POLICY)
            await begun.wait()
            await service.stop()
            assert (await sending).stage is Stage.ANSWERED
        assert len(relay.sent(frames.Kind.REQUEST)) == 1


async def test_service_and_client_come_back_after_the_relay_did() -> None:
    relay = FakeRelay()
    await relay.start()
    async with ServiceClient(key_file("bank"), relay.url, echo) as service:
        await service.wait_ready(5)
        async with Client(key_file("ada"), relay.url) as ada:
            await ada.wait_ready(5)
            await relay.stop()
            sending = ada.send(Plain(ada.new_id()), POLICY)
            await relay.start()
            assert (await sending).stage is Stage.ANSWERED
    await relay.stop()


async def test_publish_and_register_again_with_the_new_bundle() -> None:
    async with FakeRelay() as relay:
        old = key_file("bank")
        async with ServiceClient(old, relay.url, echo) as service:
            await service.wait_ready(5)
            new = rotate_prekeys(old, now=now_ms(), random_bytes=os.urandom, period_ms=86_400_000)
            assert await service.publish(new) == new.bundle.generation
            assert relay.bundles["bank"] == new.signed_bundle
            await relay.drop("bank")
            await until(lambda: relay.registrations == 2)
            [bundle] = await service.lookup("bank")
            assert bundle.generation == new.bundle.generation > old.bundle.generation


async def test_lookup_of_nobody_finds_nothing() -> None:
    async with FakeRelay() as relay, ServiceClient(key_file("bank"), relay.url, echo) as service:
        assert await service.lookup("nobody") == []


async def test_refused_registration_ends_the_service() -> None:
    async with FakeRelay() as relay:
        relay.refuse_registration = frames.Error(Code.ID_TAKEN, Retry.NEVER, detail="not yours")
        async with ServiceClient(key_file("bank"), relay.url, echo) as service:
            with pytest.raises(RegistrationRefusedError) as caught:
                await service.wait_closed()
            with pytest.raises(RegistrationRefusedError):
                await service.lookup("ada")
    assert caught.value.code is Code.ID_TAKEN


async def test_busy_relay_is_tried_again() -> None:
    async with FakeRelay() as relay:
        relay.refuse_registration = frames.Error(Code.RATE_LIMITED, Retry.SAME, retry_after_ms=20)
        async with ServiceClient(key_file("bank"), relay.url, echo) as service:
            await until(lambda: len(relay.received) >= 2)
            relay.refuse_registration = None
            await service.wait_ready(5)


async def test_unknown_recipient_ends_the_sending() -> None:
    async with FakeRelay() as relay, Client(key_file("ada"), relay.url) as ada:
        ended = await ada.send(Plain(ada.new_id(), to="nobody"), POLICY)
        assert (ended.stage, ended.code) == (Stage.REFUSED, Code.UNKNOWN_RECIPIENT)
        with pytest.raises(RefusedError, match="unknown_recipient"):
            await ada.directory.resolve("nobody")
