"""Two processes of the relay that write to the same rows of the mailbox, each in its own order."""

from __future__ import annotations

import asyncio
import threading

import pytest
from django.db import connections, transaction

from protocol.frames import Kind
from relay import mailbox
from relay.database import DatabaseThread
from relay.limits import RelayLimits
from relay.mailbox import Batch, Outcome, Settled, Store
from relay.mailbox_writer import MailboxWriter
from relay.messages import Message
from relay.models import Client, Mail
from tests.databases import TestDatabases
from tests.races.threads import PATIENCE_SECONDS, wait_until_somebody_waits_for_a_lock
from tests.relay.peer import new_id

NOW = 1_800_000_000_000


@pytest.fixture
def limits(postgres_databases: TestDatabases) -> RelayLimits:
    Client.objects.create(client_id="ben", identity_key=bytes(32), fingerprint="ben", bundle={})
    return RelayLimits.from_settings()


def message(message_id: str, body: str, position: int) -> Message:
    return Message(
        id=message_id,
        sender="ada",
        recipient="ben",
        kind=Kind.NOTICE,
        re=None,
        body=body,
        accepted_at=NOW,
        expires_at=NOW + 60_000,
        position=position,
    )


def two_in_the_mailbox(limits: RelayLimits) -> list[Message]:
    stores = [Store(message(new_id(), "first", place)) for place in range(2)]
    mailbox.apply(Batch(stores=stores), limits, NOW)
    return mailbox.page("ben", exclude=(), count=2, claim="", now=NOW)


def hold_in_turn(first: int, second: int, held: threading.Event) -> None:
    """Lock one row, and another one once somebody waits for the first."""
    try:
        with transaction.atomic(using="relay"):
            with connections["relay"].cursor() as cursor:
                cursor.execute("SET LOCAL deadlock_timeout = '15s'")  # the other side gives way
            list(Mail.objects.select_for_update().filter(pk=first))
            held.set()
            wait_until_somebody_waits_for_a_lock()
            list(Mail.objects.select_for_update().filter(pk=second))
    finally:
        connections.close_all()


async def test_a_batch_that_was_given_up_for_a_deadlock_is_written_again(
    limits: RelayLimits,
) -> None:
    database = DatabaseThread()
    first, second = await database.run(two_in_the_mailbox, limits)
    assert first.row is not None
    assert second.row is not None
    held = threading.Event()
    holding = asyncio.create_task(asyncio.to_thread(hold_in_turn, first.row, second.row, held))
    await asyncio.to_thread(held.wait, PATIENCE_SECONDS)

    writer = MailboxWriter(database, limits, lambda: NOW)
    stored: list[Outcome] = []
    settled: list[Settled] = []
    writer.store(message(second.id, "again", 9), lambda store: stored.append(store.outcome))
    writer.settle(first, settled.append)
    writing = asyncio.create_task(writer.run())
    await asyncio.wait_for(writer.flush(), PATIENCE_SECONDS)
    await holding
    assert stored == [Outcome.STORED]
    assert settled == [Settled.DELETED]
    writing.cancel()
    await database.close()
