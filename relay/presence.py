"""Who is connected: here, by object; at other processes, by what they announced and the database.

And whether mail waits for somebody who is here: while it does, new messages queue behind it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from protocol.frames import Role
from relay.messages import Message, MessageKey

if TYPE_CHECKING:  # the connection needs the exchange, which needs this module
    from relay.connection import Connection

__all__ = ["Backlog", "LocalClient", "Presence"]

BACKLOGS_MAX: Final = 10_000


class LocalClient:
    """A client's connections to this process."""

    __slots__ = (
        "connections",
        "forgetting",
        "has_more_statuses",
        "hints",
        "id",
        "key",
        "pumping",
        "rows_out",
        "set_aside",
        "status_hints",
    )

    def __init__(self, key: str, client_id: str) -> None:
        self.key = key
        self.id = client_id
        self.connections: list[Connection] = []
        self.rows_out: set[int] = set()
        """Rows of the mailbox that are delivered and not acknowledged yet."""
        self.set_aside: dict[MessageKey, int] = {}
        """Rows that wait until a delivery with their sender and id is acknowledged or given back.

        Each belongs to something that is in flight, so there are never more of them than of that.
        """
        self.pumping = False
        self.hints = 0
        """How often somebody said that mail may have come: so a pump knows if it missed one."""
        self.status_hints = 0
        """The same for statuses, while they are being told; else 0."""
        self.forgetting: set[str] = set()
        """Statuses that were acknowledged and are about to be deleted."""
        self.has_more_statuses = False
        """Whether more statuses wait than were told at once."""

    @property
    def services(self) -> list[Connection]:
        """The connections among which each message goes to one."""
        return [one for one in self.connections if one.role is Role.SERVICE]

    @property
    def has_room(self) -> bool:
        """Whether a message could be delivered now."""
        return any(one.machine.room > 0 for one in self.services or self.connections)

    @property
    def rows_seen(self) -> set[int]:
        """Rows of the mailbox that need not be read for now."""
        return self.rows_out.union(self.set_aside.values())

    def offer(self, message: Message, now: int) -> bool:
        """Deliver to whom it belongs: the least busy service, or every connection of a person.

        :returns: False where no connection had room.
        """
        connections = self.connections
        if len(connections) == 1:
            return connections[0].offer(message, now)
        services = self.services
        if services:
            services.sort(key=_business)
            return any(service.offer(message, now) for service in services)
        taken = [connection.offer(message, now) for connection in list(connections)]
        return any(taken)

    def awaits_ack(self, message: Message) -> bool:
        """Return whether one of those to whom it belongs has it, and hasn't acknowledged it yet."""
        return any(
            one.machine.awaits_ack(message.sender, message.id)
            for one in self.services or self.connections
        )


def _business(connection: Connection) -> int:
    return connection.machine.unacked


@dataclass(slots=True)
class Backlog:
    """What this process knows of the mail that waits for one client."""

    pending: int = 0
    """Messages handed to the database and not committed yet."""
    last_row: int = 0
    """The newest row that this process stored."""


@dataclass(slots=True)
class RemoteClient:
    """A client's connections to other processes: how many, by the process's name."""

    role: Role
    workers: dict[str, int] = field(default_factory=dict)


class Presence:
    """The replica of one process."""

    def __init__(self) -> None:
        self.local: dict[str, LocalClient] = {}
        self.remote: dict[str, RemoteClient] = {}
        self.backlogs: dict[str, Backlog] = {}

    def join(self, connection: Connection, key: str, client_id: str) -> LocalClient:
        """Add a connection."""
        client = self.local.get(key)
        if client is None:
            client = self.local[key] = LocalClient(key, client_id)
        client.connections.append(connection)
        return client

    def leave(self, connection: Connection, client: LocalClient) -> None:
        """Remove this connection, and no other one of its client."""
        client.connections.remove(connection)
        if not client.connections and self.local.get(client.key) is client:
            del self.local[client.key]

    def backlog(self, key: str) -> Backlog:
        """Return what is known of the mail for a client, from now on expecting some."""
        backlog = self.backlogs.get(key)
        if backlog is None:
            self._bound_backlogs()
            backlog = self.backlogs[key] = Backlog()
        return backlog

    def drained(self, key: str, through: int) -> None:
        """All mail up to row ``through`` was handed out: nothing queues behind it any more."""
        backlog = self.backlogs.get(key)
        if backlog is not None and not backlog.pending and backlog.last_row <= through:
            del self.backlogs[key]

    def workers_of(self, key: str) -> list[str]:
        """Return the other processes where the client is connected."""
        client = self.remote.get(key)
        return list(client.workers) if client is not None else []

    def is_remote_service(self, key: str) -> bool:
        """Return whether the client is connected elsewhere as a service."""
        client = self.remote.get(key)
        return client is not None and client.role is Role.SERVICE

    def set_remote(self, worker: str, key: str, role: Role, count: int) -> None:
        """Learn how many connections of a client a process has."""
        client = self.remote.get(key)
        if count > 0:
            if client is None:
                client = self.remote[key] = RemoteClient(role)
            client.role = role
            client.workers[worker] = count
        elif client is not None:
            client.workers.pop(worker, None)
            if not client.workers:
                del self.remote[key]

    def replace_remote(self, rows: Iterable[tuple[str, str, Role, int]]) -> None:
        """Take over what the database says of all other processes: worker, client, role, count."""
        self.remote = {}
        for worker, key, role, count in rows:
            self.set_remote(worker, key, role, count)

    def forget_worker(self, worker: str) -> None:
        """A process is gone, and all its connections with it."""
        for key in [key for key, client in self.remote.items() if worker in client.workers]:
            self.set_remote(worker, key, Role.PERSON, 0)

    def connections(self) -> Iterator[Connection]:
        """Yield every registered connection of this process."""
        for client in list(self.local.values()):
            yield from list(client.connections)

    def _bound_backlogs(self) -> None:
        # Whoever is nowhere gets everything by the mailbox anyway: for him it need not be known.
        if len(self.backlogs) < BACKLOGS_MAX:
            return
        for key, backlog in list(self.backlogs.items()):
            if key not in self.local and key not in self.remote and not backlog.pending:
                del self.backlogs[key]
