"""The relay in one process: what all its connections share, and what runs beside them.

There is one hub for each event loop. It starts with the first connection.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
import uuid
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, Final
from weakref import WeakKeyDictionary

import structlog
from channels.layers import InMemoryChannelLayer, get_channel_layer
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
from relay.bus import Bus
from relay.conf import relay_settings
from relay.connection import Connection
from relay.database import DatabaseThread
from relay.exchange import Exchange
from relay.limits import RelayLimits
from relay.metrics import counters
from relay.outbox import HeldBytes
from relay.presence import LocalClient
from relay.shutdown import DrainOnSignals
from relay.upkeep import Upkeep

__all__ = ["Hub", "clock", "running_hub", "running_hubs"]

log = structlog.get_logger(__name__)

DRAIN_POLL_SECONDS: Final = 0.05
BUS_RETRY_SECONDS: Final = 1.0


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
        self._stopped = False
        self._database_hangs = False
        self._held = HeldBytes(self.limits.held_bytes_max)
        self._beginnings = TokenBucket(
            self.limits.registrations_per_second, self.limits.registrations_per_second, clock()
        )
        self.bus = self._make_bus()
        self.clock = clock
        self._tasks: list[asyncio.Task[None]] = []
        self._departed: list[tuple[str, str]] = []
        self._departures = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._signals: DrainOnSignals | None = None

    # Beginning and end.

    def start(self) -> None:
        """Start what runs beside the connections."""
        upkeep = Upkeep(self)
        for coroutine in (
            self.exchange.writer.run(),
            self.forget_departures(),
            upkeep.watch(),
            self._join_others(upkeep),
        ):
            self._tasks.append(self._loop.create_task(coroutine))
        self._signals = DrainOnSignals(self.drain)

    async def drain(self) -> None:
        """Send every client away, store what it did not acknowledge, and stop."""
        self.is_draining = True
        for connection in list(self.connections):
            if connection.is_open:
                connection.drain(self._spread())
            else:
                connection.fail(Code.DRAINING, "the relay goes away")
        deadline = self._loop.time() + self.limits.drain_seconds
        while self._loop.time() < deadline and self._unacked:  # noqa: ASYNC110 - acks set no event
            await asyncio.sleep(DRAIN_POLL_SECONDS)
        ending = list(self.connections)
        # Who has not acknowledged goes first: so the senders still hear that it is stored.
        ending.sort(key=lambda connection: connection.machine.unacked == 0)
        for connection in ending:
            if not connection.machine.unacked:
                await self._write_the_rest()
            connection.fail(Code.DRAINING, "the relay goes away")
            self.closed(connection)
        await self._write_the_rest()
        await asyncio.gather(*(connection.written() for connection in ending))
        await self.stop()

    async def stop(self) -> None:
        """Stop what runs, write what is still to be written, and forget this process."""
        if self._stopped:
            return
        self._stopped = True
        await self._write_the_rest()
        if self.bus is not None:
            await self.bus.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._in_time(self._leave_database())
        if self._signals is not None:
            self._signals.undo()
        # A hub that was drained stays where it is, to send away whoever still comes.
        if not self.is_draining and _hubs.get(self._loop) is self:
            del _hubs[self._loop]

    async def _write_the_rest(self) -> None:
        """Write what is still to be written, unless the database hangs."""
        if self._database_hangs or await self._in_time(self.exchange.writer.flush()):
            return
        self._database_hangs = True
        # No sender was told that any of it is stored: that is said after the commit.
        log.error("database.hangs", not_stored=self.exchange.writer.unwritten)

    async def _leave_database(self) -> None:
        with suppress(DatabaseError):
            await self.forget_departed()
            await self.database.run(leases.stop, self.name)
        await self.database.close()

    async def _in_time(self, work: Coroutine[Any, Any, None]) -> bool:
        """Wait for the database as long as for clients that go; return whether it was enough."""
        try:
            await asyncio.wait_for(work, self.limits.drain_seconds)
        except TimeoutError:
            return False
        return True

    async def forget_departed(self) -> None:
        """Take connections that ended out of the database."""
        while self._departed:
            departed, self._departed = self._departed, []
            try:
                await self.database.run(leases.depart, departed)
            except DatabaseError:
                self._departed += departed  # for the next sweep
                raise

    async def forget_departures(self) -> None:
        """Do this whenever a connection has ended, until cancelled."""
        while True:
            await self._departures.wait()
            self._departures.clear()
            try:
                await self.forget_departed()
            except DatabaseError as error:
                log.error("departures.database_failed", error=type(error).__name__)

    def _note_departure(self, connection_id: str, key: str) -> None:
        self._departed.append((connection_id, key))
        self._departures.set()

    def here(self) -> list[leases.Here]:
        """Return the registered connections; from any thread."""
        registered = ((one.id, one.client, one.role) for one in tuple(self.connections))
        return [
            leases.Here(connection_id, client.key, client.id, role)
            for connection_id, client, role in registered
            if client is not None and role is not None
        ]

    async def settled(self) -> None:
        """Return once what connections left behind is in the database, unless that hangs."""
        if not self._stopped:
            await self._in_time(self.exchange.writer.flush())

    @property
    def _unacked(self) -> int:
        return sum(connection.machine.unacked for connection in self.connections)

    def revoke(self, key: str, identity: bytes | None = None) -> None:
        """End the connections of a client that may not be here any more.

        :param identity: those alone that proved this identity key.
        """
        client = self.exchange.presence.local.get(key)
        for connection in list(client.connections) if client is not None else ():
            if identity is None or connection.identity_key == identity:
                words = "the id was blocked, released, or given to another key"
                connection.fail(Code.REVOKED, words)

    def _end_replaced(self, client: LocalClient, identity: bytes) -> None:
        """End the connections under keys that came before a client's newest one.

        Those at other processes end at their next sweep.
        """
        for older in {one.identity_key for one in client.connections} - {identity}:
            self.revoke(client.key, older)

    def revoke_soon(self, key: str) -> None:
        """Do the same from another thread."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self.revoke, key)

    def _make_bus(self) -> Bus | None:
        """Return the bus to other processes; a layer within this process leads to none."""
        layer = get_channel_layer()
        if layer is None or isinstance(layer, InMemoryChannelLayer):
            return None
        return Bus(
            layer=layer,
            exchange=self.exchange,
            limits=self.limits,
            clock=clock,
            revoke=self.revoke,
        )

    async def _join_others(self, upkeep: Upkeep) -> None:
        """Open the bus, where there is one, and sweep from then on."""
        while self.bus is not None and not self.bus.channel:
            try:
                await self.bus.open()
            except Exception as error:  # noqa: BLE001 - a channel layer may raise anything
                log.error("bus.open_failed", error=type(error).__name__)
                await asyncio.sleep(BUS_RETRY_SECONDS)
        if self.bus is not None:
            self.exchange.elsewhere = self.bus
            self._tasks.append(self._loop.create_task(self.bus.receive()))
        await upkeep.sweep()

    # Connections.

    def open(self) -> Connection:
        """Return a new connection that is not registered yet."""
        now = clock()
        connection = Connection(
            uuid7(now, os.urandom(10)),
            relay_name=relay_settings.NAME,
            nonce=os.urandom(32),
            limits=self.limits,
            held=self._held,
            now=now,
        )
        self.connections.add(connection)
        counters.connections += 1
        wait_ms = self._beginnings.take(now)
        if self.is_draining:
            connection.fail(Code.DRAINING, "the relay goes away", self._spread())
        elif len(self.connections) > self.limits.connections_max:
            connection.fail(Code.OVERLOADED, "too many connections", self._spread())
        elif wait_ms:
            after_ms = wait_ms + self._spread()
            connection.fail(Code.RATE_LIMITED, "too many registrations at once", after_ms)
        return connection

    def _spread(self) -> int:
        """Return a random time: who is sent away at once shall not come back at once."""
        return random.randint(0, self.limits.reconnect_spread_ms)  # noqa: S311 - no secret

    def closed(self, connection: Connection) -> None:
        """Forget a connection."""
        if connection not in self.connections:
            return
        self.connections.discard(connection)
        counters.connections -= 1
        client = connection.client
        self.exchange.left(connection)
        if client is not None:
            log.info("client.left", client=client.id)
            self._note_departure(connection.id, client.key)

    # What a client asks for that needs the database.

    async def register(self, connection: Connection, event: RegistrationRequested) -> None:
        """Let a client in that has proven its key, if the directory agrees."""
        machine = connection.machine
        present = self.exchange.presence.local.get(event.bundle.id.lower())
        if present and len(present.connections) >= self.limits.connections_per_client_max:
            connection.fail(Code.OVERLOADED, "this client has too many connections")
            return
        try:
            arrival = await self.database.run(
                leases.arrive,
                event.bundle,
                event.role,
                connection.id,
                worker=self.name,
                lease_ms=self.limits.lease_ms,
                here=self.here,
            )
        except RelayError as error:
            connection.fail(error.code, error.detail, error.retry_after_ms)
            return
        except DatabaseError as error:
            log.error("registration.database_failed", error=type(error).__name__)
            connection.fail(Code.OVERLOADED, "the directory is not available")
            return
        if machine.phase is not Phase.REGISTERING:
            self._note_departure(connection.id, arrival.key)
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
        connection.client, connection.identity_key = client, event.bundle.identity_key
        self._end_replaced(client, event.bundle.identity_key)
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
            await self.database.run(
                directory.publish, client.key, event.bundle, connection.identity_key
            )
        except RelayError as error:
            connection.refuse(error.code, answers=event.id, detail=error.detail)
        except DatabaseError as error:
            log.error("publish.database_failed", error=type(error).__name__)
            connection.refuse(Code.OVERLOADED, answers=event.id)
        else:
            connection.identity_key = event.bundle.identity_key
            self._end_replaced(client, event.bundle.identity_key)
            connection.send(Published(id=event.id, generation=event.bundle.generation))


_hubs: Final[WeakKeyDictionary[asyncio.AbstractEventLoop, Hub]] = WeakKeyDictionary()


def running_hubs() -> list[Hub]:
    """Return the hubs of this process, from any thread."""
    return list(_hubs.values())


def running_hub() -> Hub:
    """Return the hub of the running event loop; the first call makes and starts it."""
    loop = asyncio.get_running_loop()
    hub = _hubs.get(loop)
    if hub is None:
        hub = _hubs[loop] = Hub()
        hub.start()
    return hub
