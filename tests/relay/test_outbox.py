"""The outbox: bounded, in order, and done when it is closed."""

from __future__ import annotations

import asyncio
from typing import Any

from protocol.relay_events import CloseReason
from relay.outbox import Outbox

REASON = CloseReason(4000, "revoked")


class Client:
    """A socket that can stop taking anything."""

    def __init__(self) -> None:
        self.taken: list[dict[str, Any]] = []
        self.reads = asyncio.Event()
        self.reads.set()

    async def send(self, event: dict[str, Any]) -> None:
        await self.reads.wait()
        self.taken.append(event)

    @property
    def texts(self) -> list[str]:
        return [event["text"] for event in self.taken if "text" in event]


def hangs(outbox: Outbox) -> bool:
    return outbox.writing_since is not None


async def test_frames_are_written_in_order_and_then_the_close() -> None:
    outbox, client = Outbox(frames_max=9, bytes_max=99), Client()
    writer = asyncio.create_task(outbox.run(client.send))
    assert outbox.put("one")
    await asyncio.sleep(0)
    assert outbox.put("two")
    assert outbox.put("three")
    outbox.close(REASON)
    assert not outbox.put("late")
    await asyncio.wait_for(writer, 1)
    assert client.texts == ["one", "two", "three"]
    assert client.taken[-1] == {"type": "websocket.close", "code": 4000, "reason": "revoked"}


async def test_frames_and_bytes_are_bounded() -> None:
    outbox = Outbox(frames_max=2, bytes_max=10)
    assert outbox.has_room(10)
    assert not outbox.has_room(11)
    assert outbox.put("12345")
    assert not outbox.put("123456")
    assert outbox.put("12345")
    assert not outbox.put("")
    client = Client()
    writer = asyncio.create_task(outbox.run(client.send))
    await asyncio.sleep(0.01)
    assert outbox.put("1234567890")
    writer.cancel()


async def test_it_is_known_since_when_a_write_hangs() -> None:
    outbox, client = Outbox(frames_max=9, bytes_max=99), Client()
    client.reads.clear()
    writer = asyncio.create_task(outbox.run(client.send))
    assert not hangs(outbox)
    outbox.put("one")
    await asyncio.sleep(0.01)
    assert hangs(outbox)
    client.reads.set()
    await asyncio.sleep(0.01)
    assert not hangs(outbox)
    writer.cancel()


async def test_the_last_words_take_the_place_of_what_waits() -> None:
    outbox, client = Outbox(frames_max=9, bytes_max=99), Client()
    client.reads.clear()
    writer = asyncio.create_task(outbox.run(client.send))
    for text in ("being written", "dropped", "dropped too"):
        outbox.put(text)
        await asyncio.sleep(0)
    outbox.close(REASON, ["too slow"])
    outbox.close(CloseReason(1001, "again"))
    client.reads.set()
    await asyncio.wait_for(writer, 1)
    assert client.texts == ["being written", "too slow"]
    assert client.taken[-1]["reason"] == "revoked"


async def test_what_need_not_wait_is_written_at_once_and_nothing_overtakes() -> None:
    outbox, client = Outbox(frames_max=9, bytes_max=99), Client()
    at_once: list[str] = []
    reads = True

    def write_now(text: str) -> bool:
        if reads:
            at_once.append(text)
        return reads

    outbox.write_now = write_now
    writer = asyncio.create_task(outbox.run(client.send))
    assert outbox.put("one")
    assert at_once == ["one"]
    reads = False
    client.reads.clear()
    assert outbox.put("two")
    await asyncio.sleep(0.01)
    assert hangs(outbox)
    reads = True
    assert outbox.put("three")
    assert at_once == ["one"]
    client.reads.set()
    await asyncio.sleep(0.01)
    assert client.texts == ["two", "three"]
    assert outbox.put("four")
    assert at_once == ["one", "four"]
    assert not outbox.put("x" * 100)
    outbox.close(REASON)
    assert not outbox.put("late")
    await asyncio.wait_for(writer, 1)
