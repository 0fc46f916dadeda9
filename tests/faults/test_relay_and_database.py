"""The relay killed with an order in its mailbox, and the bank's database taken away for a while."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Iterator

import pytest
from django.db import connections

from bank.models import Order
from clients.customer import OrderState
from clients.storage import StateDirectory
from protocol.banking import Transfer
from protocol.client_exchange import Stage
from relay.models import Mail
from tests.databases import TestDatabases
from tests.faults.customers import ada
from tests.faults.plan import PlannedOrder, random_orders
from tests.faults.reconciliation import differences, total_of_customers
from tests.installation import ADA, Installation
from tests.integration.database_troubles import database_away, writers_wait

ORDER = PlannedOrder(0, Transfer("account1", "account2", "100", memo="order 0"), None)


@pytest.mark.parametrize("sender", ["stays", "leaves"])
def test_an_order_in_the_mailbox_of_a_killed_relay_is_booked_once(
    installation: Installation, sender: str
) -> None:
    server = installation.start_server()
    installation.start_bank().stop()
    state = StateDirectory(installation.state_of(ADA))

    async def order_while_the_bank_is_away() -> None:
        async with ada(installation) as session:
            task = asyncio.create_task(session.customer.submit(ORDER.order))
            while not (unfinished := state.unfinished()):
                await asyncio.sleep(0.01)
            order_id = unfinished[0].order_id
            while session.client.stage_of(order_id) is not Stage.QUEUED:
                await asyncio.sleep(0.01)
            server.kill()
            if sender == "leaves":
                task.cancel()
                await asyncio.wait({task})
                return
            await asyncio.to_thread(installation.start_server)
            await asyncio.to_thread(installation.start_bank)
            assert (await task).state is OrderState.ACCEPTED

    async def come_back() -> None:
        async with ada(installation) as session:
            # The reply waits in Ada's own mailbox; nothing has to be sent again.
            while state.unfinished():
                await asyncio.sleep(0.01)
            await session.customer.flush()

    asyncio.run(asyncio.wait_for(order_while_the_bank_is_away(), 60))
    if sender == "leaves":
        assert [record.order_id for record in state.unfinished()]
        assert Mail.objects.count() == 1
        installation.start_server()
        installation.start_bank()
        asyncio.run(asyncio.wait_for(come_back(), 60))
    assert differences(ADA, state, [ORDER]) == []
    installation.verify_ledger()


@contextlib.contextmanager
def taken_away(databases: TestDatabases) -> Iterator[None]:
    """Take the bank's database away as its vendor can lose it: no connections, or no lock."""
    trouble = database_away if databases.vendor == "postgresql" else writers_wait
    with trouble(databases):
        yield


def test_no_order_is_lost_while_the_database_is_away(
    installation: Installation, fresh_databases: TestDatabases
) -> None:
    orders = random_orders(40, random.Random(20))
    total = total_of_customers()
    connections.close_all()  # those of this process would break as well
    state = StateDirectory(installation.state_of(ADA))
    installation.start_server()
    bank = installation.start_bank()

    async def place(some: list[PlannedOrder]) -> None:
        async with ada(installation) as session:
            results = await asyncio.gather(
                *(session.customer.submit(planned.order) for planned in some)
            )
            assert OrderState.UNKNOWN not in {result.state for result in results}

    async def place_through_the_trouble() -> None:
        await place(orders[:10])
        away = taken_away(fresh_databases)
        await asyncio.to_thread(away.__enter__)
        task = asyncio.create_task(place(orders[10:]))
        await asyncio.sleep(2)
        assert not task.done()
        assert len(state.unfinished()) == 30
        await asyncio.to_thread(away.__exit__, None, None, None)
        await task

    asyncio.run(asyncio.wait_for(place_through_the_trouble(), 90))
    assert bank.is_alive
    assert Order.objects.filter(person__client_id=ADA).count() == len(orders)
    assert differences(ADA, state, orders) == []
    assert total_of_customers() == total
    installation.verify_ledger()
