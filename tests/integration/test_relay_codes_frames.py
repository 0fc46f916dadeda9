"""Codes for frames, and for connections that begin wrongly, over a real connection.

Each test says what the relay answers, shows that nothing changed (no row, no delivery), and that
the connection, or at least the process, goes on where it should.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from protocol import limits
from protocol.errors import Code
from protocol.frames import (
    Ack,
    Challenge,
    Kind,
    Lookup,
)
from tests.integration.processes import RunningServer, Start
from tests.integration.relay_refusals import process_lives, refused, refused_for_good, rows
from tests.relay.peer import dial, identity, join, new_id


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
async def test_bad_frame(relay_server: RunningServer, message: str | bytes) -> None:
    async with await join(relay_server.relay_url, identity("ada")) as ada:
        before = await rows()
        await ada.wire.send(message)
        await refused(ada, Code.BAD_FRAME, None)
        assert await rows() == before


@pytest.mark.provokes("bad_frame")
async def test_bad_frame_too_often(relay_server: RunningServer) -> None:
    async with await join(relay_server.relay_url, identity("ada")) as ada:
        for _ in range(9):
            await ada.wire.send("nonsense")
            await refused(ada, Code.BAD_FRAME, None)
        await ada.wire.send("nonsense")
        await refused_for_good(ada, Code.BAD_FRAME)
    await process_lives(relay_server)


@pytest.mark.provokes("bad_frame")
@pytest.mark.parametrize("change", [{"re": new_id()}, {"kind": Kind.REPLY}])
async def test_bad_frame_where_a_request_answers_or_a_reply_does_not(
    relay_server: RunningServer, change: dict[str, Any]
) -> None:
    async with await join(relay_server.relay_url, identity("ada")) as ada:
        await ada.post("ada", **{"kind": Kind.REQUEST, **change})
        await refused(ada, Code.BAD_FRAME, None)


@pytest.mark.provokes("frame_too_large")
@pytest.mark.parametrize("size", [limits.FRAME_BYTES_MAX + 1, 260_000])
async def test_frame_too_large(relay_server: RunningServer, size: int) -> None:
    async with await join(relay_server.relay_url, identity("ada")) as ada:
        before = await rows()
        await ada.wire.send("x" * size)
        await refused_for_good(ada, Code.FRAME_TOO_LARGE)
        assert await rows() == before
    await process_lives(relay_server)


@pytest.mark.provokes("unsupported_version")
@pytest.mark.parametrize("subprotocol", [None, "tellerwire.v2"])
async def test_unsupported_version_by_subprotocol(
    relay_server: RunningServer, subprotocol: str | None
) -> None:
    async with await dial(relay_server.relay_url, subprotocol=subprotocol) as peer:
        await refused_for_good(peer, Code.UNSUPPORTED_VERSION)
    await process_lives(relay_server)


@pytest.mark.provokes("unsupported_version")
async def test_unsupported_version_by_registration(relay_server: RunningServer) -> None:
    async with await dial(relay_server.relay_url) as peer:
        await peer.ask_registration(identity("ada"), version=2)
        await refused_for_good(peer, Code.UNSUPPORTED_VERSION)
    assert await rows() == (0, 0)


@pytest.mark.provokes("origin_refused")
@pytest.mark.parametrize(
    "origin",
    ["https://evil.example", "null", "http://bank.example", "https://bank.example.evil.com"],
)
async def test_origin_refused(relay_server: RunningServer, origin: str) -> None:
    async with await dial(relay_server.relay_url, origin=origin) as peer:
        await refused_for_good(peer, Code.ORIGIN_REFUSED)
    await process_lives(relay_server)


async def test_an_allowed_origin_comes_in(relay_server: RunningServer) -> None:
    async with await dial(relay_server.relay_url, origin="https://bank.example") as peer:
        await peer.register(identity("ada"))
        await peer.still_works()


@pytest.mark.provokes("registration_required")
async def test_registration_required(relay_server: RunningServer) -> None:
    async with await dial(relay_server.relay_url) as peer:
        await peer.expect(Challenge)
        await peer.post("ada")
        assert (await peer.refusal()).code is Code.REGISTRATION_REQUIRED
        await peer.send_frame(Ack(id=new_id()))
        assert (await peer.refusal()).code is Code.REGISTRATION_REQUIRED
        assert await rows() == (0, 0)
        peer.challenge = None
    async with await dial(relay_server.relay_url) as peer:
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
