"""A client that answers requests with a handler it is given; the bank is one.

A service may run several times under one id: the relay gives each request to one of them. Every
request ends in one of three ways: answered (the reply is written before the acknowledgement, so a
service that dies between the two is asked again and answers the same), silent (the handler doesn't
know the outcome and returned None: no acknowledgement either, so the request comes again), or
failed (the handler raised; like silent, and logged).
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from clients.client import Client
from clients.connection import Clock, system_clock
from protocol.bundles import Bundle
from protocol.encoding import unb64u
from protocol.frames import Deliver, Kind, Role
from protocol.keyfile import KeyFile
from protocol.keys import RandomBytes

__all__ = ["Handler", "IncomingRequest", "ServiceClient", "ServiceCounters"]

CONCURRENCY: Final = 256
BACKLOG_MAX: Final = 8_192
REPLY_TTL_MS: Final = 3_600_000
GRACE_SECONDS: Final = 10.0
SILENCE_SECONDS: Final = 2.0
"""How long a request without an answer is left before it is asked for again, over a new connection;
each time twice as long, up to `SILENCE_SECONDS_MAX`."""
SILENCE_SECONDS_MAX: Final = 60.0

_log = logging.getLogger("tellerwire.service")


@dataclass(frozen=True, slots=True)
class IncomingRequest:
    """A request, or notice, as the relay delivered it; its body is still sealed.

    :param sender: the id that the relay authenticated; only the seal proves it.
    :param attempt: 1, or more where it was delivered before.
    :param accepted_at: when the relay took it, milliseconds since the epoch, by its own word.
    """

    id: str
    sender: str
    kind: Kind
    re: str | None
    attempt: int
    body: bytes
    accepted_at: int

    def __repr__(self) -> str:
        return f"<IncomingRequest {self.id} from {self.sender}: {len(self.body)} bytes>"


Handler = Callable[[IncomingRequest], Awaitable[bytes | None]]
"""Returns the body of the reply (a notice gets none, whatever is returned), or None to say
nothing and not to acknowledge."""


@dataclass(slots=True)
class ServiceCounters:
    """What a service has done since it was made."""

    received: int = 0
    answered: int = 0
    silent: int = 0
    unsent: int = 0
    failed: int = 0
    duplicates: int = 0
    turned_away: int = 0


class ServiceClient:
    """Serves requests until it is stopped.

    ``async with ServiceClient(...) as service: await service.wait_closed()`` runs it;
    leaving the block drains it.

    :param handler: called for every request, at most ``concurrency`` at a time, in the order of
        arrival.
    """

    def __init__(
        self,
        key_file: KeyFile,
        relay_url: str,
        handler: Handler,
        *,
        concurrency: int = CONCURRENCY,
        reply_ttl_ms: int = REPLY_TTL_MS,
        clock: Clock = system_clock,
        random_bytes: RandomBytes = os.urandom,
    ) -> None:
        self._handler = handler
        self._concurrency = concurrency
        self._reply_ttl_ms = reply_ttl_ms
        self._client = Client(
            key_file,
            relay_url,
            role=Role.SERVICE,
            on_incoming=self._receive,
            clock=clock,
            random_bytes=random_bytes,
        )
        self._backlog: deque[Deliver] = deque()
        self._active: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._unacknowledged = 0
        self._renewal: asyncio.TimerHandle | None = None
        self._renewed_at = 0.0
        self._silence_seconds = SILENCE_SECONDS
        self._draining = False
        self.counters = ServiceCounters()

    async def __aenter__(self) -> ServiceClient:
        self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    def start(self) -> None:
        """Begin to connect and serve, in the background."""
        self._client.start()

    async def wait_ready(self, seconds: float = 30.0) -> None:
        """Wait until the relay has registered this service.

        :raises RelayUnreachableError: not in time.
        :raises RegistrationRefusedError: it never will.
        """
        await self._client.wait_ready(seconds)

    @property
    def is_ready(self) -> bool:
        """Whether it is registered at this moment."""
        return self._client.connection.ready.is_set()

    @property
    def key_file(self) -> KeyFile:
        """The key file in use."""
        return self._client.key_file

    async def wait_closed(self) -> None:
        """Wait until it was stopped.

        :raises RegistrationRefusedError: the relay will not have this service (any more).
        :raises RelayRenamedError: another relay answers at this address than at the start.
        """
        await self._client.wait_closed()

    async def stop(self, grace_seconds: float = GRACE_SECONDS) -> None:
        """Take no more requests, finish those in hand, leave. What is left goes to others."""
        self._draining = True
        self._backlog.clear()
        if self._renewal is not None:
            self._renewal.cancel()
        if self._active:
            await asyncio.wait(self._active.values(), timeout=grace_seconds)
        for task in self._active.values():
            task.cancel()
        await self._client.close()

    async def lookup(self, query: str) -> list[Bundle]:
        """Return the bundles that the relay has for an id or a name, each checked by itself.

        :raises RefusedError: as the relay refused.
        :raises RelayUnreachableError: no answer in time.
        """
        return await self._client.directory.lookup(query)

    async def publish(self, key_file: KeyFile) -> int:
        """Publish a rotated bundle and use it from now on; return its generation.

        :raises RefusedError: as the relay refused, e.g. ``bad_bundle`` for an old generation.
        """
        return await self._client.publish(key_file)

    def use(self, key_file: KeyFile) -> None:
        """Register with this key file's bundle from the next connection on.

        For workers under one id: one publishes the rotated bundle, the others only use it.
        """
        self._client.use(key_file)

    # --- Requests ---

    def _receive(self, deliver: Deliver) -> None:
        self.counters.received += 1
        if (deliver.sender, deliver.id) in self._active:
            # It came again over a new connection; the answer under way is the answer.
            self.counters.duplicates += 1
            return
        if self._draining or len(self._backlog) >= BACKLOG_MAX:
            self.counters.turned_away += 1
            return
        if len(self._active) >= self._concurrency:
            self._backlog.append(deliver)
            return
        self._begin(deliver)

    def _begin(self, deliver: Deliver) -> None:
        key = (deliver.sender, deliver.id)
        task = asyncio.create_task(self._serve(deliver))
        self._active[key] = task
        task.add_done_callback(lambda done: self._finish(key, done))

    async def _serve(self, deliver: Deliver) -> None:
        try:
            body = unb64u(deliver.body)
        except ValueError:
            # The relay let through what is no base64url: it can never become a request.
            self._client.ack(deliver)
            return
        request = IncomingRequest(
            id=deliver.id,
            sender=deliver.sender,
            kind=deliver.kind,
            re=deliver.re,
            attempt=deliver.attempt,
            body=body,
            accepted_at=deliver.accepted_at,
        )
        answer = await self._handler(request)
        if answer is None:
            self.counters.silent += 1
            self._leave_unacknowledged()
            return
        if deliver.kind is Kind.REQUEST and not self._client.reply(
            deliver, answer, self._reply_ttl_ms
        ):
            # The connection is gone or going: unacknowledged, the request comes again.
            self.counters.unsent += 1
            return
        self._client.ack(deliver)
        self.counters.answered += 1

    def _finish(self, key: tuple[str, str], task: asyncio.Task[None]) -> None:
        del self._active[key]
        if not task.cancelled() and (error := task.exception()) is not None:
            self.counters.failed += 1
            _log.error("the handler failed on a request from %s", key[0], exc_info=error)
            self._leave_unacknowledged()
        while self._backlog and len(self._active) < self._concurrency and not self._draining:
            following = self._backlog.popleft()
            if (following.sender, following.id) not in self._active:
                self._begin(following)

    def _leave_unacknowledged(self) -> None:
        """Begin anew soon: what the relay still waits for is delivered again, and only then.

        Until then whoever sends it again is not heard. At once, before the window is full of such.
        """
        self._unacknowledged += 1
        welcome = self._client.connection.welcome
        window = welcome.limits.in_flight_max if welcome is not None else CONCURRENCY
        loop = asyncio.get_running_loop()
        if self._unacknowledged >= max(1, window // 2):
            self._renew(loop)
        elif self._renewal is None:
            if loop.time() - self._renewed_at > 2 * SILENCE_SECONDS_MAX:
                self._silence_seconds = SILENCE_SECONDS
            self._renewal = loop.call_later(self._silence_seconds, self._renew, loop)
            self._silence_seconds = min(2 * self._silence_seconds, SILENCE_SECONDS_MAX)

    def _renew(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._renewal is not None:
            self._renewal.cancel()
            self._renewal = None
        self._unacknowledged = 0
        self._renewed_at = loop.time()
        if not self._draining:
            self._client.connection.hang_up()
