"""Every code of the relay over a real connection: what provokes it, and what lives on.

Each test says what the relay answers, shows that nothing changed (no row, no delivery), and that
the connection, or at least the process, goes on where it should.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
from typing import Any

import pytest
from asgiref.sync import sync_to_async

from protocol import limits
from protocol.encoding import b64u
from protocol.errors import RETRY, Code
from protocol.frames import (
    Ack,
    Challenge,
    Deliver,
    Drain,
    Error,
    Kind,
    Lookup,
    Publish,
    Published,
    Role,
    State,
)
from protocol.keys import IdentityKey, SignedBundle
from relay import directory
from relay.models import Client, Mail
from tests.integration.processes import RunningServer, Start
from tests.relay.peer import Peer, dial, identity, join, new_id

CLOSED = 4000


async def rows() -> tuple[int, int]:
    """Return how many clients are known and how many messages wait."""

    def count() -> tuple[int, int]:
        return Client.objects.count(), Mail.objects.count()

    return await sync_to_async(count)()


async def refused_for_good(peer: Peer, code: Code) -> Error:
    """Check that the relay says this and closes the connection with it."""
    error = await peer.refusal()
    assert (error.code, error.retry) == (code, RETRY[code])
    assert await peer.wire.closed() == (CLOSED, code.value)
    return error


async def refused(peer: Peer, code: Code, answers: str | None) -> Error:
    """Check that the relay refuses this one frame, and the connection goes on."""
    error = await peer.refusal()
    assert (error.code, error.id, error.retry) == (code, answers, RETRY[code])
    await peer.still_works()
    return error


async def process_lives(server: RunningServer) -> None:
    """Check that somebody else is still served."""
    async with await join(server.relay_url, identity(f"witness-{os.urandom(4).hex()}")) as peer:
        await peer.still_works()
    assert server.is_alive


@pytest.fixture
def server(relay_server: RunningServer) -> RunningServer:
    return relay_server


# --- The frame ------------------------------------------------------------------------------


@pytest.mark.provokes("bad_frame")
@pytest.mark.parametrize(
    "message",
    [
        "",
        "{}",
        "[]",
        "null",
        '{"type":"send"',
        '{"type":"shout"}',
        '{"type":"welcome"}',
        '{"type":"ack","id":"7"}',
        '{"type":"ack","id":7}',
        '{"type":"lookup","id":"01890a5d-ac96-774b-bcce-b302099a8057","query":"x","more":1}',
        "[" * 60_000,
        '{"type":"lookup","id":"01890a5d-ac96-774b-bcce-b302099a8057","query":""}',
        b"\x00\x01",
    ],
    ids=range(13),
)
async def test_bad_frame(server: RunningServer, message: str | bytes) -> None:
    async with await join(server.relay_url, identity("ada")) as ada:
        before = await rows()
        await ada.wire.send(message)
        await refused(ada, Code.BAD_FRAME, None)
        assert await rows() == before


@pytest.mark.provokes("bad_frame")
async def test_bad_frame_too_often(server: RunningServer) -> None:
    async with await join(server.relay_url, identity("ada")) as ada:
        for _ in range(9):
            await ada.wire.send("nonsense")
            await refused(ada, Code.BAD_FRAME, None)
        await ada.wire.send("nonsense")
        await refused_for_good(ada, Code.BAD_FRAME)
    await process_lives(server)


@pytest.mark.provokes("bad_frame")
@pytest.mark.parametrize("change", [{"re": new_id()}, {"kind": Kind.REPLY}])
async def test_bad_frame_where_a_request_answers_or_a_reply_does_not(
    server: RunningServer, change: dict[str, Any]
) -> None:
    async with await join(server.relay_url, identity("ada")) as ada:
        await ada.post("ada", **{"kind": Kind.REQUEST, **change})
        await refused(ada, Code.BAD_FRAME, None)


@pytest.mark.provokes("frame_too_large")
@pytest.mark.parametrize("size", [limits.FRAME_BYTES_MAX + 1, 260_000])
async def test_frame_too_large(server: RunningServer, size: int) -> None:
    async with await join(server.relay_url, identity("ada")) as ada:
        before = await rows()
        await ada.wire.send("x" * size)
        await refused_for_good(ada, Code.FRAME_TOO_LARGE)
        assert await rows() == before
    await process_lives(server)


# --- Coming in ------------------------------------------------------------------------------


@pytest.mark.provokes("unsupported_version")
@pytest.mark.parametrize("subprotocol", [None, "tellerwire.v2"])
async def test_unsupported_version_by_subprotocol(
    server: RunningServer, subprotocol: str | None
) -> None:
    async with await dial(server.relay_url, subprotocol=subprotocol) as peer:
        await refused_for_good(peer, Code.UNSUPPORTED_VERSION)
    await process_lives(server)


@pytest.mark.provokes("unsupported_version")
async def test_unsupported_version_by_registration(server: RunningServer) -> None:
    async with await dial(server.relay_url) as peer:
        await peer.ask_registration(identity("ada"), version=2)
        await refused_for_good(peer, Code.UNSUPPORTED_VERSION)
    assert await rows() == (0, 0)


@pytest.mark.provokes("origin_refused")
@pytest.mark.parametrize(
    "origin",
    ["https://evil.example", "null", "http://bank.example", "https://bank.example.evil.com"],
)
async def test_origin_refused(server: RunningServer, origin: str) -> None:
    async with await dial(server.relay_url, origin=origin) as peer:
        await refused_for_good(peer, Code.ORIGIN_REFUSED)
    await process_lives(server)


async def test_an_allowed_origin_comes_in(server: RunningServer) -> None:
    async with await dial(server.relay_url, origin="https://bank.example") as peer:
        await peer.register(identity("ada"))
        await peer.still_works()


@pytest.mark.provokes("registration_required")
async def test_registration_required(server: RunningServer) -> None:
    async with await dial(server.relay_url) as peer:
        await peer.expect(Challenge)
        await peer.post("ada")
        assert (await peer.refusal()).code is Code.REGISTRATION_REQUIRED
        await peer.send_frame(Ack(id=new_id()))
        assert (await peer.refusal()).code is Code.REGISTRATION_REQUIRED
        assert await rows() == (0, 0)
        peer.challenge = None
    async with await dial(server.relay_url) as peer:
        await peer.send_frame(Lookup(id=new_id(), query="ada"))
        await peer.refusal()
        await peer.register(identity("ada"))
        await peer.still_works()


@pytest.mark.provokes("registration_timeout")
async def test_registration_timeout(start: Start) -> None:
    server = start(relay={"REGISTRATION_SECONDS": 0.5})
    async with await dial(server.relay_url) as peer:
        await refused_for_good(peer, Code.REGISTRATION_TIMEOUT)
    async with await join(server.relay_url, identity("ada")) as ada:
        await asyncio.sleep(1)
        await ada.still_works()


def _wrong_proofs() -> dict[str, dict[str, Any]]:
    return {
        "another relay's name": {"relay_name": "relay.evil"},
        "another signature": {"proof": b64u(os.urandom(64))},
        "another nonce": {"nonce": b64u(os.urandom(32))},
        "another role": {"role": Role.SERVICE},
        "no base64url": {"proof": "=" * 86},
    }


@pytest.mark.provokes("proof_refused")
@pytest.mark.parametrize("wrong", _wrong_proofs())
async def test_proof_refused(server: RunningServer, wrong: str) -> None:
    async with await dial(server.relay_url) as peer:
        await peer.ask_registration(identity("ada"), **_wrong_proofs()[wrong])
        await refused_for_good(peer, Code.PROOF_REFUSED)
    assert await rows() == (0, 0)


@pytest.mark.provokes("proof_refused")
async def test_proof_refused_for_a_challenge_of_another_connection(server: RunningServer) -> None:
    async with await dial(server.relay_url) as one, await dial(server.relay_url) as other:
        other.challenge = await one.expect(Challenge)
        await other.ask_registration(identity("ada"))
        await refused_for_good(other, Code.PROOF_REFUSED)
    assert await rows() == (0, 0)


@pytest.mark.provokes("proof_refused")
async def test_proof_refused_for_a_service_that_is_none(server: RunningServer) -> None:
    async with await dial(server.relay_url) as peer:
        await peer.ask_registration(identity("ada"), Role.SERVICE)
        await refused_for_good(peer, Code.PROOF_REFUSED)
    assert await rows() == (0, 0)


@pytest.mark.provokes("proof_refused")
async def test_proof_refused_where_registration_is_closed(start: Start) -> None:
    server = start(relay={"REGISTRATION": "closed"})
    ada = identity("ada")
    async with await dial(server.relay_url) as peer:
        await peer.ask_registration(ada)
        await refused_for_good(peer, Code.PROOF_REFUSED)
    assert await rows() == (0, 0)
    await sync_to_async(directory.enrol)(ada.bundle)
    async with await join(server.relay_url, ada) as peer:
        await peer.still_works()


@pytest.mark.provokes("id_taken")
@pytest.mark.parametrize("claimed", ["ada", "ADA"])
async def test_id_taken(server: RunningServer, claimed: str) -> None:
    url = server.relay_url
    async with await join(url, identity("ada")) as owner:
        async with await dial(url) as thief:
            await thief.ask_registration(identity(claimed))
            await refused_for_good(thief, Code.ID_TAKEN)
        await owner.post("ada")
        assert (await owner.take()).sender == "ada"
    assert await rows() == (1, 0)


@pytest.mark.provokes("id_taken")
async def test_id_taken_for_a_successor_whom_the_old_key_did_not_sign(
    server: RunningServer,
) -> None:
    url = server.relay_url
    ada = identity("ada")
    async with await join(url, ada):
        pass
    stranger = ada.next(key=IdentityKey(os.urandom(32)), signed_by_old=False)
    async with await dial(url) as thief:
        await thief.ask_registration(stranger)
        await refused_for_good(thief, Code.ID_TAKEN)
    successor = ada.next(key=IdentityKey(os.urandom(32)))
    async with await join(url, successor) as peer:
        await peer.still_works()
    async with await dial(url) as old:
        await old.ask_registration(ada)
        await refused_for_good(old, Code.ID_TAKEN)


@pytest.mark.provokes("id_taken")
async def test_id_taken_where_the_fingerprint_is_pinned(start: Start) -> None:
    bank = identity("bank")
    squatter = identity("bank")
    async with await join(start().relay_url, squatter):
        pass
    pins = {"bank": bank.bundle.fingerprint.hex()}
    server = start(relay={"PINNED_FINGERPRINTS": pins})
    for claim in (squatter, identity("BANK")):
        async with await dial(server.relay_url) as peer:
            await peer.ask_registration(claim)
            await refused_for_good(peer, Code.ID_TAKEN)
    async with await join(server.relay_url, bank, Role.SERVICE) as peer:
        await peer.still_works()
    successor = bank.next(key=IdentityKey(os.urandom(32)))
    async with await join(server.relay_url, successor, Role.SERVICE) as peer:
        await peer.still_works()
    async with await dial(server.relay_url) as peer:
        await peer.ask_registration(bank)
        await refused_for_good(peer, Code.ID_TAKEN)


@pytest.mark.provokes("weak_key")
async def test_weak_key(server: RunningServer) -> None:
    ada = identity("ada")
    raw = ada.bundle.signed.bundle
    weak = _with_identity_key(raw, bytes(32))
    async with await dial(server.relay_url) as peer:
        await peer.ask_registration(ada, bundle=SignedBundle(weak, ada.bundle.signed.signature))
        await refused_for_good(peer, Code.WEAK_KEY)
    assert await rows() == (0, 0)


def _with_identity_key(bundle: str, key: bytes) -> str:
    members = json.loads(base64.urlsafe_b64decode(bundle + "=="))
    members["identity_key"] = b64u(key)
    return b64u(json.dumps(members).encode())


@pytest.mark.provokes("bad_bundle")
async def test_bad_bundle(server: RunningServer) -> None:
    ada = identity("ada")
    wrong = SignedBundle(ada.bundle.signed.bundle, b64u(os.urandom(64)))
    another = identity("eve").bundle.signed
    for bundle in (wrong, another, SignedBundle(b64u(b"{}"), wrong.signature)):
        async with await dial(server.relay_url) as peer:
            await peer.ask_registration(ada, bundle=bundle)
            await refused_for_good(peer, Code.BAD_BUNDLE)
    assert await rows() == (0, 0)


@pytest.mark.provokes("bad_bundle")
async def test_bad_bundle_of_an_old_generation(server: RunningServer) -> None:
    ada = identity("ada")
    async with await join(server.relay_url, ada.next(generation=5)) as peer:
        request = new_id()
        await peer.send_frame(Publish(id=request, bundle=ada.next(generation=4).bundle.signed))
        await refused(peer, Code.BAD_BUNDLE, request)
        request = new_id()
        await peer.send_frame(Publish(id=request, bundle=identity("eve").bundle.signed))
        await refused(peer, Code.BAD_BUNDLE, request)
        newer = ada.next(generation=6).bundle.signed
        for _ in range(2):
            request = new_id()
            await peer.send_frame(Publish(id=request, bundle=newer))
            published = await peer.expect(Published)
            assert (published.id, published.generation) == (request, 6)
        assert (await peer.lookup("ada")).bundles == [newer]
    async with await dial(server.relay_url) as old:
        await old.ask_registration(ada)
        await refused_for_good(old, Code.BAD_BUNDLE)


@pytest.mark.provokes("revoked")
async def test_revoked(server: RunningServer) -> None:
    ada = identity("ada")
    async with await join(server.relay_url, ada) as peer:
        row = await Client.objects.aget(id_key="ada")
        await sync_to_async(directory.set_blocked)([row], blocked=True)
        await refused_for_good(peer, Code.REVOKED)
    async with await dial(server.relay_url) as peer:
        await peer.ask_registration(ada)
        await refused_for_good(peer, Code.REVOKED)
    await process_lives(server)
    await sync_to_async(directory.set_blocked)([row], blocked=False)
    async with await join(server.relay_url, ada) as peer:
        await peer.still_works()


async def test_a_released_id_is_the_next_keys(server: RunningServer) -> None:
    ada, heir = identity("ada"), identity("ada")
    async with await join(server.relay_url, identity("ben")) as ben:
        async with await join(server.relay_url, ada) as peer:
            await sync_to_async(directory.release)(await Client.objects.aget(id_key="ada"))
            await refused_for_good(peer, Code.REVOKED)
        sent = await ben.post("ada")
        await refused(ben, Code.UNKNOWN_RECIPIENT, sent)
        async with await join(server.relay_url, heir) as peer:
            assert peer.welcome is not None
            assert peer.welcome.waiting == 0


# --- Sending --------------------------------------------------------------------------------


@pytest.mark.provokes("unknown_recipient")
async def test_unknown_recipient(server: RunningServer) -> None:
    async with await join(server.relay_url, identity("ada")) as ada:
        for ttl_ms in (0, 60_000):
            sent = await ada.post("nobody", ttl_ms=ttl_ms)
            await refused(ada, Code.UNKNOWN_RECIPIENT, sent)
        request = new_id()
        for query in ("nobody", "Nobody, Known"):
            await ada.send_frame(Lookup(id=request, query=query))
            await refused(ada, Code.UNKNOWN_RECIPIENT, request)
    assert await rows() == (1, 0)


@pytest.mark.provokes("ambiguous_name")
async def test_ambiguous_name(server: RunningServer) -> None:
    url = server.relay_url
    async with (
        await join(url, identity("kuno", "Kuno", "Küppers")),
        await join(url, identity("other", "KUNO", "Ku\u0308ppers".replace("u\u0308", "ü"))),
        await join(url, identity("ada", "Ada", "Ärlig")) as ada,
    ):
        request = new_id()
        await ada.send_frame(Lookup(id=request, query="kuno,  KÜPPERS"))
        error = await refused(ada, Code.AMBIGUOUS_NAME, request)
        assert error.candidates == ["kuno", "other"]
        for query in ("Ärlig, Ada", "Ada, Ärlig", "a\u0308rlig,ada"):
            found = await ada.lookup(query)
            assert found.bundles == [ada.identity.bundle.signed] if ada.identity else None


@pytest.mark.provokes("recipient_absent")
async def test_recipient_absent(server: RunningServer) -> None:
    async with await join(server.relay_url, identity("ben")):
        pass
    async with await join(server.relay_url, identity("ada")) as ada:
        sent = await ada.post("ben", ttl_ms=0)
        await refused(ada, Code.RECIPIENT_ABSENT, sent)
    assert await rows() == (2, 0)


@pytest.mark.provokes("peer_gone")
async def test_peer_gone(server: RunningServer) -> None:
    async with await join(server.relay_url, identity("ada")) as ada:
        async with await join(server.relay_url, identity("ben")) as ben:
            sent = await ada.post("ben", ttl_ms=0)
            await ben.expect(Deliver)
        status = await ada.status()
        assert (status.id, status.state, status.code) == (sent, State.FAILED, Code.PEER_GONE)
        await ada.still_works()
    assert await rows() == (2, 0)


@pytest.mark.provokes("expired")
async def test_expired(server: RunningServer) -> None:
    async with await join(server.relay_url, identity("ben")):
        pass
    ada = identity("ada")
    async with await join(server.relay_url, ada) as peer:
        sent = await peer.post("ben", ttl_ms=400)
        assert (await peer.status()).state is State.QUEUED
        status = await peer.status()
        assert (status.id, status.state, status.code) == (sent, State.EXPIRED, Code.EXPIRED)
    assert await rows() == (2, 0)
    # It was not acknowledged, so it is told again; then it is not.
    async with await join(server.relay_url, ada) as peer:
        assert (await peer.status()).id == sent
        await peer.send_frame(Ack(id=sent))
        await peer.still_works()
    async with await join(server.relay_url, ada) as peer:
        assert await peer.silent()


@pytest.mark.provokes("rate_limited")
async def test_rate_limited(start: Start) -> None:
    server = start(relay={"SENDS_PER_SECOND": 1, "SENDS_BURST": 5})
    async with await join(server.relay_url, identity("ada")) as ada:
        sent = [await ada.post("ada") for _ in range(7)]
        first, second = await ada.refusal(), await ada.refusal()
        assert {first.code, second.code} == {Code.RATE_LIMITED}
        assert [first.id, second.id] == sent[5:]
        assert first.retry_after_ms is not None
        assert 0 < first.retry_after_ms <= 1_000
        assert [(await ada.take()).id for _ in range(5)] == sent[:5]
        await asyncio.sleep(1.1)
        await ada.still_works()


@pytest.mark.provokes("rate_limited")
async def test_rate_limited_registrations(start: Start) -> None:
    server = start(relay={"REGISTRATIONS_PER_SECOND": 1})
    async with await join(server.relay_url, identity("ada")) as ada:
        async with await dial(server.relay_url) as peer:
            error = await refused_for_good(peer, Code.RATE_LIMITED)
            assert error.retry_after_ms is not None
            assert 0 < error.retry_after_ms <= 6_000
        await ada.still_works()
    assert await rows() == (1, 0)


@pytest.mark.provokes("overloaded")
async def test_overloaded_by_a_full_window(start: Start) -> None:
    server = start(relay={"IN_FLIGHT_MAX": 2})
    url = server.relay_url
    async with await join(url, identity("ada")) as ada, await join(url, identity("ben")) as ben:
        for _ in range(2):
            await ada.post("ben")
        sent = await ada.post("ben", ttl_ms=0)
        await refused(ada, Code.OVERLOADED, sent)
        later = await ada.post("ben")
        assert (await ada.status()).state is State.QUEUED
        taken = [(await ben.take()).id for _ in range(3)]
        assert taken[2] == later
        assert sent not in taken


@pytest.mark.provokes("overloaded")
@pytest.mark.parametrize("bounds", [{"CONNECTIONS_MAX": 1}, {"CONNECTIONS_PER_CLIENT_MAX": 1}])
async def test_overloaded_by_connections(start: Start, bounds: dict[str, int]) -> None:
    server = start(relay=bounds)
    ada = identity("ada")
    async with await join(server.relay_url, ada) as peer:
        async with await dial(server.relay_url) as second:
            if "CONNECTIONS_MAX" not in bounds:
                await second.ask_registration(ada)
            await refused_for_good(second, Code.OVERLOADED)
        await peer.still_works()


@pytest.mark.provokes("mailbox_full")
@pytest.mark.parametrize("bounds", [{"MAILBOX_MESSAGES_MAX": 2}, {"MAILBOX_BYTES_MAX": 120}])
async def test_mailbox_full(start: Start, bounds: dict[str, int]) -> None:
    server = start(relay=bounds)
    ben = identity("ben")
    async with await join(server.relay_url, ben):
        pass
    async with await join(server.relay_url, identity("ada")) as ada:
        for _ in range(2):
            await ada.post("ben")
            assert (await ada.status()).state is State.QUEUED
        sent = await ada.post("ben")
        await refused(ada, Code.MAILBOX_FULL, sent)
        assert await rows() == (2, 2)
        async with await join(server.relay_url, ben) as peer:
            assert sent not in [(await peer.take()).id for _ in range(2)]
            for _ in range(2):
                assert (await ada.status()).state is State.DELIVERED
        await ada.post("ben")
        assert (await ada.status()).state is State.QUEUED


@pytest.mark.provokes("slow_consumer")
async def test_slow_consumer_that_does_not_acknowledge(start: Start) -> None:
    server = start(relay={"ACK_SECONDS": 0.5})
    url = server.relay_url
    async with await join(url, identity("ada")) as ada, await join(url, identity("ben")) as ben:
        await ada.post("ben")
        delivered = await ben.expect(Deliver)
        await refused_for_good(ben, Code.SLOW_CONSUMER)
        assert (await ada.status()).state is State.QUEUED
        await ada.still_works()
        assert ben.identity is not None
        async with await join(url, ben.identity) as again:
            redelivered = await again.take()
            assert (redelivered.id, redelivered.attempt) == (delivered.id, 2)


@pytest.mark.provokes("draining")
async def test_draining(start: Start) -> None:
    server = start(relay={"DRAIN_SECONDS": 2})
    url = server.relay_url
    async with await join(url, identity("ada")) as ada, await join(url, identity("ben")) as ben:
        held = await ada.post("ben")
        await ben.expect(Deliver)
        server.terminate()
        assert (await ada.expect(Drain)).reconnect_after_ms <= 5_000
        sent = await ada.post("ben")
        error = await ada.refusal()
        assert (error.code, error.id, error.retry) == (Code.DRAINING, sent, RETRY[Code.DRAINING])
        async with await dial(url) as late:
            await refused_for_good(late, Code.DRAINING)
        assert (await ada.status()).state is State.QUEUED
        assert await ben.wire.closed() == (CLOSED, Code.DRAINING.value)
    assert server.wait() in (0, -signal.SIGTERM)
    stored = [str(row.message_id) async for row in Mail.objects.all()]
    assert stored == [held]
