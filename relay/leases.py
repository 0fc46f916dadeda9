"""Processes and their connections in the database: what survives a crash only until a lease ends.

Leases are measured by the database's clock alone: those of the processes' hosts may differ. Every
function here runs in the database thread.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass

from django.db import connections, transaction
from django.db.models import Count
from django.utils import timezone

from protocol.bundles import Bundle
from protocol.frames import Role
from relay import directory, mailbox
from relay.database import ALIAS
from relay.models import Client, Connection, StoredStatus, Worker

__all__ = [
    "Arrival",
    "Here",
    "Others",
    "arrive",
    "bury_dead",
    "depart",
    "others",
    "renew",
    "stop",
]


@dataclass(frozen=True, slots=True)
class Arrival:
    """A client that came in, and what waits for it."""

    client_id: str
    key: str
    waiting: int
    has_statuses: bool


@dataclass(frozen=True, slots=True)
class Others:
    """The other living processes that can be reached, and whom they have."""

    workers: dict[str, str]
    """Channels, by name."""
    clients: list[tuple[str, str, Role, int]]
    """Process, client, role, number of connections."""


@dataclass(frozen=True, slots=True)
class Here:
    """A registered connection of this process."""

    connection_id: str
    key: str
    client_id: str
    role: Role


def arrive(
    bundle: Bundle,
    role: Role,
    connection_id: str,
    *,
    worker: str,
    lease_ms: int,
    here: Callable[[], list[Here]],
) -> Arrival:
    """Register a client and note its connection.

    :param lease_ms: the lease that the process gets if this is its very first sign of life, or the
        first one since others took it for dead.
    :param here: gives its connections, which are noted again then.

    :raises RelayError: see :func:`relay.directory.register`; nothing is changed then.
    """
    with transaction.atomic(using=ALIAS):
        client = directory.register(bundle, role)
        workers = Worker.objects.using(ALIAS)
        row = workers.filter(name=worker).first()
        if row is None:
            row = workers.create(name=worker, lease_until=_now() + lease_ms)
            _note(row, here())
        Connection.objects.using(ALIAS).create(
            connection_id=uuid.UUID(connection_id),
            client_key=client.id_key,
            client_id=client.client_id,
            role=role.value,
            worker=row,
        )
        return Arrival(
            client_id=client.client_id,
            key=client.id_key,
            waiting=mailbox.waiting(client.id_key),
            has_statuses=StoredStatus.objects.using(ALIAS)
            .filter(sender_key=client.id_key)
            .exists(),
        )


def depart(connections: list[tuple[str, str]]) -> None:
    """Forget connections, each given by its id and its client's key."""
    with transaction.atomic(using=ALIAS):
        ids = [uuid.UUID(connection_id) for connection_id, _ in connections]
        Connection.objects.using(ALIAS).filter(connection_id__in=ids).delete()
        keys = sorted({key for _, key in connections})
        Client.objects.using(ALIAS).filter(id_key__in=keys).update(last_seen=timezone.now())


def renew(worker: str, channel: str, lease_ms: int, here: Callable[[], list[Here]]) -> None:
    """Say that this process lives, and where it is reached.

    :param here: gives its connections: where others took it for dead they are noted again.
    """
    with transaction.atomic(using=ALIAS):
        row, is_new = Worker.objects.using(ALIAS).update_or_create(
            name=worker, defaults={"channel": channel, "lease_until": _now() + lease_ms}
        )
        if is_new:
            _note(row, here())


def stop(worker: str) -> None:
    """Forget this process and its connections."""
    Worker.objects.using(ALIAS).filter(name=worker).delete()


def bury_dead() -> list[str]:
    """Forget processes whose lease is over, with connections and claims; return their names."""
    with transaction.atomic(using=ALIAS):
        dead = Worker.objects.using(ALIAS).filter(lease_until__lt=_now()).order_by("pk")
        names = list(dead.select_for_update(skip_locked=True).values_list("name", flat=True))
        if names:
            Worker.objects.using(ALIAS).filter(name__in=names).delete()
        mailbox.free_claims()
    return names


def others(worker: str) -> Others:
    """Return the other processes that live, and whom they have."""
    alive = Worker.objects.using(ALIAS).filter(lease_until__gte=_now()).exclude(name=worker)
    workers = dict(alive.exclude(channel="").values_list("name", "channel"))
    clients = (
        Connection.objects.using(ALIAS)
        .filter(worker__name__in=workers)
        .order_by()
        .values_list("worker__name", "client_key", "role")
        .annotate(count=Count("pk"))
    )
    return Others(workers, [(name, key, Role(role), count) for name, key, role, count in clients])


def _note(worker: Worker, here: list[Here]) -> None:
    """Note a process's connections."""
    Connection.objects.using(ALIAS).bulk_create(
        [
            Connection(
                connection_id=uuid.UUID(one.connection_id),
                client_key=one.key,
                client_id=one.client_id,
                role=one.role.value,
                worker=worker,
            )
            for one in here
        ],
        ignore_conflicts=True,
    )


def _now() -> int:
    """Return the time in milliseconds since the epoch, the same for all processes."""
    if connections[ALIAS].vendor != "postgresql":
        return time.time_ns() // 1_000_000  # they share a file, and so a machine
    with connections[ALIAS].cursor() as cursor:
        cursor.execute("SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint")
        (now,) = cursor.fetchone()
    return int(now)
