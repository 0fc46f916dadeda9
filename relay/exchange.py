"""The exchange of one process: what becomes of each message, and what its sender is told.

A message is delivered at once to whoever is here and has room; everything else goes through the
mailbox. While mail waits for a recipient new messages queue behind it, so the messages of one
sender stay in order. Only a message that was sent again waits alone for the acknowledgement of the
first one. Nothing here waits: the database answers by a call.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final, Protocol

import structlog
from django.db import DatabaseError

from protocol.errors import Code
from protocol.frames import Kind, Role, Send, State
from relay import mailbox
from relay.connection import Connection
from relay.database import DatabaseThread
from relay.limits import RelayLimits
from relay.mailbox import Outcome, Settled, Store
from relay.mailbox_writer import MailboxWriter
from relay.messages import Ended, Message, RemoteOrigin
from relay.metrics import counters
from relay.presence import LocalClient, Presence

__all__ = ["Elsewhere", "Exchange"]

log = structlog.get_logger(__name__)

POSITIONS_PER_MS: Final = 1_000
"""Positions of messages count on from the time, so that they go on rising over restarts."""

_REFUSALS: Final = {
    Outcome.UNKNOWN_RECIPIENT: Code.UNKNOWN_RECIPIENT,
    Outcome.RECIPIENT_ABSENT: Code.RECIPIENT_ABSENT,
    Outcome.MAILBOX_FULL: Code.MAILBOX_FULL,
    Outcome.FAILED: Code.OVERLOADED,
}


class Elsewhere(Protocol):
    """The other processes of the relay, as far as an exchange needs them."""

    def forward(self, message: Message, *, taken_here: bool) -> bool:
        """Pass a message on to where its recipient is connected; False if that is nowhere."""

    def report(self, message: Message, state: State, code: Code | None) -> bool:
        """Tell the process that a message came from what became of it; False if it is gone."""

    def settled(self, message: Message) -> None:
        """Tell the processes that were given the message too that it needs no delivery any more."""

    def mail_stored(self, recipient_key: str) -> None:
        """Tell where the recipient is connected that mail has come."""

    def status_kept(self, sender_key: str) -> None:
        """Tell where the sender is connected that a status waits."""

    def drained(self, recipient_key: str, through: int) -> None:
        """Tell everybody that all mail of a client is handed out."""

    def announce(self, client: LocalClient) -> None:
        """Tell everybody how many connections of a client are here now."""


class Exchange:
    """Routes messages between the clients of this process, the mailbox and other processes."""

    def __init__(
        self,
        *,
        name: str,
        limits: RelayLimits,
        database: DatabaseThread,
        clock: Callable[[], int],
    ) -> None:
        """:param name: this process's name, under which it claims mail for its services."""
        self.name = name
        self.limits = limits
        self.presence = Presence()
        self.writer = MailboxWriter(database, limits, clock)
        self.elsewhere: Elsewhere | None = None
        self._database = database
        self._clock = clock
        self._position = 0
        self._tasks: set[asyncio.Task[None]] = set()

    # A sender's message.

    def accept(self, sender: Connection, client_id: str, frame: Send, now: int) -> None:
        """Take a message from a client of this process."""
        counters.accepted += 1
        # What is stored only after its connection was lost keeps its place before later messages.
        self._position = max(self._position + 1, now * POSITIONS_PER_MS)
        self.route(
            Message.accepted(frame, client_id, sender, position=self._position, now=now), now
        )

    def route(self, message: Message, now: int) -> None:
        """Deliver a message, or store it."""
        key = message.recipient_key
        if key in self.presence.backlogs:
            self.store(message)
            return
        client = self.presence.local.get(key)
        taken = client is not None and client.offer(message, now)
        if self.elsewhere is not None and not isinstance(message.origin, RemoteOrigin):
            taken = self.elsewhere.forward(message, taken_here=taken) or taken
        if not taken:
            self.store(message)

    def store(self, message: Message) -> None:
        """Put a message into the mailbox; its sender hears of it after the commit."""
        key = message.recipient_key
        if message.is_immediate and key in self.presence.local:
            self.fail(message, Code.OVERLOADED)
            return
        # What was delivered before has no sender who could try again: it is always taken.
        if self.writer.is_full and message.attempt == 0:
            self.fail(message, Code.OVERLOADED)
            return
        self.presence.backlog(key).pending += 1
        self.writer.store(message, self._on_stored)

    def _on_stored(self, store: Store) -> None:
        message = store.message
        key = message.recipient_key
        backlog = self.presence.backlog(key)
        backlog.pending -= 1
        if store.outcome is Outcome.STORED:
            counters.stored += 1
            backlog.last_row = max(backlog.last_row, store.row)
            self.tell_queued(message)
            self.mail_came(key)
            if self.elsewhere is not None:
                self.elsewhere.mail_stored(key)
            return
        self.fail(message, _REFUSALS[store.outcome])
        self.presence.drained(key, 0)
        if key in self.presence.backlogs:
            self.mail_came(key)

    # What became of it.

    def acked(self, connection: Connection, message: Message) -> None:
        """A recipient has a message safely."""
        connection.let_go(message)
        if not message.settled:
            self.settle(message)
        client = connection.client
        if client is None:
            return
        if client.set_aside and client.set_aside.pop(message.key, None) is not None:
            self.mail_came(client.key)
        elif client.key in self.presence.backlogs:
            self.pump(client)

    def settle(self, message: Message) -> None:
        """A message is where it should be: nobody else needs to deliver it."""
        message.settled = True
        if message.row is not None:
            self.writer.settle(message, lambda settled: self._on_settled(message, settled))
        else:
            self.report(message, State.DELIVERED, None)
        if message.forwards and self.elsewhere is not None:
            self.elsewhere.settled(message)

    def _on_settled(self, message: Message, settled: Settled) -> None:
        client = self.presence.local.get(message.recipient_key)
        if client is not None and message.row is not None:
            client.rows_out.discard(message.row)
        if settled is not Settled.ABSENT:
            self.status_kept(message.ended(State.DELIVERED))
        if settled is Settled.RENEWED:
            self.mail_came(message.recipient_key)

    def report(self, message: Message, state: State, code: Code | None) -> None:
        """Tell the sender of a message that was not in the mailbox what became of it."""
        origin = message.origin
        if isinstance(origin, RemoteOrigin) and self._report_elsewhere(message, state, code):
            return
        ended = message.ended(state, code)
        if not ended.is_told or state is State.QUEUED:
            return
        if isinstance(origin, Connection) and origin.is_open:
            origin.status(ended, stored=False)
        else:
            self.writer.keep_status(ended, lambda: self.status_kept(ended))

    def _report_elsewhere(self, message: Message, state: State, code: Code | None) -> bool:
        return self.elsewhere is not None and self.elsewhere.report(message, state, code)

    def fail(self, message: Message, code: Code) -> None:
        """Give a message up."""
        origin = message.origin
        was_delivered = message.attempt > 0 or code is Code.PEER_GONE
        if not was_delivered and isinstance(origin, Connection):
            origin.refuse(code, answers=message.id)
        else:
            self.report(message, State.FAILED, code)

    def tell_queued(self, message: Message) -> None:
        """Tell the sender that a message is stored durably."""
        origin = message.origin
        if isinstance(origin, RemoteOrigin):
            self.report(message, State.QUEUED, None)
        elif isinstance(origin, Connection) and message.kind is not Kind.REPLY:
            origin.queued(message)

    def status_kept(self, ended: Ended) -> None:
        """A status was stored: tell it to the sender wherever he is."""
        if not ended.is_told:
            return
        client = self.presence.local.get(ended.sender_key)
        if client is not None:
            self._tell(client, [ended])
        elif self.elsewhere is not None:
            self.elsewhere.status_kept(ended.sender_key)

    # Connections come and go.

    def joined(self, client: LocalClient, *, mail: bool, statuses: bool) -> None:
        """A client registered: give it what waits."""
        if self.elsewhere is not None:
            self.elsewhere.announce(client)
        if mail or client.key in self.presence.backlogs:
            self.mail_came(client.key)
        if statuses:
            self.statuses_came(client.key)

    def left(self, connection: Connection) -> None:
        """A connection is gone: what it had and did not acknowledge is delivered again."""
        client = connection.client
        connection.machine.lost()
        if client is None:
            return
        connection.client = None
        self.presence.leave(connection, client)
        if self.elsewhere is not None:
            self.elsewhere.announce(client)
        unclaimed: list[int] = []
        found_again = False
        for message in connection.machine.give_back():
            connection.let_go(message)
            if client.set_aside.pop(message.key, None) is not None:
                found_again = True
            if message.settled or message.holders > 0:
                continue
            if message.row is None:
                message.attempt += 1
                self._deliver_again(message, client, connection.role)
            else:
                client.rows_out.discard(message.row)
                unclaimed.append(message.row)
        if unclaimed and connection.role is Role.SERVICE and not client.services:
            self.writer.unclaim(unclaimed)
        if unclaimed or found_again or client.key in self.presence.backlogs:
            self.mail_came(client.key)

    def _deliver_again(self, message: Message, client: LocalClient, role: Role | None) -> None:
        if message.forwards:
            return  # another process has it as well, and will say what became of it
        if message.is_immediate:
            self.report(message, State.FAILED, Code.PEER_GONE)
        elif role is Role.SERVICE and client.key not in self.presence.backlogs:
            if not client.connections or not client.offer(message, self._clock()):
                self.store(message)
        else:
            self.store(message)

    # The mailbox.

    def mail_came(self, key: str) -> None:
        """There may be mail for a client; if it is here, see to it."""
        client = self.presence.local.get(key)
        if client is not None:
            client.hints += 1
            self.presence.backlog(key)
            self.pump(client)

    def pump(self, client: LocalClient) -> None:
        """Hand out mail as far as the client's connections have room, in a task of its own."""
        if not client.pumping and client.has_room:
            client.pumping = True
            self._start(self._pump(client))

    async def _pump(self, client: LocalClient) -> None:
        try:
            while client.has_room and client.key in self.presence.backlogs:
                if await self._hand_out_page(client):
                    return
        except DatabaseError as error:
            # The next sweep finds the mail again.
            log.error("mailbox.read_failed", error=type(error).__name__)
        finally:
            client.pumping = False

    async def _hand_out_page(self, client: LocalClient) -> bool:
        """Hand out the oldest mail; return whether to stop for now."""
        backlog = self.presence.backlog(client.key)
        hints, all_committed = client.hints, backlog.pending == 0
        count = min(mailbox.PAGE_MESSAGES_MAX, max(one.machine.room for one in client.connections))
        claim = self.name if client.services else ""
        messages = await self._database.run(
            mailbox.page,
            client.key,
            exclude=client.rows_seen,
            count=count,
            claim=claim,
            now=self._clock(),
        )
        for place, message in enumerate(messages):
            if not self._hand_out(client, message):
                if claim:
                    self._unclaim(messages[place:])
                return True
        if len(messages) < count and hints == client.hints:
            if all_committed and backlog.pending == 0:
                self._exhausted(client)
            return True
        return False

    def _hand_out(self, client: LocalClient, message: Message) -> bool:
        assert message.row is not None  # it comes out of the mailbox
        if not client.connections or message.row in client.rows_out:
            return bool(client.connections)
        # The database has counted this attempt already, in case the process ends here.
        if client.offer(message, self._clock()):
            client.rows_out.add(message.row)
            return True
        # No room, unless the recipient is about to acknowledge what was sent before under this id:
        # that is no reason for letting others wait.
        if client.awaits_ack(message):
            self._set_aside(client, message, message.row)
            return True
        return False

    def _set_aside(self, client: LocalClient, message: Message, row: int) -> None:
        """Leave a message in the mailbox until the earlier one of its name is done with."""
        client.set_aside[message.key] = row
        if client.services:
            self._unclaim([message])

    def _unclaim(self, messages: list[Message]) -> None:
        """Let go of mail that no service here takes now: one at another process may."""
        self.writer.unclaim([message.row for message in messages if message.row is not None])

    def _exhausted(self, client: LocalClient) -> None:
        backlog = self.presence.backlogs.pop(client.key, None)
        if backlog is not None and self.elsewhere is not None:
            # What is set aside keeps nobody waiting, at other processes neither.
            self.elsewhere.drained(client.key, max({backlog.last_row} | client.rows_seen))

    def statuses_came(self, key: str) -> None:
        """There are statuses for a client; if it is here, tell it."""
        client = self.presence.local.get(key)
        if client is None:
            return
        client.status_hints += 1
        if client.status_hints == 1:
            self._start(self._tell_statuses(client))

    async def _tell_statuses(self, client: LocalClient) -> None:
        try:
            told = 0
            while told != client.status_hints:
                told = client.status_hints
                page = await self._database.run(mailbox.statuses, client.key)
                client.has_more_statuses = len(page) == mailbox.STATUS_PAGE_MAX
                self._tell(client, [one for one in page if one.id not in client.forgetting])
        except DatabaseError as error:
            log.error("statuses.read_failed", error=type(error).__name__)
        finally:
            client.status_hints = 0

    def _tell(self, client: LocalClient, page: list[Ended]) -> None:
        for ended in page:
            for connection in list(client.connections):
                if connection.machine.statuses_unacked < self.limits.statuses_max:
                    connection.status(ended, stored=True)
                else:  # it stays in the database, and so does not wait here, too, for ever
                    client.has_more_statuses = True

    def status_acked(self, connection: Connection, message_id: str) -> None:
        """A sender knows what became of his message."""
        client = connection.client
        if client is None:
            return
        client.forgetting.add(message_id)
        self.writer.forget_status(
            client.key, message_id, lambda: client.forgetting.discard(message_id)
        )
        if client.has_more_statuses and not connection.machine.statuses_unacked:
            self.statuses_came(client.key)

    # Tasks.

    def _start(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
