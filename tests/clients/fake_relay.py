"""A small relay for tests of clients: a real WebSocket, the real frames, everything in memory.

It plays fair by default. ``tamper`` makes it hostile: a function that gets every `send` and may
handle it in another way; ``substitutes`` replaces what a look-up finds.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from protocol import frames, limits
from protocol.bundles import SignedBundle, check_succession, open_bundle
from protocol.encoding import b64u, unb64u
from protocol.errors import RETRY, Code, ProtocolError
from protocol.identifiers import name_key, name_keys, uuid7
from protocol.registration import check_proof

LIMITS = frames.Limits(
    frame_bytes_max=limits.FRAME_BYTES_MAX,
    body_bytes_max=limits.BODY_BYTES_MAX,
    ttl_ms_max=limits.TTL_MS_MAX,
    in_flight_max=256,
    sends_per_second=10_000,
    mailbox_messages_max=1_000,
    idle_seconds_max=60,
)


def now_ms() -> int:
    return time.time_ns() // 1_000_000


@dataclass(eq=False)
class Session:
    """One registered connection."""

    socket: ServerConnection
    id: str
    role: frames.Role
    unacked: dict[tuple[str, str], frames.Deliver] = field(default_factory=dict)

    async def send(self, frame: frames.RelayFrame) -> None:
        # A client that leaves is not told any more; what it handed over counts all the same.
        with contextlib.suppress(ConnectionClosed):
            await self.socket.send(frames.encode(frame))


Tamper = Callable[["FakeRelay", Session, frames.Send], Awaitable[bool]]


class FakeRelay:
    """Start it with ``async with``; ``url`` is where it listens."""

    def __init__(self, name: str = "fake-relay") -> None:
        self.name = name
        self.sessions: dict[str, list[Session]] = defaultdict(list)
        self.bundles: dict[str, SignedBundle] = {}
        self.substitutes: dict[str, list[SignedBundle]] = {}
        self.mailbox: dict[str, deque[frames.Deliver]] = defaultdict(deque)
        self.received: list[frames.ClientFrame] = []
        self.refuse_registration: frames.Error | None = None
        self.tamper: Tamper | None = None
        self.registrations = 0
        self._server: Server | None = None
        self.port = 0

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/relay"

    async def __aenter__(self) -> FakeRelay:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        self._server = await serve(
            self._handle,
            "127.0.0.1",
            self.port,
            subprotocols=[Subprotocol(limits.SUBPROTOCOL)],
            compression=None,
        )
        self.port = next(iter(self._server.sockets)).getsockname()[1]

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        await self._server.wait_closed()

    async def drop(self, client_id: str) -> None:
        for session in list(self.sessions[client_id]):
            await session.socket.close()

    def sent(self, kind: frames.Kind | None = None) -> list[frames.Send]:
        sends = [frame for frame in self.received if isinstance(frame, frames.Send)]
        return [frame for frame in sends if kind is None or frame.kind is kind]

    # --- One connection ---

    async def _handle(self, socket: ServerConnection) -> None:
        session: Session | None = None
        try:
            session = await self._register(socket)
            if session is None:
                return
            async for text in socket:
                await self._take(session, frames.decode_client_frame(text))
        except ConnectionClosed:
            pass
        finally:
            if session is not None:
                self.sessions[session.id].remove(session)
                for deliver in session.unacked.values():
                    self.mailbox[session.id].append(again(deliver))

    async def _register(self, socket: ServerConnection) -> Session | None:
        nonce = os.urandom(32)
        challenge = frames.Challenge(self.name, b64u(nonce), now_ms(), [1])
        await socket.send(frames.encode(challenge))
        frame = frames.decode_client_frame(await socket.recv())
        assert isinstance(frame, frames.Register)
        self.received.append(frame)
        error = self.refuse_registration or self._check(frame, nonce)
        if error is not None:
            await socket.send(frames.encode(error))
            await socket.close(4000, error.code.value)
            return None
        self.registrations += 1
        self.bundles[frame.id] = frame.bundle
        session = Session(socket, frame.id, frame.role)
        self.sessions[frame.id].append(session)
        waiting = self.mailbox.pop(frame.id, deque())
        connection = uuid7(now_ms(), os.urandom(10))
        await session.send(frames.Welcome(connection, LIMITS, len(waiting), now_ms()))
        for deliver in waiting:
            await self.deliver(session, deliver)
        return session

    def _check(self, frame: frames.Register, nonce: bytes) -> frames.Error | None:
        try:
            bundle = open_bundle(frame.bundle, now_ms())
            check_proof(
                unb64u(frame.proof),
                bundle,
                relay_name=self.name,
                relay_nonce=nonce,
                client_nonce=frames.decode_nonce(frame.nonce),
                claimed_id=frame.id,
                version=frame.version,
                role=frame.role.value,
            )
            if frame.id in self.bundles:
                check_succession(open_bundle(self.bundles[frame.id]), bundle)
        except ProtocolError as error:
            return frames.Error(error.code, error.retry, detail=error.detail)
        return None

    async def _take(self, session: Session, frame: frames.ClientFrame) -> None:
        self.received.append(frame)
        match frame:
            case frames.Send():
                if self.tamper is None or not await self.tamper(self, session, frame):
                    await self.route(session, frame)
            case frames.Ack():
                deliver = session.unacked.pop((frame.sender or "", frame.id), None)
                if deliver is not None and deliver.kind is not frames.Kind.REPLY:
                    await self.tell(deliver.sender, frame.id, session.id, frames.State.DELIVERED)
            case frames.Lookup():
                await session.send(self.answer_lookup(frame))
            case frames.Publish():
                self.bundles[session.id] = frame.bundle
                generation = open_bundle(frame.bundle).generation
                await session.send(frames.Published(frame.id, generation))
            case _:
                raise AssertionError(frame)

    def answer_lookup(self, frame: frames.Lookup) -> frames.RelayFrame:
        found = self.find(frame.query)
        if frame.query in self.substitutes:
            return frames.Found(frame.id, frame.query, found)
        if not found:
            code = Code.UNKNOWN_RECIPIENT
            return frames.Error(code, RETRY[code], id=frame.id)
        if len(found) > 1:
            code, names = Code.AMBIGUOUS_NAME, [open_bundle(signed).id for signed in found]
            return frames.Error(code, RETRY[code], id=frame.id, candidates=names)
        return frames.Found(frame.id, frame.query, found)

    def find(self, query: str) -> list[SignedBundle]:
        if query in self.substitutes:
            return self.substitutes[query]
        if "," not in query:
            return [self.bundles[query]] if query in self.bundles else []
        opened = [open_bundle(signed) for signed in self.bundles.values()]
        return [
            bundle.signed
            for bundle in opened
            if name_key(query) in name_keys(bundle.first_name, bundle.last_name)
        ]

    async def route(self, session: Session, frame: frames.Send) -> None:
        deliver = frames.Deliver(
            id=frame.id,
            sender=session.id,
            kind=frame.kind,
            attempt=1,
            accepted_at=now_ms(),
            body=frame.body,
            re=frame.re,
        )
        if frame.to not in self.bundles:
            code = Code.UNKNOWN_RECIPIENT
            await session.send(frames.Error(code, RETRY[code], id=frame.id))
        elif self.sessions[frame.to]:
            await self.deliver(self.sessions[frame.to][0], deliver)
        else:
            self.mailbox[frame.to].append(deliver)
            if frame.kind is not frames.Kind.REPLY:
                await session.send(frames.Status(frame.id, frame.to, frames.State.QUEUED))

    async def deliver(self, session: Session, deliver: frames.Deliver) -> None:
        session.unacked[deliver.sender, deliver.id] = deliver
        await session.send(deliver)

    async def tell(self, client_id: str, message_id: str, to: str, state: frames.State) -> None:
        for session in self.sessions[client_id]:
            await session.send(frames.Status(message_id, to, state))


def again(deliver: frames.Deliver) -> frames.Deliver:
    return changed(deliver, attempt=deliver.attempt + 1)


def changed(frame: Any, **changes: Any) -> Any:
    """Return the frame with some members changed."""
    members = {name: getattr(frame, name) for name in frame.__struct_fields__}
    return type(frame)(**{**members, **changes})


async def until(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    """Wait until something is so; fails if it doesn't become so."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)
