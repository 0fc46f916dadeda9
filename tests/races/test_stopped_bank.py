"""A process of the bank that is stopped in the middle of a booking: its locks must not outlive it.

The operating system can stop a process at any time (SIGSTOP, a frozen container, a computer that is
gone), and its transaction is then neither committed nor undone. PostgreSQL is told to undo it after
a while; the control shows what happens where it isn't.
"""

from __future__ import annotations

import asyncio
import io
import signal
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import psycopg
import pytest
from django.core.management import call_command
from django.db import connection, connections

from bank.models import Order
from bank.verification.problems import Problem
from clients.customer import OrderResult, OrderState
from clients.session import Session
from protocol.banking import Transfer
from tests.databases import TestDatabases
from tests.faults.customers import ada
from tests.installation import ADA, Installation, RunningProgram, installed

SECONDS = 60
Ordered = asyncio.Task[OrderResult]
FIRST, SECOND = Transfer("account1", "account2", "1"), Transfer("account1", "account3", "2")


@dataclass
class Scene:
    """A bank on PostgreSQL, and what is known of its sessions there."""

    installation: Installation
    url: str

    def sessions(self, condition: str) -> int:
        """Return how many sessions of the bank's database are in some state now."""
        with psycopg.connect(self.url) as observer:
            row = observer.execute(
                "SELECT count(*) FROM pg_stat_activity "
                f"WHERE datname = current_database() AND {condition}"
            ).fetchone()
        assert row is not None
        return int(row[0])

    async def until_there_is(self, condition: str) -> None:
        """Wait until a session is in that state."""
        async with asyncio.timeout(SECONDS):
            while not self.sessions(condition):
                await asyncio.sleep(0.02)

    @contextmanager
    def holding_account1(self) -> Iterator[None]:
        """Hold a lock that every one of the orders needs."""
        with psycopg.connect(self.url) as holder:
            holder.execute("SELECT 1 FROM bank_account WHERE number = 'account1' FOR UPDATE")
            yield

    async def stop_while_it_books(self, session: Session, bank: RunningProgram) -> Ordered:
        """Stop the bank when it holds the locks of the first order and has written nothing yet."""
        with self.holding_account1():
            first = asyncio.create_task(session.customer.submit(FIRST))
            await self.until_there_is("wait_event_type = 'Lock'")
            bank.process.send_signal(signal.SIGSTOP)
        await self.until_there_is("state = 'idle in transaction'")
        return first


@pytest.fixture
def scene(
    request: pytest.FixtureRequest, postgres_databases: TestDatabases, tmp_path: Path
) -> Iterator[Scene]:
    """The demo's bank; the parameter is how long PostgreSQL waits for a silent transaction."""
    with installed(postgres_databases, tmp_path / "place") as installation:
        option = quote(f"-c idle_in_transaction_session_timeout={request.param}")
        url = postgres_databases.default_url
        installation.environment["TELLERWIRE_DATABASE_URL"] = f"{url}?options={option}"
        installation.start_server()
        yield Scene(installation, url)


def assert_both_are_booked_once(scene: Scene, *banks: RunningProgram) -> None:
    assert Order.objects.filter(person__client_id=ADA).count() == 2
    scene.installation.verify_ledger()
    for bank in banks:
        assert bank.stop() == 0
        assert "Traceback" not in bank.text()


def order_while_one_is_stopped(
    scene: Scene, before_it_goes_on: Callable[[Ordered, Ordered], Awaitable[None]]
) -> None:
    """Order at a bank that is stopped, then at another one; let the first go on at the end."""
    stopped = scene.installation.start_bank("stopped")

    async def order() -> None:
        async with ada(scene.installation) as session:
            first = await scene.stop_while_it_books(session, stopped)
            other = await asyncio.to_thread(scene.installation.start_bank, "other")
            second = asyncio.create_task(session.customer.submit(SECOND))
            await before_it_goes_on(first, second)
            stopped.process.send_signal(signal.SIGCONT)
            results = await asyncio.gather(first, second)
            assert {result.state for result in results} == {OrderState.ACCEPTED}
            await asyncio.to_thread(assert_both_are_booked_once, scene, stopped, other)

    asyncio.run(asyncio.wait_for(order(), SECONDS))


@pytest.mark.parametrize("scene", ["1s"], indirect=True)
def test_the_locks_of_a_stopped_bank_do_not_outlive_it(scene: Scene) -> None:
    async def both_end(first: Ordered, second: Ordered) -> None:
        await asyncio.gather(first, second)

    order_while_one_is_stopped(scene, both_end)


@pytest.mark.parametrize("scene", ["0"], indirect=True)
def test_control_without_that_everybody_waits_until_it_goes_on(scene: Scene) -> None:
    async def the_second_waits(_: Ordered, second: Ordered) -> None:
        await scene.until_there_is("wait_event_type = 'Lock'")
        await asyncio.sleep(3)
        assert not second.done()

    order_while_one_is_stopped(scene, the_second_waits)


def test_every_connection_has_the_bounds(postgres_databases: TestDatabases) -> None:
    for alias in postgres_databases.settings():
        connections[alias].ensure_connection()
        given = connections[alias].connection.info.get_parameters()
        assert given["options"] == "-c idle_in_transaction_session_timeout=30s"
        # 10 s until the first question, four of them: 30 s until a lost server is noticed.
        assert (given["keepalives_idle"], given["keepalives_interval"]) == ("10", "5")
        assert (given["keepalives_count"], given["tcp_user_timeout"]) == ("4", "30000")


def test_a_verification_may_wait_for_whoever_reads_it(
    postgres_databases: TestDatabases, monkeypatch: pytest.MonkeyPatch
) -> None:
    bounds = []

    def look(*_: object, **__: object) -> Iterator[Problem]:
        with connection.cursor() as cursor:
            cursor.execute("SHOW idle_in_transaction_session_timeout")
            bounds.append(cursor.fetchone())
        yield from ()

    monkeypatch.setattr("bank.management.commands.verify_ledger.verify_ledger", look)
    list(look())
    call_command("verify_ledger", stdout=io.StringIO())
    assert bounds == [("30s",), ("0",)]
