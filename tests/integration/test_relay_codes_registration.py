"""Codes for registrations over a real connection.

Each test says what the relay answers, shows that nothing changed (no row, no delivery), and that
the connection, or at least the process, goes on where it should.
"""

from __future__ import annotations

import base64
import json
import os
from typing import Any

import pytest
from asgiref.sync import sync_to_async

from protocol.bundles import SignedBundle
from protocol.encoding import b64u
from protocol.errors import Code
from protocol.frames import (
    Challenge,
    Publish,
    Published,
    Role,
)
from protocol.keys import IdentityKey
from relay import directory
from relay.models import Client
from tests.integration.processes import RunningServer, Start
from tests.integration.relay_refusals import process_lives, refused, refused_for_good, rows
from tests.relay.peer import dial, identity, join, new_id


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
async def test_proof_refused(relay_server: RunningServer, wrong: str) -> None:
    async with await dial(relay_server.relay_url) as peer:
        await peer.ask_registration(identity("ada"), **_wrong_proofs()[wrong])
        await refused_for_good(peer, Code.PROOF_REFUSED)
    assert await rows() == (0, 0)


@pytest.mark.provokes("proof_refused")
async def test_proof_refused_for_a_challenge_of_another_connection(
    relay_server: RunningServer,
) -> None:
    async with (
        await dial(relay_server.relay_url) as one,
        await dial(relay_server.relay_url) as other,
    ):
        other.challenge = await one.expect(Challenge)
        await other.ask_registration(identity("ada"))
        await refused_for_good(other, Code.PROOF_REFUSED)
    assert await rows() == (0, 0)


@pytest.mark.provokes("proof_refused")
async def test_proof_refused_for_a_service_that_is_none(relay_server: RunningServer) -> None:
    async with await dial(relay_server.relay_url) as peer:
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
async def test_id_taken(relay_server: RunningServer, claimed: str) -> None:
    url = relay_server.relay_url
    async with await join(url, identity("ada")) as owner:
        async with await dial(url) as thief:
            await thief.ask_registration(identity(claimed))
            await refused_for_good(thief, Code.ID_TAKEN)
        await owner.post("ada")
        assert (await owner.take()).sender == "ada"
    assert await rows() == (1, 0)


@pytest.mark.provokes("id_taken")
async def test_id_taken_for_a_successor_whom_the_old_key_did_not_sign(
    relay_server: RunningServer,
) -> None:
    url = relay_server.relay_url
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
async def test_weak_key(relay_server: RunningServer) -> None:
    ada = identity("ada")
    raw = ada.bundle.signed.bundle
    weak = _with_identity_key(raw, bytes(32))
    async with await dial(relay_server.relay_url) as peer:
        await peer.ask_registration(ada, bundle=SignedBundle(weak, ada.bundle.signed.signature))
        await refused_for_good(peer, Code.WEAK_KEY)
    assert await rows() == (0, 0)


def _with_identity_key(bundle: str, key: bytes) -> str:
    members = json.loads(base64.urlsafe_b64decode(bundle + "=="))
    members["identity_key"] = b64u(key)
    return b64u(json.dumps(members).encode())


@pytest.mark.provokes("bad_bundle")
async def test_bad_bundle(relay_server: RunningServer) -> None:
    ada = identity("ada")
    wrong = SignedBundle(ada.bundle.signed.bundle, b64u(os.urandom(64)))
    another = identity("eve").bundle.signed
    for bundle in (wrong, another, SignedBundle(b64u(b"{}"), wrong.signature)):
        async with await dial(relay_server.relay_url) as peer:
            await peer.ask_registration(ada, bundle=bundle)
            await refused_for_good(peer, Code.BAD_BUNDLE)
    assert await rows() == (0, 0)


@pytest.mark.provokes("bad_bundle")
async def test_bad_bundle_of_an_old_generation(relay_server: RunningServer) -> None:
    ada = identity("ada")
    async with await join(relay_server.relay_url, ada.next(generation=5)) as peer:
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
    async with await dial(relay_server.relay_url) as old:
        await old.ask_registration(ada)
        await refused_for_good(old, Code.BAD_BUNDLE)


@pytest.mark.provokes("revoked")
async def test_revoked(relay_server: RunningServer) -> None:
    ada = identity("ada")
    async with await join(relay_server.relay_url, ada) as peer:
        row = await Client.objects.aget(id_key="ada")
        await sync_to_async(directory.set_blocked)([row], blocked=True)
        await refused_for_good(peer, Code.REVOKED)
    async with await dial(relay_server.relay_url) as peer:
        await peer.ask_registration(ada)
        await refused_for_good(peer, Code.REVOKED)
    await process_lives(relay_server)
    await sync_to_async(directory.set_blocked)([row], blocked=False)
    async with await join(relay_server.relay_url, ada) as peer:
        await peer.still_works()


async def test_a_released_id_is_the_next_keys(relay_server: RunningServer) -> None:
    ada, heir = identity("ada"), identity("ada")
    async with await join(relay_server.relay_url, identity("ben")) as ben:
        async with await join(relay_server.relay_url, ada) as peer:
            await sync_to_async(directory.release)(await Client.objects.aget(id_key="ada"))
            await refused_for_good(peer, Code.REVOKED)
        sent = await ben.post("ada")
        await refused(ben, Code.UNKNOWN_RECIPIENT, sent)
        async with await join(relay_server.relay_url, heir) as peer:
            assert peer.welcome is not None
            assert peer.welcome.waiting == 0
