"""A client of the relay for tests: every frame is sent and awaited by hand."""

from __future__ import annotations

import asyncio
import os
import time
from dataclasses import dataclass
from typing import Any, Protocol, Self, TypeVar

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Origin, Subprotocol

from protocol import limits
from protocol.bundles import Bundle, SignedBundle, make_bundle, open_bundle
from protocol.encoding import b64u
from protocol.frames import (
    Ack,
    Challenge,
    ClientFrame,
    Deliver,
    Error,
    Found,
    Kind,
    Lookup,
    Publish,
    Register,
    RelayFrame,
    Role,
    Send,
    Status,
    Welcome,
    decode_nonce,
    decode_relay_frame,
    encode,
)
from protocol.identifiers import uuid7
from protocol.keys import IdentityKey, Prekey, Suite
from protocol.registration import make_proof

F = TypeVar("F")

WAIT_SECONDS = 10.0
DAY_MS = 86_400_000
BODY = b64u(b"sealed, as far as the relay can tell")


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def new_id() -> str:
    return uuid7(now_ms(), os.urandom(10))


@dataclass(frozen=True)
class Identity:
    """A client's keys: they are what it is, over any number of connections."""

    client_id: str
    key: IdentityKey
    first_name: str
    last_name: str
    bundle: Bundle

    def next(
        self,
        *,
        generation: int | None = None,
        key: IdentityKey | None = None,
        signed_by_old: bool = True,
    ) -> Identity:
        """Return the same client one generation on, with a new key where one is given."""
        signed = _bundle(
            self.client_id,
            key or self.key,
            self.first_name,
            self.last_name,
            generation or self.bundle.generation + 1,
            previous=self.key if key is not None and signed_by_old else None,
        )
        return Identity(
            self.client_id, key or self.key, self.first_name, self.last_name, open_bundle(signed)
        )


def identity(client_id: str, first: str = "Test", last: str = "Client") -> Identity:
    key = IdentityKey(os.urandom(32))
    return Identity(client_id, key, first, last, open_bundle(_bundle(client_id, key, first, last)))


def _bundle(
    client_id: str,
    key: IdentityKey,
    first: str,
    last: str,
    generation: int = 1,
    previous: IdentityKey | None = None,
) -> SignedBundle:
    return make_bundle(
        key,
        client_id=client_id,
        first_name=first,
        last_name=last,
        generation=generation,
        encryption_keys=[Prekey(Suite.CLASSIC, os.urandom(32), 0).public],
        valid_from=now_ms() - DAY_MS,
        valid_to=now_ms() + 30 * DAY_MS,
        previous=previous,
    )


class Wire(Protocol):
    """What carries a peer's frames: a socket, or Channels' communicator."""

    async def send(self, message: str | bytes) -> None: ...

    async def receive(self) -> str: ...

    async def close(self) -> None: ...

    async def closed(self) -> tuple[int, str]:
        """Wait until the relay has closed it; return code and reason."""
        ...


