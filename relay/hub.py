"""The relay in one process: what all its connections share, and what runs beside them.

There is one hub for each event loop. It starts with the first connection.
"""

from __future__ import annotations

import asyncio
import os
import time
import uuid
from typing import Final
from weakref import WeakKeyDictionary

import structlog
from django.db import DatabaseError

from protocol.errors import Code, RelayError
from protocol.frames import Found, Published
from protocol.identifiers import uuid7
from protocol.relay_events import (
    LookupRequested,
    PublishRequested,
    RegistrationRequested,
    TokenBucket,
)
from protocol.relay_protocol import Phase
from relay import directory, leases
from relay.conf import relay_settings
from relay.connection import Connection
from relay.database import DatabaseThread
from relay.exchange import Exchange
from relay.limits import RelayLimits
from relay.metrics import counters

__all__ = ["Hub", "running_hub"]

log = structlog.get_logger(__name__)


def clock() -> int:
    """Return the time in milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


class Hub:
    """One relay process."""

    def __init__(self) -> None:
        self.name = str(uuid.uuid4())
        self.limits = RelayLimits.from_settings()
        self.database = DatabaseThread()
        self.exchange = Exchange(
            name=self.name, limits=self.limits, database=self.database, clock=clock
        )
        self.connections: set[Connection] = set()
        self.is_draining = False
        self._registrations = TokenBucket(
            self.limits.registrations_per_second, self.limits.registrations_per_second, clock()
        )
        self._tasks: list[asyncio.Task[None]] = []
        self._departed: list[tuple[str, str]] = []

    def start(self) -> None:
        """Start what runs beside the connections."""
        loop = asyncio.get_running_loop()
        self._tasks.append(loop.create_task(self.exchange.writer.run()))

    async def stop(self) -> None:
        """Stop, and write what is still to be written."""
        await self.exchange.writer.flush()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.database.close()

    # Connections.

    def open(self) -> Connection:
        """Return a new connection that is not registered yet."""
        now = clock()
        connection = Connection(
            uuid7(now, os.urandom(10)),
            relay_name=relay_settings.NAME,
            nonce=os.urandom(32),
            limits=self.limits,
            now=now,
        )
        self.connections.add(connection)
        counters.connections += 1
        if self.is_draining:
            connection.fail(Code.DRAINING, "the relay goes away", self.limits.reconnect_spread_ms)
        elif len(self.connections) > self.limits.connections_max:
            connection.fail(
                Code.OVERLOADED, "too many connections", self.limits.reconnect_spread_ms
            )
        return connection

    def closed(self, connection: Connection) -> None:
        """Forget a connection."""
        if connection not in self.connections:
            return
        self.connections.discard(connection)
        counters.connections -= 1
        client = connection.client
        self.exchange.left(connection)
        if client is not None:
            self._departed.append((connection.id, client.key))

    # What a client asks for that needs the database.

    async def register(self, connection: Connection, event: RegistrationRequested) -> None:
        """Let a client in that has proven its key, if the directory agrees."""
        machine = connection.machine
        wait_ms = self._registrations.take(clock())
        if wait_ms:
            connection.fail(Code.RATE_LIMITED, "too many registrations at once", wait_ms)
            return
        present = self.exchange.presence.local.get(event.bundle.id.lower())
        if present and len(present.connections) >= self.limits.connections_per_client_max:
            connection.fail(Code.OVERLOADED, "this client has too many connections")
            return
        try:
            arrival = await self.database.run(
                leases.arrive, event.bundle, event.role, connection.id, self.name
            )
        except RelayError as error:
            connection.fail(error.code, error.detail, error.retry_after_ms)
            return
        except DatabaseError as error:
            log.error("registration.database_failed", error=type(error).__name__)
            connection.fail(Code.OVERLOADED, "the directory is not available")
            return
        if machine.phase is not Phase.REGISTERING:
            self._departed.append((connection.id, arrival.key))
            return
        machine.accept(
            connection=connection.id,
            bounds=self.limits.bounds(event.role),
            terms=self.limits.terms(event.role),
            waiting=arrival.waiting,
            now=clock(),
        )
        connection.flush()
        counters.registered += 1
        client = self.exchange.presence.join(connection, arrival.key, arrival.client_id)
        connection.client = client
        log.info("client.registered", client=arrival.client_id, role=event.role.value)
        self.exchange.joined(client, mail=arrival.waiting > 0, statuses=arrival.has_statuses)

    async def lookup(self, connection: Connection, event: LookupRequested) -> None:
        """Answer a look-up."""
        try:
            bundles = await self.database.run(directory.find, event.query)
        except directory.AmbiguousNameError as error:
            connection.refuse(
                error.code, answers=event.id, detail=error.detail, candidates=error.candidates
            )
        except RelayError as error:
            connection.refuse(error.code, answers=event.id, detail=error.detail)
        except DatabaseError as error:
            log.error("lookup.database_failed", error=type(error).__name__)
            connection.refuse(Code.OVERLOADED, answers=event.id)
        else:
            connection.send(Found(id=event.id, query=event.query, bundles=bundles))

    async def publish(self, connection: Connection, event: PublishRequested) -> None:
        """Keep a client's next bundle."""
        client = connection.client
        if client is None:
            return
        try:
            await self.database.run(directory.publish, client.key, event.bundle)
        except RelayError as error:
            connection.refuse(error.code, answers=event.id, detail=error.detail)
        except DatabaseError as error:
            log.error("publish.database_failed", error=type(error).__name__)
            connection.refuse(Code.OVERLOADED, answers=event.id)
        else:
            connection.send(Published(id=event.id, generation=event.bundle.generation))


_hubs: Final[WeakKeyDictionary[asyncio.AbstractEventLoop, Hub]] = WeakKeyDictionary()


def running_hub() -> Hub:
    """Return the hub of the running event loop; the first call makes and starts it."""
    loop = asyncio.get_running_loop()
    hub = _hubs.get(loop)
    if hub is None:
        hub = _hubs[loop] = Hub()
        hub.start()
    return hub
