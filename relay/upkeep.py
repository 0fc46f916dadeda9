"""What runs beside the connections: time-outs every moment, and sweeps of the database."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import structlog
from django.db import DatabaseError

from protocol.errors import Code
from protocol.relay_protocol import Phase
from relay import directory, leases, mailbox
from relay.connection import Connection

if TYPE_CHECKING:  # the hub starts this
    from relay.hub import Hub

__all__ = ["Upkeep"]

log = structlog.get_logger(__name__)

TICK_SECONDS: Final = 0.25
TRIM_EVERY_SWEEPS: Final = 60


class Upkeep:
    """The two loops of one process."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._sweeps = 0

    async def watch(self) -> None:
        """End connections that are too slow or that nobody uses, until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(TICK_SECONDS)
            now, loop_time = self._hub.clock(), loop.time()
            try:
                for connection in list(self._hub.connections):
                    self._check(connection, now, loop_time)
                if self._hub.bus is not None:
                    self._hub.bus.tick()
            except Exception:
                log.exception("watch.failed")

    async def sweep(self) -> None:
        """Look after the database every few seconds, until cancelled."""
        while True:
            try:
                await self.sweep_once()
            except DatabaseError as error:
                log.error("sweep.database_failed", error=type(error).__name__)
            except Exception:
                log.exception("sweep.failed")
            await asyncio.sleep(self._hub.limits.sweep_seconds)

    async def sweep_once(self) -> None:
        """Renew the lease, learn who is where, and find what was lost."""
        await self._renew()
        await self._expire()
        await self._find_mail()
        await self._end_blocked()
        if self._sweeps % TRIM_EVERY_SWEEPS == 0:
            await self._hub.database.run(
                mailbox.trim_statuses, self._hub.limits.statuses_max, self._hub.clock()
            )
        self._sweeps += 1

    def _check(self, connection: Connection, now: int, loop_time: float) -> None:
        limits, machine = self._hub.limits, connection.machine
        connection.drop_flooded()
        if machine.phase is Phase.CLOSED:
            return
        if machine.phase in (Phase.CHALLENGED, Phase.REGISTERING):
            if now - connection.opened_at > limits.registration_ms:
                connection.fail(Code.REGISTRATION_TIMEOUT, "register sooner")
            return
        writing_since = connection.outbox.writing_since
        if writing_since is not None and (loop_time - writing_since) * 1_000 > limits.stall_ms:
            connection.fail_slow("nothing was read for too long")
            return
        unacked_since = machine.oldest_unacked_since
        if unacked_since is not None and now - unacked_since > limits.ack_ms:
            connection.fail_slow("a message was not acknowledged for too long")
        elif now - connection.heard_at > limits.idle_ms:
            connection.leave("idle")

    async def _renew(self) -> None:
        hub = self._hub
        channel = hub.bus.channel if hub.bus is not None else ""
        await hub.forget_departed()
        await hub.database.run(leases.renew, hub.name, channel, hub.limits.lease_ms, hub.here)
        for name in await hub.database.run(leases.bury_dead):
            log.warning("process.died", worker=name)
        if hub.bus is not None:
            hub.bus.begin_refresh()
            hub.bus.refresh(await hub.database.run(leases.others, hub.name))

    async def _expire(self) -> None:
        """End what has expired: when a great deal has, the rest at the next sweeps, with the lease.

        Others would take a process for dead that renews its lease too late.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + self._hub.limits.sweep_seconds
        while True:
            ended = await self._hub.database.run(mailbox.expire, self._hub.clock())
            for one in ended:
                self._hub.exchange.status_kept(one)
            if len(ended) < mailbox.EXPIRE_MESSAGES_MAX or loop.time() > until:
                return

    async def _find_mail(self) -> None:
        """Find mail that came without our hearing of it, and note where there is none any more."""
        presence = self._hub.exchange.presence
        here = list(presence.local)
        expected = {key: backlog.last_row for key, backlog in presence.backlogs.items()}
        found = await self._hub.database.run(mailbox.with_mail, _distinct(here, list(expected)))
        for key in found.intersection(here):
            self._hub.exchange.mail_came(key)
        for key in await self._hub.database.run(mailbox.with_statuses, here):
            self._hub.exchange.statuses_came(key)
        for key in set(expected) - found - set(presence.local):
            # What was stored since then has a later row, and stays expected.
            presence.drained(key, expected[key])

    async def _end_blocked(self) -> None:
        holders = {
            (client.key, connection.identity_key)
            for client in self._hub.exchange.presence.local.values()
            for connection in client.connections
        }
        if holders:
            for key, identity in await self._hub.database.run(directory.not_entitled, holders):
                self._hub.revoke(key, identity)


def _distinct(*lists: Sequence[str]) -> list[str]:
    return sorted({key for one in lists for key in one})