class Socket:
    """A real WebSocket."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection

    async def send(self, message: str | bytes) -> None:
        await self.connection.send(message)

    async def receive(self) -> str:
        message = await self.connection.recv()
        assert isinstance(message, str)
        return message

    async def close(self) -> None:
        await self.connection.close()

    async def closed(self) -> tuple[int, str]:
        try:
            while True:
                await asyncio.wait_for(self.connection.recv(), WAIT_SECONDS)
        except ConnectionClosed:
            return self.connection.close_code or 0, self.connection.close_reason or ""


class Peer:
    """One connection of a client."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self.welcome: Welcome | None = None
        self.identity: Identity | None = None
        self.challenge: Challenge | None = None
        self.waiting: list[RelayFrame] = []
        """Frames that came while another kind was awaited."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.wire.close()

    # Frames.

    async def send_frame(self, frame: ClientFrame) -> None:
        await self.wire.send(encode(frame))

    async def next(self) -> RelayFrame:
        """Return the next frame, whatever it is."""
        if self.waiting:
            return self.waiting.pop(0)
        return await self._read()

    async def expect(self, kind: type[F]) -> F:
        """Return the next frame of this kind; others wait."""
        for index, frame in enumerate(self.waiting):
            if isinstance(frame, kind):
                del self.waiting[index]
                return frame
        while True:
            frame = await self._read()
            if isinstance(frame, kind):
                return frame
            self.waiting.append(frame)

    async def silent(self, seconds: float = 0.2) -> bool:
        """Return whether nothing comes for a while."""
        if self.waiting:
            return False
        try:
            self.waiting.append(
                decode_relay_frame(await asyncio.wait_for(self.wire.receive(), seconds))
            )
        except TimeoutError:
            return True
        return False

    async def _read(self) -> RelayFrame:
        return decode_relay_frame(await asyncio.wait_for(self.wire.receive(), WAIT_SECONDS))

    # What clients do.

    async def register(self, who: Identity, role: Role = Role.PERSON, **changes: Any) -> Welcome:
        """Register and return the welcome; anything else that comes first is an error."""
        await self.ask_registration(who, role, **changes)
        frame = await self.next()
        assert isinstance(frame, Welcome), frame
        self.welcome = frame
        return frame

    async def ask_registration(
        self, who: Identity, role: Role = Role.PERSON, **changes: Any
    ) -> None:
        """Send a registration, with members changed where a test wants it wrong."""
        if self.challenge is None:
            self.challenge = await self.expect(Challenge)
        self.identity = who
        nonce = os.urandom(32)
        proof = make_proof(
            who.key,
            who.bundle,
            relay_name=changes.pop("relay_name", self.challenge.relay),
            relay_nonce=decode_nonce(self.challenge.nonce),
            client_nonce=nonce,
            role=role.value,
        )
        members: dict[str, Any] = {
            "id": who.client_id,
            "bundle": who.bundle.signed,
            "nonce": b64u(nonce),
            "version": limits.PROTOCOL_VERSION,
            "role": role,
            "proof": b64u(proof),
            **changes,
        }
        await self.send_frame(Register(**members))

    async def post(
        self,
        to: str,
        *,
        kind: Kind = Kind.NOTICE,
        ttl_ms: int = 60_000,
        body: str = BODY,
        re: str | None = None,
        id: str | None = None,  # noqa: A002 - the name that it has on the wire
    ) -> str:
        """Send a message and return its id."""
        message_id = id or new_id()
        await self.send_frame(
            Send(id=message_id, to=to, kind=kind, ttl_ms=ttl_ms, body=body, re=re)
        )
        return message_id

    async def ack(self, delivered: Deliver) -> None:
        await self.send_frame(Ack(id=delivered.id, sender=delivered.sender))

    async def take(self) -> Deliver:
        """Receive the next message and acknowledge it."""
        delivered = await self.expect(Deliver)
        await self.ack(delivered)
        return delivered

    async def status(self) -> Status:
        return await self.expect(Status)

    async def refusal(self) -> Error:
        return await self.expect(Error)

    async def ask_lookup(self, query: str) -> str:
        """Ask for bundles and return the frame's id."""
        frame_id = new_id()
        await self.send_frame(Lookup(id=frame_id, query=query))
        return frame_id

    async def lookup(self, query: str) -> Found:
        await self.ask_lookup(query)
        return await self.expect(Found)

    async def ask_publish(self, who: Identity) -> str:
        """Publish a bundle and return the frame's id."""
        frame_id = new_id()
        await self.send_frame(Publish(id=frame_id, bundle=who.bundle.signed))
        return frame_id

    async def still_works(self) -> None:
        """Check that this connection, and the process behind it, go on."""
        assert self.identity is not None
        found = await self.lookup(self.identity.client_id)
        assert len(found.bundles) == 1


async def dial(
    url: str, *, origin: str | None = None, subprotocol: str | None = limits.SUBPROTOCOL
) -> Peer:
    """Connect to a relay's address; the caller registers."""
    connection = await connect(
        url,
        origin=Origin(origin) if origin is not None else None,
        subprotocols=[Subprotocol(subprotocol)] if subprotocol is not None else None,
        compression=None,
        close_timeout=1,
        max_size=2**20,
        proxy=None,
    )
    return Peer(Socket(connection))


async def join(url: str, who: Identity, role: Role = Role.PERSON) -> Peer:
    """Connect and register."""
    peer = await dial(url)
    await peer.register(who, role)
    return peer
